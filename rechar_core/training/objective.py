"""The loss: mean squared error of the UNet's own prediction, fp32, by default with one weight for all timesteps."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from .denoiser import Conditioning, Denoiser, Prediction, Prefix
from .noise import StepNoise
from .recipe import Loss


@dataclass(frozen=True)
class NoisedBatch:
    """The input of the UNet in one step, and the output that it should give.

    noisy, target: (B, 4, h, w) fp32; timesteps, abar: (B,).
    """

    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    abar: Tensor

    def part(self, start: int, stop: int) -> NoisedBatch:
        """Samples start..stop of the batch."""
        return NoisedBatch(*(t[start:stop] for t in (self.noisy, self.timesteps, self.target, self.abar)))


@dataclass(frozen=True)
class PrefetchedStep:
    """One step up to where the LoRA begins. number counts from 0."""

    number: int
    noised: NoisedBatch
    prefix: Prefix


def add_noise(prediction: Prediction, latents: Tensor, step_noise: StepNoise, abar: Tensor) -> NoisedBatch:
    """x_t = sqrt(abar) x0 + sqrt(1 - abar) noise (DDPM, Ho et al. 2020, eq. 4); latents: x0; abar: (B,)."""
    per_sample = abar.view(-1, 1, 1, 1)
    noisy = per_sample.sqrt() * latents + (1 - per_sample).sqrt() * step_noise.noise
    wanted = target(prediction, latents, step_noise.noise, per_sample)
    return NoisedBatch(noisy, step_noise.timesteps, wanted, abar)


def target(prediction: Prediction, latents: Tensor, noise: Tensor, abar: Tensor) -> Tensor:
    """The noise itself, or v = sqrt(abar) noise - sqrt(1 - abar) x0 (Salimans & Ho 2022, appendix D)."""
    if prediction == "epsilon":
        return noise
    return abar.sqrt() * noise - (1 - abar).sqrt() * latents


def denoised(prediction: Prediction, model_output: Tensor, noised: NoisedBatch) -> Tensor:
    """What the model output (B, 4, h, w) says of x0: the other way round from `target`."""
    abar = noised.abar.view(-1, 1, 1, 1)
    if prediction == "epsilon":
        return (noised.noisy - (1 - abar).sqrt() * model_output) / abar.sqrt()
    return abar.sqrt() * noised.noisy - (1 - abar).sqrt() * model_output


def loss_weights(prediction: Prediction, abar: Tensor, loss: Loss, min_snr_gamma: float) -> Tensor | None:
    """Each sample's weight (B,) on || prediction - target ||^2; None where all weigh 1.

    x0: || x0hat - x0 ||^2 = (1 - abar) / abar || eps_hat - eps ||^2 = (1 - abar) || v_hat - v ||^2 (ConsisLoRA).
    Min-SNR (Hang et al. 2023): min(snr, gamma) || x0hat - x0 ||^2, snr = abar / (1 - abar).
    Raises ValueError for a loss that has no formula here.
    """
    if loss not in ("prediction", "x0"):  # a new name in Loss must not be trained as one of these
        raise ValueError(f"loss is {loss!r}; write its weights here.")
    if loss == "prediction" and not min_snr_gamma:
        return None
    in_x0 = (1 - abar) / abar if prediction == "epsilon" else 1 - abar
    return in_x0 * (abar / (1 - abar)).clamp(max=min_snr_gamma) if min_snr_gamma else in_x0


def weighted_mse(model_output: Tensor, noised: NoisedBatch, weight: Tensor | None = None) -> Tensor:
    """The loss of a model output (B, 4, h, w): a scalar with gradient."""
    if weight is None:
        return F.mse_loss(model_output.float(), noised.target)
    return (F.mse_loss(model_output.float(), noised.target, reduction="none").mean((1, 2, 3)) * weight).mean()


def unsplit_loss(
    denoiser: Denoiser, latents: Tensor, step_noise: StepNoise, conditioning: Conditioning
) -> Tensor:
    """The published loss in one go, unweighted; latents: (B, 4, h, w) fp32. A scalar with gradient.

    For tests and benchmarks. Training computes its loss in two parts, `add_noise` in prefetch.py, and
    `loss_weights` and `weighted_mse` in loop.py, because the first part does not depend on the LoRA.
    """
    abar = denoiser.alphas_cumprod.to(latents.device)[step_noise.timesteps]
    noised = add_noise(denoiser.prediction, latents, step_noise, abar)
    return weighted_mse(denoiser.predict(noised.noisy, noised.timesteps, conditioning), noised)
