"""Train the demo UNet, resumably: weights, moving average and optimizer are in FOLDER/unet.pt."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .build import build_unet
from .codes import CodeBasis
from .latents import Basis
from .roles import initialise, prepare_for_training, slot_loss, trainable
from .samples import Batch, Drawer, Samples
from .state import Checkpoint

COARSE_WEIGHT = (
    2.0  # of means over 4x4 cells: they hold the colours' error and little of the unknowable noise
)
SLOT_WEIGHT, LEVEL_WEIGHT = 0.1, 0.05


def level_share(hidden: Tensor) -> Tensor:
    """Share of each norm group's variance that lies between its channels' levels; hidden (batch, c, h, w).

    With two channels a group, GroupNorm turns levels into mere signs where they outweigh the spatial variation, and
    colours saturate. Keeping this share small keeps the last norm nearly linear.
    """
    groups = hidden.float().reshape(len(hidden), 32, -1, hidden.shape[2] * hidden.shape[3])
    between = groups.mean(3).var(2, unbiased=False)
    return (between / (groups.var((2, 3), unbiased=False) + 1e-4)).mean()


class Objective(nn.Module):
    """Weighted v error, the slot loss of the slotted blocks, and the level share at the last norm."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet, self.processors = unet, prepare_for_training(unet)
        unet.conv_norm_out.register_forward_pre_hook(lambda _, inputs: self.last.append(inputs[0]))
        self.last: list[Tensor] = []

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The whole loss, and its parts: v error, slots, levels."""
        device = batch.noisy.device
        width = self.unet.config.projection_class_embeddings_input_dim - 6 * 256
        added = {
            "text_embeds": torch.zeros(len(batch.noisy), width, device=device),
            "time_ids": torch.zeros(len(batch.noisy), 6, device=device),
        }
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            guess = self.unet(
                batch.noisy, batch.times, encoder_hidden_states=batch.context, added_cond_kwargs=added
            ).sample
        miss = (guess.float() - batch.target) * batch.weight.sqrt()
        error = (miss**2).mean()
        coarse = (nn.functional.avg_pool2d(miss, 4) ** 2).mean()
        slots = torch.stack([slot_loss(p.logits, batch.told) for p in self.processors]).mean()
        levels = level_share(self.last.pop())
        whole = error + COARSE_WEIGHT * coarse + SLOT_WEIGHT * slots + LEVEL_WEIGHT * levels
        return whole, error, slots, levels


class UnetTrainer:
    """The UNet and everything that its training needs."""

    def __init__(
        self,
        folder: Path,
        basis: Basis,
        codes: CodeBasis,
        device: str = "cpu",
        batch: int = 8,
        rate: float = 1e-3,
        average: float = 0.9985,
        encoded: bool = False,
    ) -> None:
        """encoded: samples come as FOLDER/codes alone, made beside the training."""
        torch.manual_seed(0)
        self.unet, self.rate = build_unet(in_channels=basis.channels, out_channels=basis.channels), rate
        initialise(self.unet)
        self.unet.to(device)
        named, masks = trainable(self.unet)
        self.objective = Objective(self.unet)
        known = dict(self.unet.named_parameters())
        named = {name: p for name, p in named.items() if name in known}
        self.checkpoint = Checkpoint(folder / "unet.pt", named, rate, average, masks)
        self.samples = Samples(
            folder, basis.to(device), device, limit=400_000 if encoded else 40_000, encoded=encoded
        )
        self.samples.refresh()
        self.draw = Drawer(self.samples, codes, batch)
        self.means: list[float] = []  # of the last hundred steps: whole loss, v error, slots, levels

    def run(self, minutes: float, fall: float = 0.0, most: int = 1) -> None:
        """Train for some minutes. fall: the share of them over which the rate falls to a thirtieth (0: it stays);
        most: how many new shards are taken in every fifty steps.
        """
        state, began, saved = self.checkpoint, time.time(), time.time()
        history, times = [], []
        while (share := (time.time() - began) / (60 * minutes)) < 1:
            losses = self.objective(self.draw(state.step))
            losses[0].backward()
            left = min(1.0, (1 - share) / fall) if fall else 1.0
            state.update(self.rate * max(0.03, left))
            history = [*history[-99:], torch.stack([loss.detach() for loss in losses])]
            times.append(time.time())
            if state.step % 50 == 0:
                self._report(state.step, share * minutes, torch.stack(history).mean(0).tolist(), times)
                self.samples.refresh(most)
            if time.time() - saved > 180:
                state.save()
                saved = time.time()
        self.means = torch.stack(history).mean(0).tolist() if history else []
        state.save()

    def _report(self, step: int, minutes: float, means: list[float], times: list[float]) -> None:
        recent = times[-100:]
        pace = self.draw.size * (len(recent) - 1) / max(1e-6, recent[-1] - recent[0])
        print(
            f"unet step {step} min {minutes:.1f} v {means[1]:.4f} slots {means[2]:.3f} levels {means[3]:.2f} "
            f"samples {len(self.samples)} pace {pace:.1f}/s",
            flush=True,
        )


def averaged_unet(path: Path, channels: int, device: str = "cpu") -> nn.Module:
    """The UNet with the moving average of its training (as initialised where there is none)."""
    unet = build_unet(in_channels=channels, out_channels=channels)
    initialise(unet)
    if path.exists():
        average = torch.load(path, weights_only=True, map_location="cpu")["average"]
        missing = set(average) - set(unet.state_dict())
        if missing:
            raise SystemExit(f"{path} holds tensors that this UNet lacks: {sorted(missing)[:5]}")
        unet.load_state_dict(average, strict=False)
    return unet.to(device).eval()


def seconds_per_sample(unet: nn.Module, batch: int = 8) -> float:
    """CPU seconds of forward and backward for one sample: what a change of size costs."""
    context, noisy = (
        torch.randn(batch, 77, unet.config.cross_attention_dim),
        torch.randn(batch, unet.config.in_channels, 32, 32),
    )
    width = unet.config.projection_class_embeddings_input_dim - 6 * 256
    added = {"text_embeds": torch.zeros(batch, width), "time_ids": torch.zeros(batch, 6)}
    times = []
    for _ in range(4):
        began = time.process_time()
        unet(
            noisy, torch.full((batch,), 500), encoder_hidden_states=context, added_cond_kwargs=added
        ).sample.mean().backward()
        times.append(time.process_time() - began)
    return float(np.min(times)) / batch
