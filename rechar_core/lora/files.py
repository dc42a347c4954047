"""Reads and writes B-LoRA files: every format of `KEY_FORMATS` can be read, those of `WRITABLE` can be written."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LoraError, check_choice, listed
from ..storage import file_to_write, header, opened, packed, write_bytes
from .blocks import BLOCKS
from .blora import BLora, LoraPair
from .foreign import looks_like
from .key_formats import PASSTHROUGH, WRITABLE, Parsed, key_format_named, kinds_of, parse
from .metadata import build_metadata, recipe_of, trigger_of
from .peft_config import adapter_config_beside, adapter_config_of, configured_alpha

if TYPE_CHECKING:
    from torch import Tensor

SUFFIX = ".safetensors"
_Parts = dict[str, "Tensor"]


def read(path: str | os.PathLike[str]) -> BLora:
    """The B-LoRA in a safetensors file of any format of `key_formats.KEY_FORMATS`; only the two blocks are loaded.

    Raises FileError if the file cannot be read, LoraError if it is not an SDXL LoRA with weights in the two blocks.
    """
    path = Path(path)
    name = f"'{path.name}'"
    with opened(path) as reader:
        metadata = dict(reader.metadata() or {})
        inside, outside = _sorted_keys(reader.keys(), lambda k: tuple(reader.get_slice(k).get_shape()), name)
        # A memory-mapped tensor would keep the file locked on Windows, hence clone().
        tensors = {key: reader.get_tensor(key).clone() for key in inside}
    config = adapter_config_of(metadata) or adapter_config_beside(path)
    return _assembled(tensors, inside, outside, metadata, config, name)


def from_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, name: str = "The LoRA"
) -> BLora:
    """The B-LoRA in a state dict, such as ComfyUI's LORA_MODEL. `name` is used in error messages. Raises LoraError."""
    metadata = dict(metadata or {})
    inside, outside = _sorted_keys(tensors, lambda key: tuple(tensors[key].shape), name)
    return _assembled(tensors, inside, outside, metadata, adapter_config_of(metadata), name)


def write(
    blora: BLora,
    path: str | os.PathLike[str],
    *,
    format: str = "kohya",
    thumbnail: bytes | None = None,
    title: str = "",
) -> Path:
    """Writes a B-LoRA completely or not at all and returns its path (".safetensors" is added if it is missing).

    thumbnail: an encoded JPEG, PNG or WebP picture. title: the name that LoRA managers show; "" keeps the present one.
    Keys outside the two blocks are not written, because they were not loaded. Raises LoraError if there are no
    weights, if they are not finite, or if `format` cannot store them; FileError if the file cannot be written.
    """
    path = file_to_write(Path(path), SUFFIX)
    if not blora.modules:
        raise LoraError(f"'{path.name}' was not written: the LoRA has no weights in either block.")
    tensors = convert(blora, format)
    broken = [key for key, tensor in tensors.items() if not _finite(tensor)]
    if broken:
        raise LoraError(
            f"'{path.name}' was not written: NaN or infinite values in {listed(broken)}; train again."
        )
    table, body = packed(tensors)
    digest = hashlib.sha256(body).hexdigest()
    metadata = build_metadata(blora, format=format, digest=digest, thumbnail=thumbnail, title=title)
    return write_bytes((header(table, metadata), body), path)


def convert(blora: BLora, format: str) -> dict[str, Tensor]:
    """The state dict of a B-LoRA in one of `key_formats.WRITABLE`, weights in their own dtype.

    In a format that stores no network alpha, `up` is multiplied by network_alpha / rank. Raises LoraError for an
    unknown format, or for weights that the format cannot store.
    """
    check_choice("writable LoRA format", format, WRITABLE, LoraError)
    key_format = key_format_named(format)
    unheld = {part for parts in blora.passthrough.values() for part in parts} - key_format.holds
    if unheld:
        able = listed(f for f in WRITABLE if key_format_named(f).holds >= unheld)
        kinds = listed(kinds_of(unheld))
        raise LoraError(f"{kinds} weights cannot be written as {format}; choose one of {able}.")
    state: _Parts = {}
    pairs = ((module, _stored(pair, module, format)) for module, pair in blora.pairs.items())
    for module, parts in (*pairs, *blora.passthrough.items()):
        state |= {key_format.format(module, part): tensor for part, tensor in parts.items()}
    return state


def _stored(pair: LoraPair, module: str, format: str) -> _Parts:
    """The tensors of one pair as the format stores them, by part."""
    import torch

    parts = {"down": pair.down, "up": pair.up}
    if "alpha" in key_format_named(format).holds:
        parts["alpha"] = torch.tensor(float(pair.network_alpha))
    elif pair.scale != 1:
        parts["up"] = (pair.up.float() * pair.scale).to(pair.up.dtype)
    if pair.dora_scale is None:
        return parts
    parts["dora_scale"] = pair.dora_scale
    if format in ("diffusers", "peft"):
        if pair.dora_scale.shape != (pair.up.shape[0], 1):
            raise LoraError(
                f"The DoRA scale of {module} is per input, which {format} cannot hold; choose kohya."
            )
        parts["dora_scale"] = pair.dora_scale.flatten()  # PEFT's magnitude is (out,)
    return parts


def _sorted_keys(
    keys: Iterable[str], shape_of: Callable[[str], tuple[int, ...]], name: str
) -> tuple[dict[str, Parsed], tuple[str, ...]]:
    """The parsed keys inside the two blocks, and the keys outside. Raises LoraError if unknown or none inside."""
    inside: dict[str, Parsed] = {}
    outside, unknown = [], []
    for key in keys:
        parsed = parse(key)
        if parsed is None:
            unknown.append(key)
        elif parsed.inside:
            inside[key] = parsed
        else:
            outside.append(key)
    if unknown or not inside:
        foreign = looks_like(unknown if inside else unknown + outside, shape_of)
        if foreign:
            what, key = foreign
            raise LoraError(f"{name} looks like {what} (key '{key}'); give a LoRA or B-LoRA for SDXL.")
    if unknown:
        raise LoraError(f"{name} has keys of no known LoRA format: {listed(unknown)}; give an SDXL LoRA.")
    if not inside:
        wanted = " or ".join(f"{b.name} block ({b.path})" for b in BLOCKS)
        raise LoraError(f"{name} has no weights in the {wanted}; it has {_regions(outside)}. Give a B-LoRA.")
    return inside, tuple(outside)


_REGION = re.compile(
    r"(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)([._]\d+)?|te\d?_|text"
)


def _regions(keys: Iterable[str]) -> str:
    """The parts of the model that the keys belong to, with counts, for an error message."""
    counts: Counter[str] = Counter()
    for key in keys:
        match = _REGION.search(key)
        word = match[0].replace("_text", "") if match else "other parts"
        counts["text encoders" if word.startswith("te") else word] += 1
    return listed(f"{word} ({count} keys)" for word, count in counts.items()) or "no keys at all"


def _assembled(
    tensors: Mapping[str, Tensor],
    inside: Mapping[str, Parsed],
    outside: tuple[str, ...],
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
    name: str,
) -> BLora:
    modules = _grouped(tensors, inside, name)
    pairs: dict[str, LoraPair] = {}
    passthrough: dict[str, _Parts] = {}
    problems = []
    for module, parts in modules.items():
        paired = {"down", "up"} <= set(parts) and "lora_mid.weight" not in parts
        rest = {p: t for p, t in parts.items() if not (paired and p not in PASSTHROUGH)}
        if rest:
            passthrough[module] = rest
        problem = _problem(parts, paired)
        if problem:
            problems.append(f"{module}: {problem}")
        elif paired:
            pairs[module] = _pair(module, parts, config)
    if problems:
        raise LoraError(f"{name} has unusable layers ({listed(problems)}); save or download it again.")
    formats = Counter(p.format for p in inside.values())
    return BLora(
        pairs=pairs,
        source_format=max(sorted(formats), key=lambda f: formats[f]),
        trigger=trigger_of(metadata),
        recipe=recipe_of(metadata),
        passthrough=passthrough,
        outside=outside,
        metadata={k: v for k, v in metadata.items() if not k.startswith("rechar.")},
    )


def _grouped(tensors: Mapping[str, Tensor], inside: Mapping[str, Parsed], name: str) -> dict[str, _Parts]:
    """module -> part -> tensor. Raises LoraError if two keys mean the same part or values are not finite."""
    modules: dict[str, _Parts] = {}
    double, broken = [], []
    for key, parsed in inside.items():
        parts = modules.setdefault(parsed.module, {})
        if parsed.part in parts:
            double.append(key)
        if not _finite(tensors[key]):
            broken.append(key)
        parts[parsed.part] = tensors[key]
    if double:
        raise LoraError(
            f"{name} has the same weights twice, in two key formats: {listed(double)}; delete one of them."
        )
    if broken:
        raise LoraError(f"{name} has NaN or infinite values in {listed(broken)}; it was damaged in training.")
    return modules


def _problem(parts: _Parts, paired: bool) -> str | None:
    """What is wrong with the parts of one layer, or None."""
    if "alpha" in parts and parts["alpha"].numel() != 1:
        return f"alpha of shape {list(parts['alpha'].shape)}"
    if not paired:
        whole = "lora_mid.weight" in parts or (kinds_of(parts) and not {"down", "up"} & set(parts))
        return None if whole else f"only {listed(sorted(parts))}, which is not a whole layer"
    down, up = _matrix(parts["down"]), _matrix(parts["up"])
    shapes = f"down {list(down.shape)}, up {list(up.shape)}"
    if not (down.is_floating_point() and up.is_floating_point()):
        return f"weights of type {down.dtype}, {up.dtype}"
    if down.ndim != 2 or up.ndim != 2:
        return f"weights that are not matrices, {shapes}"
    if down.shape[0] != up.shape[1] or down.shape[0] == 0:
        return f"ranks that differ, {shapes}"
    if "dora_scale" in parts:
        dora = _magnitude(parts["dora_scale"])
        if dora.shape not in ((up.shape[0], 1), (1, down.shape[1])):
            return f"DoRA scale of shape {list(dora.shape)}, {shapes}"
    return None


def _pair(module: str, parts: _Parts, config: Mapping[str, Any]) -> LoraPair:
    down, up = _matrix(parts["down"]), _matrix(parts["up"])
    rank = down.shape[0]
    alpha = float(parts["alpha"].item()) if "alpha" in parts else configured_alpha(config, module, rank)
    dora = _magnitude(parts["dora_scale"]) if "dora_scale" in parts else None
    return LoraPair(down, up, alpha, dora)


def _matrix(tensor: Tensor) -> Tensor:
    """The weight (out, in, 1, 1) of a 1x1 convolution as a matrix (out, in); any other tensor unchanged."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _magnitude(tensor: Tensor) -> Tensor:
    """A DoRA scale as (out, 1) or (1, in). PEFT stores (out,), a 1x1 convolution has four dimensions."""
    return tensor[:, None] if tensor.ndim == 1 else _matrix(tensor)


def _finite(tensor: Tensor) -> bool:
    # float(): isfinite is not implemented for 8-bit floats.
    return bool(tensor.float().isfinite().all())
