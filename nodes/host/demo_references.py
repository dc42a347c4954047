"""What stands beside the demo model, as ordinary host objects: two adapters with their image encoder, a ControlNet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from ...rechar_core.demo import extras
from ...rechar_core.errors import ModelError, listed
from ...rechar_core.storage import read_state
from .demo_model import keep_dtypes
from .references import HostIPAdapters


def demo_references() -> tuple[HostIPAdapters, Any]:
    """Adapters and CONTROL_NET of the shipped demo model. Raises FileError naming a file that is missing."""
    state = read_state(extras.CONTROLNET)[0]
    found = extras.load_adapters()
    return HostIPAdapters(found["composition"], found["style"], _encoder()), _control_net(state)


def _encoder() -> Any:
    """A CLIP_VISION of the demo's size, which the host's own loader would not recognise."""
    import comfy.clip_vision

    encoder = comfy.clip_vision.ClipVisionModel(str(extras.ENCODER_CONFIG))
    encoder.model.float()
    encoder.dtype = torch.float32
    _check("image encoder", *encoder.load_sd(extras.encoder_state()))
    keep_dtypes(encoder.model)
    return encoder


def _control_net(state: dict[str, torch.Tensor]) -> Any:
    """A CONTROL_NET in fp32, built as the host's own loader builds it.

    The loader itself would do, but it compares the UNet with all models that it knows and logs "ERROR no match".
    """
    import comfy.cldm.cldm
    import comfy.controlnet
    import comfy.model_detection
    import comfy.model_management
    import comfy.ops
    import comfy.supported_models_base

    found = comfy.model_detection.detect_unet_config(state, "")
    sizes = comfy.supported_models_base.BASE(
        found
    ).unet_config  # with the width of heads that the loader assumes
    sizes.pop("out_channels")
    net = comfy.cldm.cldm.ControlNet(
        **sizes,
        hint_channels=3,
        dtype=torch.float32,
        device=comfy.model_management.unet_offload_device(),
        operations=comfy.ops.disable_weight_init,
    )
    missing, unexpected = net.load_state_dict({name: t.float() for name, t in state.items()}, strict=False)
    _check("edge ControlNet", missing, unexpected)
    return comfy.controlnet.ControlNet(net, load_device=comfy.model_management.get_torch_device())


def _check(part: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    wrong = [name for name in (*missing, *unexpected) if not name.endswith("position_ids")]
    if wrong:
        raise ModelError(
            f"The demo model's {part} does not fit this ComfyUI: {listed(sorted(wrong))}. "
            "Report this with your ComfyUI version."
        )
