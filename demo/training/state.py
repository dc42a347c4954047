"""Weights, moving average and optimizer of one training, in one file that it goes on from."""

import os
from pathlib import Path

import torch
from torch import Tensor, nn

WARMUP = 100  # steps


class Checkpoint:
    """Trains `named` parameters with AdamW. Goes on from `path` where it exists; a file with weights alone (as made
    from shipped weights) starts with new optimizer moments.
    """

    def __init__(
        self,
        path: Path,
        named: dict[str, nn.Parameter],
        rate: float,
        average: float,
        masks: dict[str, Tensor] | None = None,
        weight_decay: float = 1e-3,
    ) -> None:
        self.path, self.names, self.parameters = path, list(named), list(named.values())
        self.average, self.masks, self.step, self.since = average, masks or {}, 0, 0
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay, eps=1e-7, foreach=True
        )
        self.moving = [p.detach().clone() for p in self.parameters]
        if path.exists():
            self.resume()

    @torch.no_grad()
    def resume(self) -> None:
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        for name, parameter, moving in zip(self.names, self.parameters, self.moving):
            parameter.copy_(state["weights"][name])
            moving.copy_(state["average"][name])
        self.step = state["step"]
        if "optimizer" in state:
            self.optimizer.load_state_dict(state["optimizer"])

    def update(self, rate: float, clip: float = 1.0) -> None:
        """One optimizer step from the gradients in place; the first steps of a run are small."""
        for name, parameter in zip(self.names, self.parameters):
            if name in self.masks and parameter.grad is not None:
                parameter.grad.mul_(self.masks[name])
        torch.nn.utils.clip_grad_norm_(self.parameters, clip)
        self.since += 1
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1, self.since / WARMUP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.moving, [p.detach() for p in self.parameters], 1 - decay)

    def save(self) -> None:
        """Write everything under a temporary name, then rename: a stop never leaves half a file."""
        state = {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "weights": {n: p.detach().cpu() for n, p in zip(self.names, self.parameters)},
            "average": {n: m.cpu() for n, m in zip(self.names, self.moving)},
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)
