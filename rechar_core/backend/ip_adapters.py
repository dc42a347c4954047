"""Loads IP-Adapters, their image encoder and a ControlNet for diffusers, from files or of the demo model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..demo import extras
from ..errors import FileError, ModelError, RecipeError, first_line
from ..synthesis.references.projection import IPAdapter, read_adapter
from .defaults import DEMO
from .pipeline import cast
from .renderer import DiffusersIPAdapters

if TYPE_CHECKING:
    import torch

_WEIGHTS = {"image encoder": "model", "ControlNet": "diffusion_pytorch_model"}


def ip_adapters(
    composition: Path | None,
    style: Path | None,
    encoder: Path | None,
    dtype: torch.dtype,
    device: torch.device,
) -> DiffusersIPAdapters:
    """Adapter files and the folder of their CLIP vision model; "demo" is the demo model's own.

    Raises RecipeError for adapters without an encoder, FileError, AdapterError.
    """
    if composition is None and style is None:
        return DiffusersIPAdapters()
    if encoder is None:
        raise RecipeError(
            "Adapters need --image-encoder: the folder of the CLIP vision model they were trained with."
        )
    if str(encoder) == DEMO:
        clip_vision = cast(extras.load_encoder(), dtype, device)
    else:
        from transformers import CLIPVisionModelWithProjection

        clip_vision = _folder(CLIPVisionModelWithProjection, encoder, "image encoder", dtype, device)
    return DiffusersIPAdapters(_adapter(composition, "composition"), _adapter(style, "style"), clip_vision)


def _adapter(path: Path | None, name: str) -> IPAdapter | None:
    if str(path) == DEMO:
        return extras.load_adapters()[name]
    return read_adapter(path) if path else None


def control_net(folder: Path | None, dtype: torch.dtype, device: torch.device) -> Any:
    """A diffusers folder of an SDXL ControlNet, "demo", or None. Raises FileError, ModelError."""
    if folder is None:
        return None
    if str(folder) == DEMO:
        return cast(extras.load_controlnet(), dtype, device)
    from diffusers import ControlNetModel

    net = _folder(ControlNetModel, folder, "ControlNet", dtype, device)
    if net.config.addition_embed_type != "text_time":
        raise ModelError(
            f"{folder} is no ControlNet for SDXL; choose one that is, such as controlnet-canny-sdxl-1.0."
        )
    return net


def _folder(kind: Any, folder: Path, what: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A model from a local folder, from .safetensors files only."""
    name = _WEIGHTS[what]
    whole, half = folder / f"{name}.safetensors", folder / f"{name}.fp16.safetensors"
    if not (folder / "config.json").is_file() or not (whole.is_file() or half.is_file()):
        raise FileError(
            f"There is no {what} in {folder}: it needs config.json and {whole.name}. Download both."
        )
    variant = {} if whole.is_file() else {"variant": "fp16"}
    try:
        model = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, **variant)
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        raise FileError(
            f"The {what} in {folder} cannot be loaded ({first_line(error)}); download it again."
        ) from None
    return cast(model, dtype, device).eval().requires_grad_(False)
