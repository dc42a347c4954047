"""Train the demo UNet on rendered shards, resumably.

    RANK=0 WORLD_SIZE=2 python -m demo.train_unet --folder FOLDER --minutes 60
    RANK=1 WORLD_SIZE=2 python -m demo.train_unet --folder FOLDER --minutes 60

State is in FOLDER/ckpt/last.pt; every random draw is a function of (process, step), so a resumed run goes on exactly.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rechar_core.demo.build import build_unet

from . import parallel
from .roles import initialise, prepare_for_training, slot_loss, trainable_masks
from .samples import Drawer

WARMUP = 200  # steps
# What lies behind the structure block: where colours are made.
LATE = (
    "up_blocks.0.resnets.1",
    "up_blocks.0.resnets.2",
    "up_blocks.0.attentions.1",
    "up_blocks.0.attentions.2",
    "up_blocks.0.upsamplers",
    "up_blocks.1",
    "up_blocks.2",
    "conv_norm_out",
    "conv_out",
)


def level_share(hidden: Tensor) -> Tensor:
    """Share of each norm group's variance that lies between its channels' levels; hidden (batch, c, h, w).

    With two channels a group, GroupNorm turns levels into mere signs where they outweigh the spatial variation, and
    colours saturate. Keeping this share small keeps the last norm nearly linear.
    """
    groups = hidden.float().reshape(len(hidden), 32, -1, hidden.shape[2] * hidden.shape[3])
    between = groups.mean(3).var(2, unbiased=False)
    return (between / (groups.var((2, 3), unbiased=False) + 1e-4)).mean()


class Objective(nn.Module):
    """Weighted v error, the slot loss of the structure block, and the level share at the last norm."""

    def __init__(self, unet: nn.Module, coarse_weight: float) -> None:
        super().__init__()
        self.unet, self.coarse_weight = unet, coarse_weight
        self.processors = prepare_for_training(unet)
        unet.conv_norm_out.register_forward_pre_hook(lambda _, inputs: self.last.append(inputs[0]))
        self.last: list[Tensor] = []

    def forward(
        self, noisy: Tensor, times: Tensor, ctx: Tensor, target: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        added = {"text_embeds": torch.zeros(len(noisy), 128), "time_ids": torch.zeros(len(noisy), 6)}
        guess = self.unet(noisy, times, encoder_hidden_states=ctx, added_cond_kwargs=added).sample
        miss = (guess.float() - target) * weight.sqrt()
        error = (miss**2).mean()
        if self.coarse_weight:
            # colours are coarse: means over 4x4 cells hold their error and little of the unknowable noise
            error = error + self.coarse_weight * (nn.functional.avg_pool2d(miss, 4) ** 2).mean()
        slots = torch.stack([slot_loss(processor.logits) for processor in self.processors]).mean()
        return error, slots, level_share(self.last.pop())


class Trainer:
    """Model, optimizer, moving average and their checkpoint."""

    def __init__(
        self, folder: Path, rate: float, average: float, coarse_weight: float, late: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.folder, self.rate, self.average = folder, rate, average
        self.unet = build_unet()
        initialise(self.unet)
        masks = trainable_masks(self.unet)
        self.objective = Objective(self.unet, coarse_weight)
        named = dict(self.unet.named_parameters())
        self.names = [name for name in masks if name in named]
        for name, parameter in named.items():
            parameter.requires_grad_(not late or name.startswith(LATE))
        self.parameters = [named[name] for name in self.names]
        self.masks = [masks[name] for name in self.names]
        self.moving = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=1e-3, eps=1e-7
        )
        self.step = 0
        self.path = folder / "ckpt" / "last.pt"

    def resume(self) -> None:
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        self.step = state["step"]
        self.optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for parameter, moving, name in zip(self.parameters, self.moving, self.names):
                parameter.copy_(state["weights"][name])
                moving.copy_(state["average"][name])

    def save(self) -> None:
        state = {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "weights": dict(zip(self.names, (p.detach() for p in self.parameters))),
            "average": dict(zip(self.names, self.moving)),
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(self.path)

    def update(self, share_left: float) -> None:
        """One optimizer step from the gradients in place; the rate falls to 3 % over the last 40 % of the run."""
        for parameter, mask in zip(self.parameters, self.masks):
            if mask is not None and parameter.grad is not None:
                parameter.grad.mul_(mask)
        parallel.average_gradients(self.parameters)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        rate = self.rate * min(1, (self.step + 1) / WARMUP) * max(0.03, min(1, share_left / 0.4))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=False)
        self.step += 1
        decay = min(self.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.moving, [p.detach() for p in self.parameters], 1 - decay)


class Log:
    """Means of the last hundred steps, a line every fifty, from the first process."""

    def __init__(self, batch: int) -> None:
        self.batch, self.began = batch, time.time()
        self.history: list[tuple[float, ...]] = []

    def __call__(self, step: int, rate: float, losses: tuple[Tensor, ...]) -> None:
        self.history.append(tuple(loss.item() for loss in losses))
        if parallel.RANK or step % 50:
            return
        loss, slots, levels = np.mean(self.history[-100:], 0)
        seconds = time.time() - self.began
        pace = len(self.history) * self.batch * parallel.WORLD / seconds
        print(
            f"step {step} min {seconds / 60:.1f} loss {loss:.4f} slots {slots:.3f} levels {levels:.2f} "
            f"samples/s {pace:.1f} lr {rate:.1e}",
            flush=True,
        )


def train(options: argparse.Namespace) -> None:
    trainer = Trainer(options.folder, options.rate, options.average, options.coarse_weight, options.late)
    trainer.resume()
    draw, log = Drawer(options.folder, options.batch, options.colour_noise, options.blind), Log(options.batch)
    objective = torch.compile(trainer.objective) if options.compile else trainer.objective
    began, saved = time.time(), time.time()
    while True:
        share_left = 1 - (time.time() - began) / (60 * options.minutes)
        if parallel.any_process(share_left <= 0):
            break
        batch = draw(trainer.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            losses = objective(batch.noisy, batch.times, batch.context, batch.target, batch.weight)
        (losses[0] + options.slot_weight * losses[1] + options.level_weight * losses[2]).backward()
        trainer.update(share_left)
        log(trainer.step, trainer.optimizer.param_groups[0]["lr"], losses)
        if trainer.step % 50 == 0:
            draw.refresh()
        if parallel.RANK == 0 and time.time() - saved > 120:
            trainer.save()
            saved = time.time()
    if parallel.RANK == 0:
        trainer.save()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--batch", type=int, default=8, help="samples a process and step")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average")
    parser.add_argument("--slot-weight", type=float, default=0.1)
    parser.add_argument("--level-weight", type=float, default=0.05)
    parser.add_argument(
        "--coarse-weight", type=float, default=0.0, help="extra weight of 4x4 means of the error"
    )
    parser.add_argument(
        "--colour-noise", type=float, default=0.0, help="strength of noise in the picture's shapes"
    )
    parser.add_argument(
        "--blind", type=float, default=0.0, help="share of samples whose input is noise alone"
    )
    parser.add_argument("--late", action="store_true", help="train only what lies behind the structure block")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    parallel.start()
    train(options)


if __name__ == "__main__":
    main()
