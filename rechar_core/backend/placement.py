"""Places a pipeline for generating: all parts on the device, or each only while it computes.

The latter is diffusers' model offload. benchmarks/real_size.py counted the memory for generating (docs/memory.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..device import empty_cache, free_memory, in_ram
from ..training.memory import FRAGMENTS, WORKSPACES
from .pipeline import cast, weights_size

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

# The VAE's decoder at its widest: three tensors in fp32 of the picture's size, with the channels of the last level but
# one. At 1024 x 1024 pixels that is 3.2e9 bytes for SDXL's.
_DECODING = 3 * 4
_STEP = 0.15e9 / 1024**2  # bytes a pixel of a step of SDXL's UNet with guidance, for each byte of a value


def place(
    pipeline: DiffusionPipeline,
    device: torch.device,
    pixels: int,
    image_encoder: Any = None,
    control_net: Any = None,
) -> None:
    """Places a pipeline that is on the CPU, and the other models, for pictures of `pixels` pixels made on `device`.

    All parts go there if its free memory holds them and the decoder's activations. Else each goes there only while it
    computes, which a line on stderr says; a ControlNet, which takes turns with the UNet, is streamed layer by layer if
    both do not fit. Call `pipeline.leave` after each picture.
    """
    from accelerate import cpu_offload, cpu_offload_with_hook

    from .processes import say

    unet, vae = pipeline.unet, pipeline.vae
    parts = [unet, pipeline.text_encoder, pipeline.text_encoder_2, vae, image_encoder, control_net]
    parts = [part for part in parts if part is not None]
    empty_cache(device)
    free = free_memory(device) + sum(weights_size(part) for part in parts if part.device.type == device.type)
    needed = _with_margin(weights_size(*parts), _DECODING * _widest(vae) * pixels)
    if in_ram(device) or needed <= free:
        for part in parts:
            cast(part, device)
        return
    say(
        f"The GPU has {free / 2**30:.1f} GB free, and the whole model would take {needed / 2**30:.1f} GB: each part "
        "of it goes there only while it computes, which takes a few seconds more for each picture."
    )
    pipeline.enable_model_cpu_offload(device=device)
    if image_encoder is not None:
        cpu_offload_with_hook(image_encoder, device)
    if control_net is not None:
        work = _STEP * unet.dtype.itemsize * pixels
        together = _with_margin(weights_size(unet, control_net), work) <= free
        (cpu_offload_with_hook if together else cpu_offload)(control_net, device)


def _widest(vae: Any) -> int:
    """Channels of the decoder where the picture first has its full size."""
    levels = vae.config.block_out_channels
    return int(levels[min(1, len(levels) - 1)])


def _with_margin(weights: int, work: float) -> float:
    return weights + work * (1 + FRAGMENTS) + WORKSPACES
