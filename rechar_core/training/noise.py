"""All random numbers of a training.

Each is a function of (seed, what it is for), made on the CPU in fp32: the same on every device, whatever the order,
chunking or number of processes; resuming at step n needs no generator state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepNoise:
    """posterior, noise: (B, 4, h, w) standard normal; timesteps: (B,) int64 in 0..999."""

    posterior: Tensor
    noise: Tensor
    timesteps: Tensor


@dataclass(frozen=True)
class SeededNoise:
    """The random numbers of one training run, from `seed`; all but the LoRA's start from `noise_seed`, if there is one.

    Each method is a pure function of the seed and its arguments, so that a test can pass one with recorded numbers.
    """

    seed: int
    noise_seed: int | None = None

    def _generator(self, *purpose: object) -> torch.Generator:
        seed = self.seed if self.noise_seed is None or purpose[0] == "down" else self.noise_seed
        digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def down(self, module: str, rank: int, width: int) -> Tensor:
        """Initial `down` (rank, width) of the LoRA layer at `module`: normal with std 1 / rank."""
        return torch.randn(rank, width, generator=self._generator("down", module)) / rank

    def picture(self, sample: int, count: int) -> int:
        """Which of `count` pictures sample number `sample` uses."""
        epoch, place = divmod(sample, count)
        return int(torch.randperm(count, generator=self._generator("epoch", epoch))[place])

    def step(self, sample: int, shape: tuple[int, ...], timesteps: int) -> StepNoise:
        """Noise of sample number `sample` for a latent batch of `shape`, and timesteps in 0..timesteps-1."""
        generator = self._generator("step", sample)
        return StepNoise(
            torch.randn(shape, generator=generator),
            torch.randn(shape, generator=generator),
            torch.randint(0, timesteps, shape[:1], generator=generator),
        )

    def offset(self, sample: int, shape: tuple[int, int]) -> Tensor:
        """(B, channels, 1, 1) standard normal: one value a channel, for recipes with a noise offset."""
        return torch.randn(*shape, 1, 1, generator=self._generator("offset", sample))
