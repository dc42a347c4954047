"""Train the edge ControlNet on the frozen demo UNet: as train_unet, one or two processes.

    RANK=0 WORLD_SIZE=2 python -m demo.train_control --folder FOLDER --minutes 25

It starts as a copy of the UNet's way down (as far as shapes agree) and is told the style but mostly not the glyph, so
that the edges are the only place to learn it from. Ends by writing rechar_core/demo/controlnet.safetensors.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rechar_core.demo.build import load_demo
from rechar_core.demo.extras import CONTROLNET, build_controlnet, original_name
from rechar_core.glyph.structure_map import structure_map

from . import parallel
from .catalog import ELEMENTS
from .codes import Basis, element_code, style_code
from .elements import element_mask, random_elements
from .glyphs import random_mask
from .held_out import enlarge
from .roles import Silent
from .samples import GLYPH_WEIGHT, context
from .schedule import alphas_cumprod
from .shards import draw_style
from .styles import paint

UNTOLD = 0.85  # share of samples whose glyph only the edges show
BLIND = 0.35  # share of samples whose input is noise alone, as in training of the UNet


def edges(mask: np.ndarray) -> Tensor:
    """(3, 256, 256) in 0..1: the edges of a mask (128, 128), as Structure Map draws them."""
    wide = enlarge(np.repeat(mask[..., None], 3, 2))[..., 0]
    return structure_map("canny-cv2", mask=torch.from_numpy(np.ascontiguousarray(wide))[None])[0].movedim(
        -1, 0
    )


class Drawer:
    """Renders the batch of a (process, step): noisy latents, times, context, edges, v target, weight of cells."""

    def __init__(self, folder: Path, size: int) -> None:
        self.basis, self.size = Basis.load(folder / "data" / "basis.npz"), size
        self.alphas = alphas_cumprod()

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([9, parallel.RANK, step])
        source = torch.Generator().manual_seed(step * parallel.WORLD + parallel.RANK)
        masks, pictures, styles, elements = [], [], [], []
        for _ in range(self.size):
            mask, style, names = random_mask(rng), draw_style(rng), random_elements(rng, ELEMENTS)
            masks.append(mask)
            pictures.append(paint(mask, element_mask(names, rng), style, rng))
            styles.append(style_code(style))
            elements.append(element_code(names))
        latents = torch.from_numpy(self.basis.latents(np.stack(pictures)))
        content = torch.from_numpy(self.basis.content(np.stack(masks)))
        content[torch.from_numpy(rng.random(self.size) < UNTOLD)] = 0
        ctx = context(content, *(torch.from_numpy(np.stack(code)) for code in (styles, elements)), rng)
        blind = torch.from_numpy(rng.random(self.size) < BLIND).view(-1, 1, 1, 1)
        share = torch.from_numpy(rng.random(self.size) ** 0.6)
        times = torch.where(blind.flatten(), 880 + 119 * share, 999 * share).long()
        kept = self.alphas[times].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=source)
        noisy = torch.where(blind, noise, kept.sqrt() * latents + (1 - kept).sqrt() * noise)
        target = (kept.sqrt() * noisy - latents) / (1 - kept).sqrt()
        shown = nn.functional.avg_pool2d(torch.from_numpy(np.stack(masks))[:, None], 4)
        weight = (6 / (kept / (1 - kept) + 1)).clamp(max=1) * (1 + GLYPH_WEIGHT * shown)
        return noisy, times, ctx, torch.stack([edges(mask) for mask in masks]), target, weight


def start(unet: nn.Module) -> nn.Module:
    """A ControlNet with the UNet's weights wherever names and shapes agree; it reads no text."""
    net, own = build_controlnet(), unet.state_dict()
    state = net.state_dict()
    state |= {n: t.clone() for n, t in own.items() if n in state and t.shape == state[n].shape}
    net.load_state_dict(state)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if ".attn2." in name:
                parameter.zero_().requires_grad_(False)
    return net


class Objective(nn.Module):
    """Weighted v error of the frozen UNet under the ControlNet's control."""

    def __init__(self, unet: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.unet, self.net = unet.requires_grad_(False), net
        for name, module in unet.named_modules():
            if name.endswith("attn2") and not module.to_out[0].weight.any():
                unet.get_submodule(name.rpartition(".")[0]).attn2 = Silent()

    def forward(
        self, noisy: Tensor, times: Tensor, ctx: Tensor, hint: Tensor, target: Tensor, weight: Tensor
    ) -> Tensor:
        down, middle = self.net(noisy, times, ctx, hint, return_dict=False)
        added = {"text_embeds": torch.zeros(len(noisy), 128), "time_ids": torch.zeros(len(noisy), 6)}
        guess = self.unet(
            noisy,
            times,
            encoder_hidden_states=ctx,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        return ((guess.float() - target) ** 2 * weight).mean()


def write(net: nn.Module) -> None:
    """The shipped file: fp16 under the original names, which ComfyUI's ControlNet loader reads."""
    state = {original_name(name): tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    partial = CONTROLNET.with_suffix(".partial")
    save_file(state, partial)
    partial.chmod(0o644)
    partial.rename(CONTROLNET)


class Trainer:
    """ControlNet, optimizer and moving average; all of it is kept in FOLDER/ckpt/control.pt."""

    def __init__(self, folder: Path, rate: float) -> None:
        torch.manual_seed(0)
        unet = load_demo().unet
        self.net, self.rate, self.path = start(unet), rate, folder / "ckpt" / "control.pt"
        self.objective = Objective(unet, self.net)
        self.parameters = [p for p in self.net.parameters() if p.requires_grad]
        self.moving = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3, eps=1e-7
        )
        self.step = 0

    def resume(self) -> None:
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.step, self.moving = state["step"], state["average"]
            self.net.load_state_dict(state["weights"])
            self.optimizer.load_state_dict(state["optimizer"])

    def save(self) -> None:
        parts = {"weights": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({"step": self.step, "average": self.moving, **parts}, self.path)

    def update(self, share_left: float) -> None:
        """One optimizer step; the rate falls over the last 40 % of the run."""
        parallel.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * min(1, (self.step + 1) / 50) * max(0.03, min(1, share_left / 0.4))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.step += 1
        decay = min(0.995, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.moving, [p.detach() for p in self.parameters], 1 - decay)

    def take_average(self) -> None:
        with torch.no_grad():
            for parameter, moving in zip(self.parameters, self.moving):
                parameter.copy_(moving)


def train(trainer: Trainer, draw: Drawer, minutes: float) -> None:
    """Steps until the time is up; every process ends at the same step."""
    began, losses = time.time(), []
    while not parallel.any_process((share_left := 1 - (time.time() - began) / (60 * minutes)) <= 0):
        with torch.autocast("cpu", torch.bfloat16):
            loss = trainer.objective(*draw(trainer.step))
        loss.backward()
        trainer.update(share_left)
        losses.append(loss.item())
        if trainer.step % 25 == 0 and parallel.RANK == 0:
            print(f"step {trainer.step} left {share_left:.2f} loss {np.mean(losses[-50:]):.4f}", flush=True)
            trainer.save()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--batch", type=int, default=8, help="samples a process and step")
    parser.add_argument("--rate", type=float, default=1e-3)
    options = parser.parse_args()
    parallel.start()
    trainer = Trainer(options.folder, options.rate)
    trainer.resume()
    train(trainer, Drawer(options.folder, options.batch), options.minutes)
    if parallel.RANK == 0:
        trainer.save()
        trainer.take_average()
        write(trainer.net)


if __name__ == "__main__":
    main()
