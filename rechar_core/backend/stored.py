"""How a checkpoint stores SDXL's weights: plain, in 8 bits, or in 8 bits with scales; and which of its keys matter.

The rule: a key that changes the value of a weight that we use is applied, or the file is refused before anything is
loaded; a missing or misshapen weight is refused; all other keys are passed over, and counted.

Layouts that are applied (those that ComfyUI writes):
- fp8 (e4m3 or e5m2) without scales;
- "scaled fp8": a marker `<part>.scaled_fp8`, and `<layer>.scale_weight` beside `<layer>.weight`;
- ComfyUI's quantisation (its QUANTIZATION.md): `<layer>.weight_scale`, and the format's name as JSON in
  `<layer>.comfy_quant` or in the file's metadata: float8_e4m3fn, float8_e5m2, and int8_tensorwise unless rotated.
Always weight = stored * scale, with one scale for all, or one a row. `scale_input` and `input_scale` are of the
activations, which are not quantised here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, listed
from .sdxl_layout import OPTIONAL, Shapes

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FLOATS = ("F64", "F32", "F16", "BF16")
_FP8 = ("F8_E4M3", "F8_E5M2")
_KNOWN = (None, "float8_e4m3fn", "float8_e5m2", "int8_tensorwise")
_SCALES, _OF_ACTIVATIONS = ("scale_weight", "weight_scale"), ("scale_input", "input_scale")
_MARKERS = ("v_pred", "ztsnr", "scaled_fp8", "comfy_quant", *_OF_ACTIVATIONS)
# Parts of a LoRA (LoHa, LoKr, DoRA, OFT, full differences) that were saved beside the weights they belong to
_ADAPTERS = re.compile(r"(^|[._])(lora|lycoris|dora|hada_w[12]|lokr|oft|boft)(_|\.|$)|\.diff(_b)?$")
_GIVE = "give the fp16, bf16 or fp32 version of the file"


@dataclass(frozen=True)
class Stored:
    """How a checkpoint stores the weights. scales: weight -> its scale's key. eight: number of weights in 8 bits.

    rest: number of keys that are ignored.
    """

    scales: Mapping[str, str]
    eight: int
    rest: int


def examine(name: str, reader: Any, wanted: Shapes) -> Stored:
    """What has to be done to the weights of the open safetensors file `reader`, from names, shapes and small tensors.

    wanted: the model's keys and shapes. Raises ModelError by the rule above, with the file's `name`.
    """
    table = {key: reader.get_slice(key) for key in reader.keys()}  # noqa: SIM118
    _check_complete(name, {key: tuple(part.get_shape()) for key, part in table.items()}, wanted)
    types = {key: part.get_dtype() for key, part in table.items()}
    formats = _formats(reader, types)
    scales: dict[str, str] = {}
    rest = 0
    for key in table:
        if key in wanted:
            continue
        weight, what = _owner(key, wanted)
        if _ADAPTERS.search(key):
            raise ModelError(
                f"{name} holds parts of a LoRA ({key}) beside the model: {_GIVE}, or merge them."
            )
        if weight and what in _SCALES:
            _check_scale(name, key, reader, types, wanted[weight])
            scales[weight] = key
        elif weight and what not in _MARKERS:
            raise ModelError(
                f"{name} holds {key}, which may change a weight in a way not known here: {_GIVE}."
            )
        elif what not in _MARKERS:
            rest += 1
    _check_types(name, types, formats, scales, wanted)
    _check_plain(name, reader, types, scales)
    eight = sum(types[key] not in _FLOATS for key in wanted if key in types and not key.endswith(OPTIONAL))
    return Stored(scales, eight, rest)


def read(reader: Any, stored: Stored, key: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """One weight of the file, dequantised, in `dtype`, in memory of its own: a mapped file would stay locked."""
    weight = reader.get_tensor(key)
    if not key.endswith(OPTIONAL):
        weight = weight.reshape(shape)
    if key not in stored.scales:
        return weight.to(dtype, copy=True)
    return dequantised(weight, reader.get_tensor(stored.scales[key]), dtype)


def dequantised(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """stored * scale, computed in fp32; scale: one number, or one for each row of the weight (out, ...)."""
    return (weight.float() * scale.float().reshape(-1, *[1] * (weight.ndim - 1))).to(dtype)


def _check_complete(name: str, shapes: Shapes, wanted: Shapes) -> None:
    missing = [key for key in wanted if key not in shapes and not key.endswith(OPTIONAL)]
    if missing:
        raise ModelError(f"{name} lacks {listed(missing, 3)}: the file is incomplete, download it again.")
    wrong = [key for key in wanted if key in shapes and _plain(shapes[key]) != _plain(wanted[key])]
    if wrong:
        raise ModelError(
            f"{name} holds {wrong[0]} as {shapes[wrong[0]]}, SDXL's is {wanted[wrong[0]]}: it is packed in a way not "
            f"known here, or another model; {_GIVE}."
        )


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Some files keep 1 x 1 convolutions as matrices, and the other way round."""
    while len(shape) > 1 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _owner(key: str, wanted: Shapes) -> tuple[str, str]:
    """The weight of the model that a key beside it belongs to, or "", and the key's own last part."""
    layer, _, what = key.rpartition(".")
    if f"{layer}.weight" in wanted:
        return f"{layer}.weight", what
    inner = f"{layer}."  # as `<layer>.weight.absmax`, or `<layer>.lora_down.weight`
    while inner := inner.rpartition(".")[0]:
        for weight in (inner, f"{inner}.weight"):
            if weight in wanted:
                return weight, key.removeprefix(f"{inner}.")
    for end in _SCALES:  # of a matrix that is no layer of its own, as open_clip's in_proj_weight
        if key.endswith(f"_{end}") and key.removesuffix(f"_{end}") in wanted:
            return key.removesuffix(f"_{end}"), end
    return "", what


def _formats(reader: Any, types: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Layer -> its quantisation as ComfyUI names it, from the file's metadata and from tensors that hold JSON."""
    formats: dict[str, dict[str, Any]] = {}
    try:
        formats |= json.loads((reader.metadata() or {}).get("_quantization_metadata", "{}")).get("layers", {})
        for key in types:
            if key.endswith(".comfy_quant"):
                formats[key.removesuffix(".comfy_quant")] = json.loads(bytes(reader.get_tensor(key).tolist()))
    except (ValueError, AttributeError, TypeError) as error:
        raise ModelError(
            f"The file's description of its quantisation is damaged ({error}); {_GIVE}."
        ) from None
    return formats


def _check_types(
    name: str,
    types: Mapping[str, str],
    formats: Mapping[str, Mapping[str, Any]],
    scales: Mapping[str, str],
    wanted: Shapes,
) -> None:
    """Raises ModelError for a weight stored in a way that is not known."""
    for key in wanted:
        if key not in types or key.endswith(OPTIONAL):
            continue
        kind, about = types[key], formats.get(key.removesuffix(".weight"), {})
        format, rotated = about.get("format"), {**(about.get("params") or {}), **about}.get("convrot")
        scaled_int8 = kind == "I8" and key in scales and format in (None, "int8_tensorwise")
        if rotated or format not in _KNOWN or not (kind in _FLOATS or kind in _FP8 or scaled_int8):
            how = (
                f"{format}{', rotated' if rotated else ''} ({kind})" if format else f"{kind} without a scale"
            )
            raise ModelError(f"{name} is quantised as {how}: {key}; that cannot be read here, {_GIVE}.")


def _check_scale(name: str, key: str, reader: Any, types: Mapping[str, str], weight: tuple[int, ...]) -> None:
    shape = _plain(tuple(reader.get_slice(key).get_shape()))
    if types[key] not in _FLOATS or shape not in ((), (1,), (weight[0],)):
        raise ModelError(
            f"{name} has scales by block ({key}: {types[key]}, {shape}), which cannot be read here; {_GIVE}."
        )


def _check_plain(name: str, reader: Any, types: Mapping[str, str], scales: Mapping[str, str]) -> None:
    """Raises ModelError for a scale beside a weight in 16 or 32 bits, unless it is 1: which of both is meant?"""
    for weight, key in scales.items():
        if types[weight] in _FLOATS and bool((reader.get_tensor(key) != 1).any()):
            raise ModelError(f"{name} has a scale ({key}) of a weight that is not in 8 bits; {_GIVE}.")
