"""The next steps' noises and prefixes, computed together: what does not depend on the LoRA need not wait for it."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch
from torch import Tensor

from . import objective
from .denoiser import LatentMoments
from .loop import Training
from .memory import MemoryMode, grouping
from .noise import StepNoise
from .objective import PrefetchedStep


class Prefetcher:
    """Gives each step's PrefetchedStep. Groups lie at multiples of their size, so that a resumed run has the same ones.

    training: any one LoRA of the run; what is computed here is the same for all.
    """

    def __init__(self, training: Training, mode: MemoryMode):
        self.training, self.mode = training, mode
        self.denoiser, self.recipe = training.denoiser, training.recipe
        # looked up here: on a GPU that would make us wait for it
        self._abar = self.denoiser.alphas_cumprod.cpu()
        area = max(p.mean.shape[-2] * p.mean.shape[-1] for p in training.pictures)
        self.grouping = grouping(mode, area, self.recipe.batch_size, self.denoiser.device.type != "cpu")
        self._prefetched: deque[PrefetchedStep] = deque()

    @torch.no_grad()
    def step(self, number: int) -> PrefetchedStep:
        """Step `number`, which is the one after the last that was asked for, or any to begin with."""
        if not self._prefetched or self._prefetched[0].number != number:
            self._prefetched = deque(self._chunk(number))
        prefetched = self._prefetched.popleft()
        return replace(prefetched, prefix=prefetched.prefix.to(self.denoiser.device))

    def _chunk(self, number: int) -> list[PrefetchedStep]:
        """The steps from `number` to the end of its chunk."""
        together, chunk = self.grouping.together, self.grouping.chunk
        end = min((number // chunk + 1) * chunk, self.recipe.steps)
        steps: list[PrefetchedStep] = []
        for start in range(number // together * together, end, together):
            steps += self._group(range(start, min(start + together, end)))
        return [step for step in steps if step.number >= number]

    def _group(self, steps: range) -> list[PrefetchedStep]:
        """These steps in order, those of pictures of one shape in one forward pass."""
        training = self.training
        by_shape: dict[torch.Size, list[tuple[int, LatentMoments, StepNoise]]] = {}
        for number in steps:
            sample = training.distributed.rank + number * training.distributed.world
            picture = training.pictures[training.noise_source.picture(sample, len(training.pictures))]
            noise = self._noise(sample, picture)
            by_shape.setdefault(picture.mean.shape, []).append((number, picture, noise))
        prefetched = [step for group in by_shape.values() for step in self._forward(group)]
        return sorted(prefetched, key=lambda step: step.number)

    def _noise(self, sample: int, picture: LatentMoments) -> StepNoise:
        """The noise of a sample, with a constant a channel (noise offset), so that overall brightness is learnt too."""
        source, shape = self.training.noise_source, (self.recipe.batch_size, *picture.mean.shape[1:])
        noise = source.step(sample, shape, len(self._abar))
        if not self.recipe.noise_offset:
            return noise
        shift = self.recipe.noise_offset * source.offset(sample, (shape[0], shape[1]))
        return replace(noise, noise=noise.noise + shift)

    def _forward(self, group: list[tuple[int, LatentMoments, StepNoise]]) -> list[PrefetchedStep]:
        device, batch = self.denoiser.device, self.recipe.batch_size
        numbers, pictures, noises = zip(*group)
        timesteps = torch.cat([noise.timesteps for noise in noises])
        abar = _send(self._abar[timesteps], device)
        noise = _send(torch.cat([noise.noise for noise in noises]), device)
        posterior = _send(torch.cat([noise.posterior for noise in noises]), device)
        latents = torch.cat([p.sample(part) for p, part in zip(pictures, posterior.split(batch))])
        step_noise = StepNoise(posterior, noise, _send(timesteps, device))
        noised = objective.add_noise(self.denoiser.prediction, latents, step_noise, abar)
        prefix = self.denoiser.prefix(noised.noisy, noised.timesteps, self.training.conditioning)
        if self.mode == "low":
            prefix = prefix.to(torch.device("cpu"))
        spans = [(i * batch, (i + 1) * batch) for i in range(len(group))]
        return [
            PrefetchedStep(number, noised.part(*span), prefix.part(*span))
            for number, span in zip(numbers, spans)
        ]


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device; to a GPU without waiting for it."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
