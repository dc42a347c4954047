"""What stands beside the demo model, as ordinary host objects: two adapters with their image encoder, a ControlNet."""

from __future__ import annotations

from typing import Any

import torch

from ...rechar_core.demo import extras
from ...rechar_core.errors import ModelError, listed
from ...rechar_core.storage import read_state
from .references import Adapters


def demo_references() -> tuple[Adapters, Any]:
    """Adapters and CONTROL_NET of the shipped demo model. Raises FileError naming a file that is missing."""
    state = read_state(extras.CONTROLNET)[0]
    found = extras.load_adapters()
    return Adapters(found["composition"], found["style"], _encoder()), _control_net(state)


def _encoder() -> Any:
    """A CLIP_VISION of the demo's size, which the host's own loader would not recognise."""
    import comfy.clip_vision

    encoder = comfy.clip_vision.ClipVisionModel(str(extras.ENCODER_CONFIG))
    encoder.model.float()
    encoder.dtype = torch.float32
    missing, unexpected = encoder.load_sd(extras.encoder_state())
    wrong = [name for name in (*missing, *unexpected) if not name.endswith("position_ids")]
    if wrong:
        raise ModelError(
            f"The demo model's image encoder does not fit this ComfyUI: {listed(sorted(wrong))}. "
            "Report this with your ComfyUI version."
        )
    return encoder


def _control_net(state: dict[str, torch.Tensor]) -> Any:
    import comfy.controlnet

    made = comfy.controlnet.load_controlnet_state_dict({name: t.float() for name, t in state.items()})
    if made is None:
        raise ModelError(
            f"{extras.CONTROLNET} is no ControlNet to this ComfyUI; report this with your ComfyUI version."
        )
    return made
