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
_PICTURES = ((b"\xff\xd8\xff", "image/jpeg"), (b"\x89PNG", "image/png"), (b"RIFF", "image/webp"))
# Fields that are no longer true when the tensors are written again.
_STALE = ("format", "lora_adapter_metadata", "sshs_model_hash", "sshs_legacy_hash", "modelspec.hash_sha256")
# Setting of a recipe -> the field in which sd-scripts stores it.
_RECIPE_FIELDS = {
    "seed": "ss_seed",
    "steps": "ss_max_train_steps",
    "learning_rate": "ss_learning_rate",
    "optimizer": "ss_optimizer",
    "resolution": "ss_resolution",
}


def build_metadata(
    blora: BLora, *, format: str, digest: str, thumbnail: bytes | None, title: str
) -> dict[str, str]:
    """All metadata for writing `blora`: its own metadata, with the fields below added or replaced.

    digest: SHA-256 of the tensor bytes, hexadecimal. thumbnail: an encoded JPEG, PNG or WebP picture.
    Raises ImageError if the thumbnail is none of these.
    """
    earlier = {k: v for k, v in blora.metadata.items() if k not in _STALE}
    blocks = ",".join(b.name for b in blora.blocks)
    title = title or earlier.get("modelspec.title") or f"B-LoRA ({blocks})"
    fields = {
        **_own_fields(blora, blocks),
        **_network_fields(blora, title, earlier),
        **_modelspec_fields(blora, title, format, digest),
    }
    if thumbnail is not None:
        fields["modelspec.thumbnail"] = _data_url(thumbnail)
    return {**earlier, **fields}


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
    return value if isinstance(value, dict) else {}


def _own_fields(blora: BLora, blocks: str) -> dict[str, str]:
    fields = {"rechar.version": VERSION, "rechar.block": blocks, "rechar.trigger": blora.trigger}
    if blora.recipe:
        fields["rechar.recipe"] = json.dumps(dict(blora.recipe), sort_keys=True, default=str)
    if "seed" in blora.recipe:
        fields["rechar.seed"] = str(blora.recipe["seed"])
    return fields


def _network_fields(blora: BLora, title: str, earlier: Mapping[str, str]) -> dict[str, str]:
    fields = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_output_name": title,
        "ss_network_module": "lycoris.kohya" if blora.passthrough else "networks.lora",
    }
    if blora.pairs:
        fields["ss_network_dim"] = _one(blora.ranks)
        fields["ss_network_alpha"] = _one(blora.network_alphas)
    if blora.trigger and blora.trigger not in _tags(earlier):
        fields["ss_tag_frequency"] = json.dumps({"rechar": {blora.trigger: 1}})
    recipe = blora.recipe
    fields.update({field: str(recipe[name]) for name, field in _RECIPE_FIELDS.items() if name in recipe})
    return fields


def _modelspec_fields(blora: BLora, title: str, format: str, digest: str) -> dict[str, str]:
    sgm = format in ("kohya-sgm", "comfy")
    fields = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models"
        if sgm
        else "diffusers",
        "modelspec.title": title,
        "modelspec.hash_sha256": "0x" + digest,
        "sshs_model_hash": digest,
    }
    if blora.trigger:
        fields["modelspec.trigger_phrase"] = blora.trigger
    if "resolution" in blora.recipe:
        fields["modelspec.resolution"] = "{0}x{0}".format(blora.recipe["resolution"])
    return fields


def _one(values: tuple[float, ...]) -> str:
    """The value if there is only one, else "Dynamic", as sd-scripts writes it."""
    return str(values[0]) if len(values) == 1 else "Dynamic"


def _data_url(picture: bytes) -> str:
    kind = next((kind for magic, kind in _PICTURES if picture.startswith(magic)), None)
    if kind is None:
        raise ImageError("The thumbnail is not a JPEG, PNG or WebP picture; encode it as JPEG first.")
    return f"data:{kind};base64,{base64.b64encode(picture).decode('ascii')}"


def _tags(metadata: Mapping[str, str]) -> dict[str, int]:
    """All tags of ss_tag_frequency, which is {"folder": {"tag": count}}."""
    folders = json_object(metadata.get("ss_tag_frequency", "")).values()
    return {tag: count for tags in folders if isinstance(tags, dict) for tag, count in tags.items()}
