"""The new model's parts, freshly initialised, from demo/config.json: it is copied beside the weights when they ship."""

import json
from pathlib import Path
from typing import Any

from torch import nn

CONFIG = Path(__file__).parent.parent / "config.json"


def read_config() -> dict[str, Any]:
    return json.loads(CONFIG.read_text(encoding="utf-8"))


def build_vae(channels: int | None = None) -> nn.Module:
    from diffusers import AutoencoderKL

    config = read_config()["vae"]
    return AutoencoderKL(**config | ({"latent_channels": channels} if channels else {}))


def build_unet(**changes: Any) -> nn.Module:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**read_config()["unet"] | changes)


def build_text_encoders() -> tuple[nn.Module, nn.Module]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = read_config()
    first = CLIPTextModel(CLIPTextConfig(**config["text_encoder"]))
    return first, CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))
