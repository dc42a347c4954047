"""The extras of the demo model: an image encoder, two IP-Adapters and an edge ControlNet.

`adapters.safetensors` holds "encoder." (CLIP vision), "style." and "composition." (IP-Adapter's image projections); the
adapters' key and value matrices are the demo UNet's own and are added when loading. `controlnet.safetensors` is an
ordinary ControlNet file in the original (CompVis) naming, which ComfyUI's loader reads at any size.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .. import storage
from ..synthesis.references.projection import IPAdapter, ip_adapter_of
from .build import FOLDER, demo_state, part_of

if TYPE_CHECKING:
    from torch import Tensor, nn

ADAPTERS = FOLDER / "adapters.safetensors"
CONTROLNET = FOLDER / "controlnet.safetensors"
ENCODER_CONFIG = FOLDER / "image_encoder.json"
READERS = {"style": "up_blocks.0.attentions.1.", "composition": "up_blocks.0.attentions.0."}
_ORDER = ("down_blocks.", "up_blocks.", "mid_block.")  # how adapters number the cross-attentions
_CROSS = re.compile(r"unet\.(.+)\.attn2\.to_k\.weight")
# ControlNet names, diffusers' and the original ones.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def build_encoder() -> nn.Module:
    """A freshly initialised image encoder of the demo's size."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(**json.loads(ENCODER_CONFIG.read_text(encoding="utf-8")))
    )


def _read(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a file whose names begin with a prefix, without it and in fp32. Raises FileError."""
    return {name: tensor.float() for name, tensor in part_of(storage.read_state(path)[0], prefix).items()}


def encoder_state() -> dict[str, Tensor]:
    """The image encoder's tensors in fp32 under CLIP's names. Raises FileError."""
    return _read(ADAPTERS, "encoder.")


def load_encoder() -> nn.Module:
    """The trained image encoder for 128 px pictures. Raises FileError."""
    encoder = build_encoder()
    encoder.load_state_dict(encoder_state(), strict=False)
    return encoder.eval().requires_grad_(False)


def load_adapters() -> dict[str, IPAdapter]:
    """ "composition" (plus) and "style" (plain). Raises FileError."""
    return {name: ip_adapter_of(adapter_state(name), f"demo {name}") for name in READERS}


def adapter_state(name: str) -> dict[str, Tensor]:
    """The tensors of a complete IP-Adapter file: its projection, and the UNet's own key and value matrices."""
    import torch

    unet, _ = demo_state()
    state = {f"image_proj.{n}": t for n, t in _read(ADAPTERS, f"{name}.").items()}
    layers = [match[1] for key in unet if (match := _CROSS.fullmatch(key))]
    layers.sort(key=lambda path: next(i for i, side in enumerate(_ORDER) if path.startswith(side)))
    for number, path in enumerate(layers):
        for matrix in ("k", "v"):
            weight = unet[f"unet.{path}.attn2.to_{matrix}.weight"]
            matrix_ip = weight if path.startswith(READERS[name]) else torch.zeros_like(weight)
            state[f"ip_adapter.{2 * number + 1}.to_{matrix}_ip.weight"] = matrix_ip
    return state


def controlnet_state() -> dict[str, Tensor]:
    """The edge ControlNet's tensors in fp32 under the original names. Raises FileError."""
    return _read(CONTROLNET)


def build_controlnet() -> nn.Module:
    """A freshly initialised ControlNet of the demo's size: its outputs are zero.

    SDXL's three levels, transformers at the second alone. Without transformers, ComfyUI's loader could not determine
    the context width; it assumes heads of width 64.
    """
    from diffusers import ControlNetModel

    return ControlNetModel(
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        mid_block_type="UNetMidBlock2D",
        block_out_channels=[64, 64, 128],
        cross_attention_dim=192,
        attention_head_dim=[1, 1, 2],
        use_linear_projection=True,
    )


def load_controlnet() -> nn.Module:
    """The trained edge ControlNet: white edges on black, 3 channels in 0..1 at 256 px. Raises FileError."""
    net = build_controlnet()
    state = controlnet_state()
    net.load_state_dict({name: state[original_name(name)] for name in net.state_dict()})
    return net.eval().requires_grad_(False)


def original_name(name: str) -> str:
    """diffusers' name of a ControlNet tensor -> the original one, for three levels of two resnets each."""
    path, tail = name.rsplit(".", 1)
    parts = path.split(".")
    if parts[0] == "down_blocks":
        level, kind, index = int(parts[1]), parts[2], int(parts[3])
        if kind == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{tail}"
        block = f"input_blocks.{3 * level + 1 + index}"
        if kind == "attentions":
            return ".".join([block, "1", *parts[4:], tail])
        return f"{block}.0.{_RESNET[parts[4]]}.{tail}"
    if parts[0] == "mid_block":
        return f"middle_block.{parts[2]}.{_RESNET[parts[3]]}.{tail}"
    if parts[0] == "controlnet_cond_embedding":
        place = {"conv_in": 0, "conv_out": 14}.get(parts[1])
        return f"input_hint_block.{2 + 2 * int(parts[2]) if place is None else place}.{tail}"
    if parts[0] == "controlnet_down_blocks":
        return f"zero_convs.{parts[1]}.0.{tail}"
    fixed = {"conv_in": "input_blocks.0.0", "controlnet_mid_block": "middle_block_out.0"}
    fixed |= {f"time_embedding.linear_{i}": f"time_embed.{2 * (i - 1)}" for i in (1, 2)}
    return f"{fixed[path]}.{tail}"
