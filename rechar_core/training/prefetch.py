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
from .noise import NoiseSource, StepNoise
from .objective import NoisedBatch
from .recipe import TrainingRecipe


@dataclass(frozen=True)
class PrefetchedStep:
    """One step up to where the LoRA begins. number counts from 0."""

    number: int
    noised: NoisedBatch
    prefix: Prefix


class Prefetcher:
    """Gives each step's PrefetchedStep. Groups lie at multiples of their size, so that a resumed run has the same ones.

    samples: (first, stride) of this process: step n trains on sample first + n * stride.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        pictures: Sequence[LatentMoments],
        conditioning: Conditioning,
        recipe: TrainingRecipe,
        noise_source: NoiseSource,
        samples: tuple[int, int],
        mode: MemoryMode,
    ):
        self.denoiser, self.pictures, self.conditioning = denoiser, pictures, conditioning
        self.recipe, self.noise_source, self.samples, self.mode = recipe, noise_source, samples, mode
        self._abar = denoiser.alphas_cumprod.cpu()  # looked up here: on a GPU that would make us wait for it
        area = max(p.mean.shape[-2] * p.mean.shape[-1] for p in pictures)
        self.grouping = grouping(mode, area, recipe.batch_size, denoiser.device.type != "cpu")
        self._prefetched: deque[PrefetchedStep] = deque()

    @torch.no_grad()
    def step(self, number: int) -> PrefetchedStep:
        """Step `number`, which is the one after the last that was asked for, or any to begin with."""
        if not self._prefetched or self._prefetched[0].number != number:
            self._prefetched = deque(self._chunk(number))
        prefetched = self._prefetched.popleft()
        return PrefetchedStep(
            prefetched.number, prefetched.noised, prefetched.prefix.to(self.denoiser.device)
        )

    def _chunk(self, number: int) -> list[PrefetchedStep]:
        together, chunk = self.grouping.together, self.grouping.chunk
        end = min((number // chunk + 1) * chunk, self.recipe.steps)
        found: list[PrefetchedStep] = []
        for start in range(number // together * together, end, together):
            group = self._group(range(start, min(start + together, end)))
            found += [prefetched for prefetched in group if prefetched.number >= number]
        return found

    def _group(self, steps: range) -> list[PrefetchedStep]:
        """These steps in order, those of pictures of one shape in one forward pass."""
        first, stride = self.samples
        chosen: dict[tuple[int, ...], list[tuple[int, LatentMoments, StepNoise]]] = {}
        for number in steps:
            sample = first + number * stride
            picture = self.pictures[self.noise_source.picture(sample, len(self.pictures))]
            shape = (self.recipe.batch_size, *picture.mean.shape[1:])
            step_noise = self.noise_source.step(sample, shape, len(self._abar))
            chosen.setdefault(shape, []).append((number, picture, self._offset(step_noise, sample)))
        found = [prefetched for group in chosen.values() for prefetched in self._forward(group)]
        return sorted(found, key=lambda prefetched: prefetched.number)

    def _forward(self, group: list[tuple[int, LatentMoments, StepNoise]]) -> list[PrefetchedStep]:
        device, batch = self.denoiser.device, self.recipe.batch_size
        every = [step_noise for _, _, step_noise in group]
        timesteps = torch.cat([step_noise.timesteps for step_noise in every])
        abar = _send(self._abar[timesteps], device)
        noise = _send(torch.cat([step_noise.noise for step_noise in every]), device)
        posterior = _send(torch.cat([step_noise.posterior for step_noise in every]), device)
        step_noise = StepNoise(posterior, noise, _send(timesteps, device))
        pictures = [picture for _, picture, _ in group]
        latents = torch.cat([p.sample(part) for p, part in zip(pictures, posterior.split(batch))])
        noised = objective.add_noise(self.denoiser.prediction, latents, step_noise, abar)
        prefix = self.denoiser.prefix(noised.noisy, noised.timesteps, self.conditioning)
        if self.mode == "low":
            prefix = prefix.to(torch.device("cpu"))
        spans = [(i * batch, (i + 1) * batch) for i in range(len(group))]
        return [
            PrefetchedStep(number, noised.part(*span), prefix.part(*span))
            for (number, _, _), span in zip(group, spans)
        ]

    def _offset(self, step_noise: StepNoise, sample: int) -> StepNoise:
        """Noise plus a constant a channel (noise offset), so that overall brightness is learnt as well."""
        if not self.recipe.noise_offset:
            return step_noise
        shift = self.recipe.noise_offset * self.noise_source.offset(
            sample, (step_noise.noise.shape[0], step_noise.noise.shape[1])
        )
        return StepNoise(step_noise.posterior, step_noise.noise + shift, step_noise.timesteps)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device; to a GPU without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
