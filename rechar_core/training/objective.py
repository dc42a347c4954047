"""The loss: mean squared error of the UNet's own prediction, fp32, every timestep weighted alike."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .denoiser import Conditioning, Denoiser, Prediction
from .draws import StepDraws


def loss(denoiser: Denoiser, latents: Tensor, draws: StepDraws, conditioning: Conditioning) -> Tensor:
    """|| prediction - target ||^2, mean over all values; latents: (B, 4, h, w) fp32. A scalar with gradient.

    x_t = sqrt(abar) x0 + sqrt(1 - abar) noise (DDPM, Ho et al. 2020, eq. 4).
    """
    abar = denoiser.alphas_cumprod.to(latents.device)[draws.timesteps].view(-1, 1, 1, 1)
    noisy = abar.sqrt() * latents + (1 - abar).sqrt() * draws.noise
    prediction = denoiser.predict(noisy, draws.timesteps, conditioning)
    return F.mse_loss(prediction.float(), target(denoiser.prediction, latents, draws.noise, abar))


def target(prediction: Prediction, latents: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """The noise itself, or v = sqrt(abar) noise - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D)."""
    if prediction == "epsilon":
        return noise
    return abar.sqrt() * noise - (1 - abar).sqrt() * latents
