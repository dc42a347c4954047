"""One question to any SDXL UNet: what do you predict for (latent, timestep, conditioning)?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from .memory import MemoryMode

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True)
class Conditioning:
    """SDXL's text and size conditioning of one prompt.

    context: (1, tokens, width) penultimate hidden states of both text encoders side by side; pooled: (1, pooled
    width) of the second; time_ids: (1, 6) = original height and width, crop top and left, target height and width.
    """

    context: Tensor
    pooled: Tensor
    time_ids: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        """The same on another device, in another float type."""
        return Conditioning(*(t.to(device, dtype) for t in (self.context, self.pooled, self.time_ids)))


@dataclass(frozen=True)
class LatentMoments:
    """What the VAE says of one picture, encoded once in fp32: the posterior is sampled anew at every step.

    mean, std: (1, 4, h, w), already multiplied by the VAE's scaling factor.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """x0 = mean + std * noise for noise of (B, 4, h, w)."""
        return self.mean + self.std * noise


@dataclass(frozen=True)
class Prefix:
    """All that the part of the UNet before the first LoRA layer hands on; the LoRA has no say in it.

    hidden: (B, C, h, w) behind up_blocks.0.resnets.0. skips: what the later resnets still take, last one first
    to go. embedding: (B, width) of timestep, size and pooled text.
    """

    hidden: Tensor
    skips: tuple[Tensor, ...]
    embedding: Tensor

    def part(self, start: int, stop: int) -> Prefix:
        """Samples start..stop of the batch, without a copy."""
        skips = tuple(skip[start:stop] for skip in self.skips)
        return Prefix(self.hidden[start:stop], skips, self.embedding[start:stop])

    def to(self, device: torch.device) -> Prefix:
        """The same on another device."""
        skips = tuple(skip.to(device) for skip in self.skips)
        return Prefix(self.hidden.to(device), skips, self.embedding.to(device))


class Denoiser(Protocol):
    """The host's UNet and diffusers' UNet answer through this; nothing downstream asks which it is."""

    @property
    def prediction(self) -> Prediction:
        """What `predict` returns."""
        ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,) fp32: the noise schedule's abar_t."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the UNet computes; in mode low only half of it is there at a time."""
        ...

    def layers(self) -> Mapping[str, nn.Module]:
        """Diffusers module path -> linear layer, for the attention projections of both blocks, in model order."""
        ...

    def weights(self) -> Iterable[Tensor]:
        """All weights of the UNet, in model order: they tell one base from another."""
        ...

    def use(self, mode: MemoryMode | None) -> None:
        """Run in this memory mode from now on; None takes back everything that training attached or moved."""
        ...

    def prefix(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Prefix:
        """The first part of the UNet, without gradients, for noisy latents (B, 4, h, w) fp32, timesteps (B,)."""
        ...

    def suffix(self, prefix: Prefix, conditioning: Conditioning) -> Tensor:
        """The rest: the raw prediction, (B, 4, h, w), with gradients if they are enabled."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The raw prediction for noisy latents (B, 4, h, w) fp32 at timesteps (B,): suffix of prefix."""
        ...
