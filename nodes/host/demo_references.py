"""The demo model's extras as ordinary host objects: two IP-Adapters with their image encoder, and a ControlNet."""

from __future__ import annotations

from typing import Any

import torch

from ...rechar_core.demo import extras
from .demo_model import fill
from .references import HostIPAdapters


def demo_references() -> tuple[HostIPAdapters, Any]:
    """IP-Adapters and CONTROL_NET of the shipped demo model. Raises FileError naming a file that is missing."""
    adapters = extras.load_adapters()
    return HostIPAdapters(adapters["composition"], adapters["style"], _encoder()), _control_net()


def _encoder() -> Any:
    """A CLIP_VISION of the demo's size, which the host's own loader would not recognise."""
    import comfy.clip_vision

    encoder = comfy.clip_vision.ClipVisionModel(str(extras.ENCODER_CONFIG))
    encoder.model.float()
    encoder.dtype = torch.float32
    fill(encoder.model, extras.encoder_state(), "image encoder")
    return encoder


def _control_net() -> Any:
    """A CONTROL_NET in fp32, built as the host's own loader builds it.

    The loader itself would do, but it compares the UNet with all models that it knows and logs "ERROR no match".
    """
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_detection
    import comfy.model_management
    import comfy.ops
    import comfy.supported_models_base

    state = extras.controlnet_state()
    detected = comfy.model_detection.detect_unet_config(state, "")
    sizes = comfy.supported_models_base.BASE(detected).unet_config  # with the loader's width of heads
    sizes.pop("out_channels")
    net = comfy.cldm.cldm.ControlNet(
        **sizes,
        hint_channels=3,
        dtype=torch.float32,
        device=comfy.model_management.unet_offload_device(),
        operations=comfy.ops.disable_weight_init,
    )
    fill(net, state, "edge ControlNet")
    return comfy.controlnet.ControlNet(net, load_device=comfy.model_management.get_torch_device())
