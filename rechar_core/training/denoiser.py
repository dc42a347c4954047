"""One question to any SDXL UNet: what do you predict for (latent, timestep, conditioning)?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

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
    def device(self) -> torch.device: ...

    def layers(self) -> Mapping[str, nn.Module]:
        """Diffusers module path -> linear layer, for the attention projections of both blocks, in model order."""
        ...

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The raw prediction, (B, 4, h, w) fp32, for noisy latents (B, 4, h, w) fp32 at timesteps (B,)."""
        ...
