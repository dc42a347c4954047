"""Reads and writes B-LoRA files: every format of `KEY_FORMATS` can be read, those of `WRITABLE` can be written."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, LoraError, check_choice, listed, readable
from ..storage import file_to_write, header, opened, packed, write_bytes
from .blocks import BLOCKS
from .blora import BLora, LoraPair
from .foreign import looks_like, unreadable_kind
from .key_formats import PASSTHROUGH, WRITABLE, Parsed, key_format_named, kinds_of, parse
from .layers import is_paired, magnitude, odd_type, pair_of, problem_of, without_scalar
from .metadata import build_metadata, recipe_of, stored_hash, trigger_of
from .peft_config import adapter_config_beside, adapter_config_of

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
        _check_hash(path, stored_hash(metadata))
        keys = _sorted_keys(reader.keys(), lambda k: tuple(reader.get_slice(k).get_shape()), name)
        # A memory-mapped tensor would keep the file locked on Windows, hence clone().
        tensors = {key: reader.get_tensor(key).clone() for key in keys.inside}
    config = adapter_config_of(metadata) or adapter_config_beside(path)
    return _assembled(tensors, keys, metadata, config, name)


def _check_hash(path: Path, stored: str | None) -> None:
    """Raises FileError if the tensor bytes of a file of ours are not those that were written."""
    if not stored:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + length)
        while piece := file.read(1 << 20):
            digest.update(piece)
    if digest.hexdigest() != stored.lower():
        raise FileError(
            f"'{path.name}' is damaged or was changed by another program: its weights have not the SHA-256 that they "
            "were saved with; copy, download or save it again."
        )


def from_tensors(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, name: str = "The LoRA"
) -> BLora:
    """The B-LoRA in a state dict, such as ComfyUI's LORA_MODEL. `name` is used in error messages. Raises LoraError."""
    metadata = dict(metadata or {})
    keys = _sorted_keys(tensors, lambda key: tuple(tensors[key].shape), name)
    tensors = {key: tensors[key].detach() for key in keys.inside}
    return _assembled(tensors, keys, metadata, adapter_config_of(metadata), name)


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


@dataclass(frozen=True)
class _Keys:
    """The keys of a file: parsed inside the two blocks, outside them, and those that are not understood."""

    inside: dict[str, Parsed]
    outside: tuple[str, ...]
    unknown: tuple[str, ...]


def _sorted_keys(keys: Iterable[str], shape_of: Callable[[str], tuple[int, ...]], name: str) -> _Keys:
    """The keys by where they belong. Raises LoraError if none is inside, or if nothing can read some that are."""
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
    kind = unreadable_kind(unknown)
    if kind:
        raise LoraError(
            f"{name} has {kind[0]} weights in the two blocks (key '{kind[1]}'), which ComfyUI cannot read either; "
            "give a LoRA or B-LoRA for SDXL."
        )
    if inside:
        return _Keys(inside, tuple(outside), tuple(unknown))
    foreign = looks_like(unknown + outside, shape_of)
    if foreign:
        what, key = foreign
        raise LoraError(f"{name} looks like {what} (key '{key}'); give a LoRA or B-LoRA for SDXL.")
    if unknown:
        raise LoraError(f"{name} has keys of no known LoRA format: {listed(unknown)}; give an SDXL LoRA.")
    wanted = " or ".join(f"{b.name} block ({b.path})" for b in BLOCKS)
    raise LoraError(f"{name} has no weights in the {wanted}; it has {_regions(outside)}. Give a B-LoRA.")


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
    keys: _Keys,
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
    name: str,
) -> BLora:
    modules, idle = _grouped(tensors, keys.inside, name)
    problems = [f"{module}: {problem}" for module, parts in modules.items() if (problem := problem_of(parts))]
    if problems:
        raise LoraError(f"{name} has unusable layers ({listed(problems)}); save or download it again.")
    modules = {module: without_scalar(parts) for module, parts in modules.items()}
    unknown = (*keys.unknown, *idle)
    if unknown:
        text = f"{name} has {len(unknown)} keys that are not understood and not used: {listed(unknown)}."
        logging.getLogger(__name__).warning(readable(text))
    formats = Counter(p.format for p in keys.inside.values())
    return BLora(
        pairs={m: pair_of(m, parts, config) for m, parts in modules.items() if is_paired(parts)},
        source_format=max(sorted(formats), key=lambda f: formats[f]),
        trigger=trigger_of(metadata),
        recipe=recipe_of(metadata),
        passthrough={m: rest for m, parts in modules.items() if (rest := _unpaired(parts))},
        outside=keys.outside,
        unknown=unknown,
        metadata={k: v for k, v in metadata.items() if not k.startswith("rechar.")},
    )


def _unpaired(parts: _Parts) -> _Parts:
    """The parts of a layer that a low-rank pair does not hold."""
    if is_paired(parts):
        return {part: tensor for part, tensor in parts.items() if part in PASSTHROUGH}
    return {p: magnitude(t) if p == "dora_scale" else t for p, t in parts.items()}


def _grouped(
    tensors: Mapping[str, Tensor], inside: Mapping[str, Parsed], name: str
) -> tuple[dict[str, _Parts], tuple[str, ...]]:
    """Module path -> {part: tensor}, and the keys of layers that have an alpha and no weights, if others have some.

    Raises LoraError if a part is there twice, of a type that it cannot have, or not finite.
    """
    modules: dict[str, _Parts] = {}
    double, odd, broken = [], [], []
    for key, parsed in inside.items():
        parts, tensor = modules.setdefault(parsed.module, {}), tensors[key]
        if parsed.part in parts:
            double.append(key)
        kind = odd_type(parsed.part, tensor)
        if kind:
            odd.append(f"{key}: {kind}")
        elif not _finite(tensor):
            broken.append(key)
        parts[parsed.part] = tensor
    if double:
        raise LoraError(
            f"{name} has the same weights twice, in two key formats: {listed(double)}; delete one of them."
        )
    if odd:
        raise LoraError(f"{name} has weights of a type that no LoRA has ({listed(odd)}); save it in fp16.")
    if broken:
        raise LoraError(f"{name} has NaN or infinite values in {listed(broken)}; it was damaged in training.")
    used = {module: parts for module, parts in modules.items() if set(parts) - {"alpha", "scalar"}}
    if not used:
        return modules, ()
    return used, tuple(key for key, parsed in inside.items() if parsed.module not in used)


def _finite(tensor: Tensor) -> bool:
    # float(): isfinite is not implemented for 8-bit floats.
    return bool(tensor.float().isfinite().all())
