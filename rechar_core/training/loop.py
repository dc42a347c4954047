"""One LoRA in training: its layers, optimizer and losses, and what one step does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..device import ran_out
from ..errors import TrainingError
from ..lora.blora import BLora
from . import optimizer
from .denoiser import Conditioning, Denoiser, LatentMoments
from .job import job_of
from .lora_layers import LoraLayers
from .noise import SeededNoise
from .objective import PrefetchedStep, loss_weights, weighted_mse
from .recipe import TrainingRecipe

_CHECK_EVERY = 25  # steps between looks at the loss: reading it makes a GPU wait


@dataclass(frozen=True)
class DistributedContext:
    """This process's part of a data-parallel run: samples rank, rank + world, and so on.

    average: replaces tensors in place by their mean over all processes. wait: for all of them.
    """

    rank: int = 0
    world: int = 1
    average: Callable[[list[Tensor]], None] = lambda tensors: None
    wait: Callable[[], None] = lambda: None

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0


class Training:
    """One LoRA of a `run.TrainingRun`, which takes its steps.

    pictures: the VAE's moments of each picture. conditioning: of the recipe's prompt. noise_source: None takes
    the recipe's seeds. Parameters live on the denoiser's device. Raises TrainingError if the model lacks the layers of
    a B-LoRA.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pictures: Sequence[LatentMoments],
        conditioning: Conditioning,
        recipe: TrainingRecipe,
        noise_source: SeededNoise | None = None,
        distributed: DistributedContext | None = None,
    ):
        self.denoiser, self.recipe, self.conditioning = denoiser, recipe, conditioning
        self.pictures = tuple(pictures)
        self.noise_source = noise_source or SeededNoise(recipe.seed, recipe.noise_seed)
        self.distributed = distributed or DistributedContext()
        self.lora_layers = LoraLayers(denoiser.layers(), recipe, self.noise_source, denoiser.device)
        self.optimizer = optimizer.build(self.lora_layers.parameters(), recipe)
        self.scaler = self._scaler()
        self.losses: list[Tensor] = []
        self._updating = False

    def _scaler(self) -> torch.amp.GradScaler:
        # fp16 gradients of a mean over 65,000 values underflow without a scale; fp32 and bf16 need none
        return torch.amp.GradScaler(self.denoiser.device.type, enabled=self.recipe.precision == "fp16")

    @property
    def done(self) -> int:
        """Optimizer steps taken so far."""
        return len(self.losses)

    @property
    def sound(self) -> bool:
        """Whether it is worth keeping: some whole steps, and nothing else, with finite losses."""
        return bool(self.losses) and not self._updating and bool(torch.stack(self.losses).isfinite().all())

    @cached_property
    def job(self) -> dict[str, Any]:
        """What makes this training this training, hashed once: see `job_of`."""
        world = self.distributed.world
        return job_of(self.recipe, world, self.denoiser, self.pictures, self.conditioning)

    def step(self, prefetch: Callable[[], PrefetchedStep]) -> Tensor | None:
        """Takes the next step, from what `prefetch` gives; its loss, or None if memory ran out and nothing changed.

        The caller has attached the LoRA layers. Raises TrainingError as soon as a loss is seen to be NaN.
        """
        try:
            loss = self._backward(prefetch())
        except RuntimeError as error:  # dropped here: it holds on to the tensors of the step
            if not ran_out(error):
                raise
            return None
        if not self.losses:
            self.lora_layers.check_gradients()
        self._updating = True
        try:
            self._update(loss)
        except RuntimeError as error:
            # Fused alone reserves all its memory before it changes anything; other processes must not be ahead.
            fused = self.optimizer.param_groups[0].get("fused")
            if not ran_out(error) or not fused or self.distributed.world > 1:
                raise
            if not self.losses:  # it makes its moments in the first step, and some are there already
                self.optimizer.state.clear()
            self._updating = False
            return None
        self._updating = False
        self.losses.append(loss)
        if self.done % _CHECK_EVERY == 0 or self.done in (1, self.recipe.steps):
            self._check_losses()
        return loss

    def forget_step(self) -> None:
        """Drops what a step that ran out of memory has left."""
        self.optimizer.zero_grad(set_to_none=True)
        state, self.scaler = self.scaler.state_dict(), self._scaler()
        if state:
            self.scaler.load_state_dict(state)

    @torch.enable_grad()
    def _backward(self, prefetched: PrefetchedStep) -> Tensor:
        kind, rate = self.recipe.stage(prefetched.number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        weight = loss_weights(
            self.denoiser.prediction, prefetched.noised.abar, kind, self.recipe.min_snr_gamma
        )
        loss = weighted_mse(
            self.denoiser.suffix(prefetched.prefix, self.conditioning), prefetched.noised, weight
        )
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _update(self, loss: Tensor) -> None:
        parameters = self.lora_layers.parameters()
        # the loss as well: every process must see the same NaN, or the others would wait for it forever
        self.distributed.average([loss, *(p.grad for p in parameters if p.grad is not None)])
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, self.recipe.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def _check_losses(self) -> None:
        recent = torch.stack(self.losses[-_CHECK_EVERY:])
        bad = (~recent.isfinite()).nonzero()
        if len(bad):
            step = self.done - len(recent) + int(bad[0]) + 1
            raise TrainingError(
                f"The loss became NaN or infinite at step {step}; "
                "train in bf16 or fp32 instead of fp16, or with a lower learning rate."
            )

    def loss_values(self) -> list[float]:
        """All losses so far as numbers."""
        return torch.stack(self.losses).tolist() if self.losses else []

    def blora(self) -> BLora:
        """The B-LoRA as trained so far. Raises TrainingError if it is unusable (NaN, or nothing learnt)."""
        return self.lora_layers.to_blora(self.recipe)
