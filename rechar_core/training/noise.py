"""Where randomness comes from, injectable: the loop never draws by itself.

Every draw is a function of (seed, what it is for), made on the CPU in fp32: the same on every device, whatever
the order, chunking or number of processes; resuming at step n needs no generator state.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepNoise:
    """posterior, noise: (B, 4, h, w) standard normal; timesteps: (B,) int64 in 0..999."""

    posterior: Tensor
    noise: Tensor
    timesteps: Tensor


class NoiseSource(Protocol):
    """The random draws of one training run."""

    def down(self, module: str, rank: int, width: int) -> Tensor:
        """Initial `down` (rank, width) of the adapter at `module`: normal with std 1 / rank."""
        ...

    def picture(self, sample: int, count: int) -> int:
        """Which of `count` pictures sample number `sample` uses."""
        ...

    def step(self, sample: int, shape: tuple[int, ...], timesteps: int) -> StepNoise:
        """The draws of sample number `sample` for a latent batch of `shape`, timesteps in 0..timesteps-1."""
        ...

    def offset(self, sample: int, shape: tuple[int, int]) -> Tensor:
        """(B, channels, 1, 1) standard normal: one value a channel, for recipes with a noise offset."""
        ...


@dataclass(frozen=True)
class SeededNoise:
    """The product's draws: counter-based on `seed`, all but the initial values on `noise_seed` where there is one."""

    seed: int
    noise_seed: int | None = None

    def _generator(self, *purpose: object) -> torch.Generator:
        own = self.noise_seed is None or purpose[0] == "down"
        digest = hashlib.sha256(repr((self.seed if own else self.noise_seed, *purpose)).encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)

    def down(self, module: str, rank: int, width: int) -> Tensor:
        return torch.randn(rank, width, generator=self._generator("down", module)) / rank

    def picture(self, sample: int, count: int) -> int:
        epoch, place = divmod(sample, count)
        return int(torch.randperm(count, generator=self._generator("epoch", epoch))[place])

    def step(self, sample: int, shape: tuple[int, ...], timesteps: int) -> StepNoise:
        generator = self._generator("step", sample)
        return StepNoise(
            torch.randn(shape, generator=generator),
            torch.randn(shape, generator=generator),
            torch.randint(0, timesteps, shape[:1], generator=generator),
        )

    def offset(self, sample: int, shape: tuple[int, int]) -> Tensor:
        return torch.randn(*shape, 1, 1, generator=self._generator("offset", sample))
