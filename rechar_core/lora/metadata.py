"""The text metadata of a B-LoRA file: ReChar's own fields and the fields that LoRA managers show.

Fields: kohya's sd-scripts (`ss_*`) and the Stability AI model metadata standard (`modelspec.*`,
https://github.com/Stability-AI/ModelSpec). No dates are written, so that the same B-LoRA gives the same bytes.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from ..errors import ImageError
from .blora import BLora

VERSION = "1"
_SGM = "https://github.com/Stability-AI/generative-models"
_PICTURES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))
# Fields that are no longer true when the tensors are written again.
_STALE = ("format", "lora_adapter_metadata", "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")


def build_metadata(
    blora: BLora, *, format: str, digest: str, thumbnail: bytes | None, title: str
) -> dict[str, str]:
    """All metadata for writing `blora`: its own metadata, with the fields below added or replaced.

    digest: SHA-256 of the tensor bytes, hexadecimal. thumbnail: an encoded JPEG, PNG or WebP picture.
    Raises ImageError if the thumbnail is none of these.
    """
    earlier = {k: v for k, v in blora.metadata.items() if k not in _STALE}
    new_tag = blora.trigger and blora.trigger not in _tags(earlier)
    fields = {
        **_fields(blora, title or earlier.get("modelspec.title"), format),
        "ss_tag_frequency": json.dumps({"rechar": {blora.trigger: 1}}) if new_tag else None,
        "modelspec.hash_sha256": f"0x{digest}",
        "sshs_model_hash": digest,
        "modelspec.thumbnail": None if thumbnail is None else _data_url(thumbnail),
    }
    return earlier | {name: str(value) for name, value in fields.items() if value is not None}


def _fields(blora: BLora, title: str | None, format: str) -> dict[str, Any]:
    """The fields that describe a B-LoRA. None: not known, and not written."""
    recipe, blocks = blora.recipe, ",".join(b.name for b in blora.blocks)
    title = title or f"B-LoRA ({blocks})"
    return {
        "rechar.version": VERSION,
        "rechar.block": blocks,
        "rechar.trigger": blora.trigger,
        "rechar.recipe": json.dumps(dict(recipe), sort_keys=True, default=str) if recipe else None,
        "rechar.seed": recipe.get("seed"),
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_output_name": title,
        "ss_network_module": "lycoris.kohya" if blora.passthrough else "networks.lora",
        "ss_network_dim": _one(blora.ranks),
        "ss_network_alpha": _one(blora.network_alphas),
        "ss_seed": recipe.get("seed"),
        "ss_max_train_steps": recipe.get("steps"),
        "ss_learning_rate": recipe.get("learning_rate"),
        "ss_optimizer": recipe.get("optimizer"),
        "ss_resolution": recipe.get("resolution"),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": _SGM if format in ("kohya-sgm", "comfy") else "diffusers",
        "modelspec.title": title,
        "modelspec.trigger_phrase": blora.trigger or None,
        "modelspec.resolution": "{0}x{0}".format(recipe["resolution"]) if "resolution" in recipe else None,
    }


def stored_hash(metadata: Mapping[str, str]) -> str | None:
    """SHA-256 of the tensor bytes, hexadecimal, as a file of ours stores it; None for any other file."""
    return (
        metadata.get("modelspec.hash_sha256", "").removeprefix("0x") if "rechar.version" in metadata else None
    )


def trigger_of(metadata: Mapping[str, str]) -> str:
    """The prompt a LoRA was trained with: ReChar's field, else modelspec's, else its only training tag, else ""."""
    for field in ("rechar.trigger", "modelspec.trigger_phrase"):
        if metadata.get(field):
            return metadata[field]
    tags = _tags(metadata)
    return next(iter(tags)) if len(tags) == 1 else ""


def recipe_of(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The training settings in a file written by ReChar, {} if there are none."""
    return json_object(metadata.get("rechar.recipe", ""))


def json_object(text: str) -> dict[str, Any]:
    """The JSON object in `text`, or {} if it is not one: bad metadata must not keep a LoRA from loading."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and not _deep(value) else {}


def _deep(value: dict[str, Any], most: int = 32) -> bool:
    """Whether JSON is nested deeper than any setting is; writing it again would exceed Python's recursion limit."""
    level: list[Any] = [value]
    for _ in range(most):
        items = (item for each in level for item in (each.values() if isinstance(each, dict) else each))
        level = [item for item in items if isinstance(item, (dict, list))]
        if not level:
            return False
    return True


def _one(values: tuple[float, ...]) -> str | None:
    """The only value, "Dynamic" for several, as sd-scripts writes it; None if there is none."""
    return "Dynamic" if len(values) > 1 else next(map(str, values), None)


def _data_url(picture: bytes) -> str:
    kind = next((kind for magic, kind in _PICTURES if picture.startswith(magic)), None)
    if kind is None:
        raise ImageError("The thumbnail is not a JPEG, PNG or WebP picture; encode it as JPEG first.")
    return f"data:{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def _tags(metadata: Mapping[str, str]) -> dict[str, int]:
    """All tags of ss_tag_frequency, which is {"folder": {"tag": count}}."""
    folders = json_object(metadata.get("ss_tag_frequency", "")).values()
    return {tag: count for tags in folders if isinstance(tags, dict) for tag, count in tags.items()}
