"""CLIP and VAE asked once, in front of a training, and put away."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...rechar_core.errors import ImageError
from ...rechar_core.images import fit, rgb
from ...rechar_core.training.denoiser import Conditioning, LatentMoments


def encode_prompt(clip: Any, prompt: str, resolution: int) -> Conditioning:
    """The conditioning of one prompt at `resolution` squared, as the reference: (R, R, 0, 0, R, R)."""
    context, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    side = float(resolution)
    return Conditioning(context, pooled, torch.tensor([[side, side, 0, 0, side, side]]))


def encode_pictures(vae: Any, images: Tensor, resolution: int, scale: float) -> list[LatentMoments]:
    """The VAE's posterior of each picture of IMAGE (B, H, W, C) in 0..1, computed in fp32, scaled.

    VAEEncode returns only the posterior's mode, and rounds to the VAE's own type; so a fp32 copy of the encoder is
    asked. Its weights are as the host holds them: rounded to 16 bits on most cards, unless started with --fp32-vae.
    Raises ImageError if there is no picture.
    """
    import copy

    import comfy.model_management

    if not len(images):
        raise ImageError("The batch of pictures is empty; connect at least one picture.")
    pictures = [fit(rgb(image[None]).movedim(-1, 1), resolution) for image in images]
    memory = max(vae.memory_used_encode(picture.shape, torch.float32) for picture in pictures)
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=True)
    parts = vae.first_stage_model.encoder, vae.first_stage_model.quant_conv
    encoder, quant_conv = (copy.deepcopy(part).float() for part in parts)
    moments = []
    for pixels in pictures:
        mean, logvar = quant_conv(encoder(pixels.to(vae.device))).chunk(2, dim=1)
        std = logvar.clamp(-30, 20).mul(0.5).exp()
        moments.append(LatentMoments(mean * scale, std * scale))
    return moments


def unload_encoders() -> None:
    """Frees what the host holds on the GPU: CLIP and VAE have done their work, and training loads the UNet itself."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
