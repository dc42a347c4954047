"""The training loop: a generator of steps. Progress, preview and cancel belong to whoever iterates it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import TrainingError
from ..lora import BLora
from . import optimizer
from .adapter import Adapters
from .denoiser import Conditioning, Denoiser, LatentMoments
from .draws import Draws, SeededDraws, StepDraws
from .objective import loss as step_loss
from .recipe import TrainingRecipe

_CHECK_EVERY = 25  # steps between looks at the loss: reading it makes a GPU wait


@dataclass(frozen=True)
class Step:
    """One finished optimizer step. number counts from 1; loss is a 0-dim tensor still on the device."""

    number: int
    total: int
    loss: Tensor


@dataclass(frozen=True)
class Share:
    """This process's part of a data-parallel run: samples rank, rank + world, and so on.

    average: replaces tensors in place by their mean over all processes.
    """

    rank: int = 0
    world: int = 1
    average: Callable[[list[Tensor]], None] = lambda tensors: None


class Training:
    """One run. Iterate `steps()` to its end, then take `blora()`; break off at any step and take `state` instead.

    pictures: the VAE's moments of each picture. conditioning: of the recipe's prompt. draws: injectable randomness.
    Parameters live on the denoiser's device. Raises TrainingError if the model has not the layers of a B-LoRA.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pictures: Sequence[LatentMoments],
        conditioning: Conditioning,
        recipe: TrainingRecipe,
        draws: Draws | None = None,
        share: Share | None = None,
    ):
        self.denoiser, self.recipe, self.conditioning = denoiser, recipe, conditioning
        self.pictures = tuple(pictures)
        self.draws = draws or SeededDraws(recipe.seed)
        self.share = share or Share()
        self.adapters = Adapters(denoiser.layers(), recipe, self.draws, denoiser.device)
        self.optimizer = optimizer.build(self.adapters.parameters(), recipe)
        # fp16 gradients of a mean over 65,000 values underflow without a scale; fp32 and bf16 need none
        self.scaler = torch.amp.GradScaler(denoiser.device.type, enabled=recipe.precision == "fp16")
        self.losses: list[Tensor] = []

    @property
    def done(self) -> int:
        """Optimizer steps taken so far."""
        return len(self.losses)

    def steps(self) -> Iterator[Step]:
        """Trains from `done` to the recipe's last step. Raises TrainingError as soon as a loss is seen to be NaN."""
        with self.adapters.attached():
            while self.done < self.recipe.steps:
                with torch.enable_grad():
                    loss = self._backward(self.done * self.share.world + self.share.rank)
                if not self.losses:
                    self.adapters.check_gradients()
                self._update(loss)
                self.losses.append(loss)
                if self.done % _CHECK_EVERY == 0 or self.done in (1, self.recipe.steps):
                    self._check_losses()
                yield Step(self.done, self.recipe.steps, loss)

    def _backward(self, sample: int) -> Tensor:
        picture = self.pictures[self.draws.picture(sample, len(self.pictures))]
        shape = (self.recipe.batch_size, *picture.mean.shape[1:])
        drawn = _to(self.draws.step(sample, shape, len(self.denoiser.alphas_cumprod)), self.denoiser.device)
        loss = step_loss(self.denoiser, picture.sample(drawn.posterior), drawn, self.conditioning)
        self.scaler.scale(loss).backward()
        return loss.detach()

    def _update(self, loss: Tensor) -> None:
        parameters = self.adapters.parameters()
        # the loss as well: every process must see the same NaN, or the others would wait for it forever
        self.share.average([loss, *(p.grad for p in parameters if p.grad is not None)])
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
        return self.adapters.to_blora(self.recipe)


def _to(draws: StepDraws, device: torch.device) -> StepDraws:
    return StepDraws(draws.posterior.to(device), draws.noise.to(device), draws.timesteps.to(device))
