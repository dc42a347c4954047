"""Diffusers' SDXL UNet behind the Denoiser protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..blocks import block_of
from ..training.denoiser import Conditioning, Prediction

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class DiffusersDenoiser:
    """A frozen UNet2DConditionModel; scheduler_config gives the noise schedule and the prediction type."""

    def __init__(self, unet: UNet2DConditionModel, scheduler_config: dict[str, Any]):
        from diffusers import DDPMScheduler

        self.unet = unet.requires_grad_(False)
        scheduler = DDPMScheduler.from_config(scheduler_config)
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod
        self.prediction: Prediction = scheduler.config.prediction_type

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def layers(self) -> dict[str, nn.Module]:
        """q, k, v and out of every attention in both blocks, in the reference trainer's order."""
        found: dict[str, nn.Module] = {}
        for name, module in self.unet.named_modules():
            if name.endswith((".attn1", ".attn2")) and block_of(name):
                found |= {f"{name}.{p}": module.get_submodule(p) for p in _PROJECTIONS}
        return found

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        batch, dtype = len(noisy), self.unet.dtype
        cond = conditioning.to(self.device, dtype)
        added = {"text_embeds": cond.pooled.expand(batch, -1), "time_ids": cond.time_ids.expand(batch, -1)}
        context = cond.context.expand(batch, -1, -1)
        return self.unet(
            noisy.to(dtype), timesteps, encoder_hidden_states=context, added_cond_kwargs=added
        ).sample
