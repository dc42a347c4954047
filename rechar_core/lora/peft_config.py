"""Reads PEFT's settings: PEFT stores a LoRA's network alpha there and not next to the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import FileError, LoraError, first_line
from .metadata import json_object

LARGEST_ALPHA = (
    1e30  # of any network alpha: what is larger does not fit into fp32 weights, and was never meant
)


def adapter_config_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """PEFT's settings of the UNet's LoRA in a file's metadata ("unet.lora_alpha": 32, ...), {} if there are none."""
    stored = json_object(metadata.get("lora_adapter_metadata", ""))
    return {k.removeprefix("unet."): v for k, v in stored.items() if k.startswith("unet.")}


def adapter_config_beside(path: Path) -> dict[str, Any]:
    """The settings in adapter_config.json, which PEFT's `save_pretrained` writes next to adapter_model.safetensors.

    {} if `path` has another name or the file is missing. Raises FileError if it cannot be read.
    """
    file = path.with_name("adapter_config.json")
    if path.name != "adapter_model.safetensors" or not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(
            f"The LoRA's settings '{file}' cannot be read: {first_line(error)}; download them again."
        ) from error
    return config if isinstance(config, dict) else {}


def configured_alpha(config: Mapping[str, Any], module: str, rank: int) -> float:
    """The network alpha that PEFT's settings give a layer; without settings it is the rank. Raises LoraError."""
    alpha = config.get("lora_alpha", rank)
    patterns = config.get("alpha_pattern") or {}
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if f".{module}".endswith("." + str(pattern).lstrip("^")):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not abs(alpha) <= LARGEST_ALPHA:
        raise LoraError(
            f"The LoRA's PEFT settings give {module} the alpha '{str(alpha)[:40]}', which is not a number; correct it."
        )
    # Rank-stabilised LoRA scales by alpha / sqrt(rank) (Kalajdzievski 2023).
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)
