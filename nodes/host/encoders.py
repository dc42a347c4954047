"""Encodes the prompt and the pictures of a training, once."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from ...rechar_core.device import or_on_cpu
from ...rechar_core.errors import ImageError
from ...rechar_core.images import check_drawn, fit, rgb
from ...rechar_core.training.denoiser import Conditioning, LatentMoments
from ...rechar_core.training.progress import watched
from .elements import literal
from .progress import Progress, say
from .weights import own_weights

_TRANSPARENT = (
    "If it is a drawing on transparent ground, connect image and mask of Load Image to Join Image with Alpha, and that "
    "to image."
)


def encode_prompt(clip: Any, prompt: str, resolution: int) -> Conditioning:
    """The conditioning of one prompt at `resolution` squared, as the reference: (R, R, 0, 0, R, R).

    The prompt is taken word for word, as by Element Prompt and the command line: its parentheses are no weights. Of a
    CLIP with hooks on a schedule it is the first part's, which is said on the node.
    """
    (context, options), *later = clip.encode_from_tokens_scheduled(clip.tokenize(literal(prompt)))
    if later:
        say("CLIP has a schedule: only its first part is used in training.")
    side = float(resolution)
    return Conditioning(context, options["pooled_output"], torch.tensor([[side, side, 0, 0, side, side]]))


def encode_pictures(
    vae: Any, images: Tensor, resolution: int, scale: float, progress: Progress | None = None
) -> list[LatentMoments]:
    """The VAE's posterior of each picture of IMAGE (B, H, W, C) in 0..1, computed in fp32, scaled; on the CPU.

    VAEEncode returns only the posterior's mode, rounded to the VAE's dtype; so the encoder is called directly, on fp32
    copies of its weights. The host has rounded them to 16 bits on most cards, unless it was started with --fp32-vae.
    If the card's memory does not suffice, the CPU computes the same, slowly.
    progress: shows each layer, as a part of its next part, and may cancel.
    Raises ImageError if there is no picture, or one of a single colour.
    """
    if not len(images):
        raise ImageError("The batch of pictures is empty; connect at least one picture.")
    fitted = [fit(rgb(image[None]), resolution) for image in images]
    for number, image in enumerate(fitted, 1):
        check_drawn(image, f"Picture {number}", _TRANSPARENT)
    pictures = [(image * 2 - 1).movedim(-1, 1) for image in fitted]
    encoder, quant_conv = vae.first_stage_model.encoder, vae.first_stage_model.quant_conv
    moments: list[LatentMoments] = []

    def ran(done: int, layers: int) -> None:
        if progress:
            progress.within(len(moments) * layers + done, len(pictures) * layers)

    with own_weights(vae.patcher.clone(), ["encoder", "quant_conv"], torch.float32) as own, torch.no_grad():

        def encode(device: torch.device) -> None:
            own.place([encoder, quant_conv], device)
            while len(moments) < len(pictures):
                with watched(encoder, ran):
                    mean, logvar = quant_conv(encoder(pictures[len(moments)].to(device))).chunk(2, dim=1)
                std = logvar.clamp(-30, 20).mul(0.5).exp()
                moments.append(LatentMoments((mean * scale).cpu(), (std * scale).cpu()))

        or_on_cpu(encode, vae.device, "encode the picture", logging.getLogger(__name__).warning)
    return moments
