"""B-LoRA files: a file becomes a `BLora`, and a `BLora` becomes a file in any writable format."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import LoraError, listed
from ..storage import file_to_write, header, opened, packed, read_state, write_bytes, write_state
from .blocks import BLOCKS
from .blora import BLora, LoraPair
from .foreign import looks_like
from .key_formats import PASSTHROUGH, WRITABLE, Parsed, key_format_named, parse
from .metadata import build_metadata, recipe_of, trigger_of
from .peft_config import adapter_config_beside, adapter_config_of, configured_alpha

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["convert", "from_tensors", "read", "read_state", "write", "write_state"]

SUFFIX = ".safetensors"
_Parts = dict[str, "Tensor"]


def read(path: str | os.PathLike[str]) -> BLora:
    """The B-LoRA in a safetensors file of any format of `keys.KEY_FORMATS`; only the two blocks are loaded.

    Raises FileError if the file cannot be read, LoraError if it is no SDXL LoRA with weights in the two blocks.
    """
    path = Path(path)
    name = f"'{path.name}'"
    with opened(path) as reader:
        metadata = dict(reader.metadata() or {})
        inside, outside = _sorted_keys(reader.keys(), lambda k: tuple(reader.get_slice(k).get_shape()), name)
        # clone: a mapped tensor would keep the file locked on Windows.
        tensors = {key: reader.get_tensor(key).clone() for key in inside}
    config = adapter_config_of(metadata) or adapter_config_beside(path)
    return _assembled(tensors, inside, outside, metadata, config, name)


def from_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, name: str = "The LoRA"
) -> BLora:
    """The B-LoRA in a state dict (the host's LORA_MODEL, say). `name` begins the messages. Raises LoraError."""
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
    """Write a B-LoRA, whole or not at all, and return where (".safetensors" is added if it is missing).

    thumbnail: an encoded JPEG, PNG or WebP picture. title: the name LoRA managers show; "" keeps the file's own.
    Keys outside the two blocks are not written: they were never loaded. Raises LoraError if there is nothing
    sound to write or `format` cannot hold it, FileError if the disk refuses.
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
    """The state dict of a B-LoRA in one of `keys.WRITABLE`, weights in their own dtype.

    A format without alpha gets alpha / rank folded into `up`. Raises LoraError for another format, or for weights
    it has no place for.
    """
    if format not in WRITABLE:
        raise LoraError(f"There is no LoRA format '{format}' to write; choose one of {listed(WRITABLE)}.")
    grammar = key_format_named(format)
    unheld = {
        part for parts in blora.passthrough.values() for part in parts if part in PASSTHROUGH
    } - grammar.holds
    if unheld:
        able = listed(f for f in WRITABLE if key_format_named(f).holds >= unheld)
        kinds = listed(sorted({PASSTHROUGH[part] for part in unheld}))
        raise LoraError(f"{kinds} weights cannot be written as {format}; choose one of {able}.")
    state = {}
    for module, pair in blora.pairs.items():
        for part, tensor in _stored(pair, module, format).items():
            state[grammar.format(module, part)] = tensor
    for module, parts in blora.passthrough.items():
        for part, tensor in parts.items():
            state[grammar.format(module, part)] = tensor
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
    """Keys inside the two blocks with their meaning, and keys outside. Raises LoraError if neither fits."""
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
        found = looks_like(unknown if inside else unknown + outside, shape_of)
        if found:
            what, key = found
            raise LoraError(f"{name} looks like {what} (key '{key}'); give a LoRA or B-LoRA for SDXL.")
    if unknown:
        raise LoraError(
            f"{name} has keys that are no known LoRA format: {listed(unknown)}; give an SDXL LoRA."
        )
    if not inside:
        wanted = " or ".join(f"{b.name} block ({b.path})" for b in BLOCKS)
        raise LoraError(f"{name} has no weights in the {wanted}; it has {_regions(outside)}. Give a B-LoRA.")
    return inside, tuple(outside)


_REGION = re.compile(
    r"(down_blocks|mid_block|up_blocks|input_blocks|middle_block|output_blocks)([._]\d+)?|te\d?_|text"
)


def _regions(keys: Iterable[str]) -> str:
    """Where keys outside the two blocks lie, with counts, for an error message."""
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
            f"{name} has the same weights twice, under two names: {listed(double)}; keep one format."
        )
    if broken:
        raise LoraError(f"{name} has NaN or infinite values in {listed(broken)}; it was damaged in training.")
    return modules


def _problem(parts: _Parts, paired: bool) -> str | None:
    """What is wrong with the parts of one layer, or None."""
    if "alpha" in parts and parts["alpha"].numel() != 1:
        return f"alpha of shape {list(parts['alpha'].shape)}"
    if not paired:
        if "down" in parts or "up" in parts:
            return None if "lora_mid.weight" in parts else _only_half(parts)
        return None if set(parts) & set(PASSTHROUGH) else f"only {listed(sorted(parts))}, no weights"
    down, up = _matrix(parts["down"]), _matrix(parts["up"])
    shapes = f"down {list(down.shape)}, up {list(up.shape)}"
    if not (down.is_floating_point() and up.is_floating_point()):
        return f"weights of type {down.dtype}, {up.dtype}"
    if down.ndim != 2 or up.ndim != 2:
        return f"weights that are no matrices, {shapes}"
    if down.shape[0] != up.shape[1] or down.shape[0] == 0:
        return f"ranks that differ, {shapes}"
    if "dora_scale" in parts:
        dora = _magnitude(parts["dora_scale"])
        if dora.shape not in ((up.shape[0], 1), (1, down.shape[1])):
            return f"DoRA scale of shape {list(dora.shape)}, {shapes}"
    return None


def _only_half(parts: _Parts) -> str:
    return "down without up" if "down" in parts else "up without down"


def _pair(module: str, parts: _Parts, config: Mapping[str, Any]) -> LoraPair:
    down, up = _matrix(parts["down"]), _matrix(parts["up"])
    rank = down.shape[0]
    alpha = float(parts["alpha"].item()) if "alpha" in parts else configured_alpha(config, module, rank)
    dora = _magnitude(parts["dora_scale"]) if "dora_scale" in parts else None
    return LoraPair(down, up, alpha, dora)


def _matrix(tensor: Tensor) -> Tensor:
    """A 1x1 convolution's weight (out, in, 1, 1) is a matrix; others are left for the shape check."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def _magnitude(tensor: Tensor) -> Tensor:
    """A DoRA scale as (out, 1) or (1, in); PEFT stores (out,), a 1x1 convolution four dimensions."""
    return tensor[:, None] if tensor.ndim == 1 else _matrix(tensor)


def _finite(tensor: Tensor) -> bool:
    # float(): isfinite is not implemented for 8-bit floats.
    return bool(tensor.float().isfinite().all())
