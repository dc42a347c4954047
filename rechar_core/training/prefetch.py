"""The next steps' draws and prefixes, computed together: what does not depend on the LoRA need not wait for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import objective
from .denoiser import Conditioning, Denoiser, LatentMoments, Prefix
from .memory import MemoryMode, grouping
from .noise import Draws, StepDraws
from .objective import Question
from .recipe import TrainingRecipe


@dataclass(frozen=True)
class Ready:
    """One step up to where the LoRA begins. number counts from 0."""

    number: int
    question: Question
    prefix: Prefix


class Lookahead:
    """Gives each step's Ready. Groups lie at multiples of their size, so that a resumed run has the same ones.

    samples: (first, stride) of this process: step n trains on sample first + n * stride.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pictures: Sequence[LatentMoments],
        conditioning: Conditioning,
        recipe: TrainingRecipe,
        draws: Draws,
        samples: tuple[int, int],
        mode: MemoryMode,
    ):
        self.denoiser, self.pictures, self.conditioning = denoiser, pictures, conditioning
        self.recipe, self.draws, self.samples, self.mode = recipe, draws, samples, mode
        self._abar = denoiser.alphas_cumprod.cpu()  # looked up here: on a GPU that would make us wait for it
        area = max(p.mean.shape[-2] * p.mean.shape[-1] for p in pictures)
        self.grouping = grouping(mode, area, recipe.batch_size, denoiser.device.type != "cpu")
        self._ready: deque[Ready] = deque()

    @torch.no_grad()
    def step(self, number: int) -> Ready:
        """Step `number`, which is the one after the last that was asked for, or any to begin with."""
        if not self._ready or self._ready[0].number != number:
            self._ready = deque(self._chunk(number))
        ready = self._ready.popleft()
        return Ready(ready.number, ready.question, ready.prefix.to(self.denoiser.device))

    def _chunk(self, number: int) -> list[Ready]:
        together, chunk = self.grouping.together, self.grouping.chunk
        end = min((number // chunk + 1) * chunk, self.recipe.steps)
        found: list[Ready] = []
        for start in range(number // together * together, end, together):
            group = self._group(range(start, min(start + together, end)))
            found += [ready for ready in group if ready.number >= number]
        return found

    def _group(self, steps: range) -> list[Ready]:
        """These steps in order, those of pictures of one shape in one forward pass."""
        first, stride = self.samples
        chosen: dict[tuple[int, ...], list[tuple[int, LatentMoments, StepDraws]]] = {}
        for number in steps:
            sample = first + number * stride
            picture = self.pictures[self.draws.picture(sample, len(self.pictures))]
            shape = (self.recipe.batch_size, *picture.mean.shape[1:])
            drawn = self.draws.step(sample, shape, len(self._abar))
            chosen.setdefault(shape, []).append((number, picture, self._offset(drawn, sample)))
        found = [ready for group in chosen.values() for ready in self._forward(group)]
        return sorted(found, key=lambda ready: ready.number)

    def _forward(self, group: list[tuple[int, LatentMoments, StepDraws]]) -> list[Ready]:
        device, batch = self.denoiser.device, self.recipe.batch_size
        every = [drawn for _, _, drawn in group]
        timesteps = torch.cat([drawn.timesteps for drawn in every])
        abar = _send(self._abar[timesteps], device)
        noise = _send(torch.cat([drawn.noise for drawn in every]), device)
        posterior = _send(torch.cat([drawn.posterior for drawn in every]), device)
        drawn = StepDraws(posterior, noise, _send(timesteps, device))
        pictures = [picture for _, picture, _ in group]
        latents = torch.cat([p.sample(part) for p, part in zip(pictures, posterior.split(batch))])
        question = objective.ask(self.denoiser.prediction, latents, drawn, abar)
        prefix = self.denoiser.prefix(question.noisy, question.timesteps, self.conditioning)
        if self.mode == "low":
            prefix = prefix.to(torch.device("cpu"))
        spans = [(i * batch, (i + 1) * batch) for i in range(len(group))]
        return [
            Ready(number, question.part(*span), prefix.part(*span))
            for (number, _, _), span in zip(group, spans)
        ]

    def _offset(self, drawn: StepDraws, sample: int) -> StepDraws:
        """Noise plus a constant a channel (noise offset), so that overall brightness is learnt as well."""
        if not self.recipe.noise_offset:
            return drawn
        shift = self.recipe.noise_offset * self.draws.offset(
            sample, (drawn.noise.shape[0], drawn.noise.shape[1])
        )
        return StepDraws(drawn.posterior, drawn.noise + shift, drawn.timesteps)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device; to a GPU without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
