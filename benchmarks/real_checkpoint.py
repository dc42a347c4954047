"""A checkpoint of SDXL's real size and layout with random weights, for what no small model shows: keys, types, memory.

Its weights are scaled so that activations stay finite. Of each kind, `value` says what a weight is once dequantised:
from the file's own bytes, by the definition of the format.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rechar_core.backend.sdxl_layout import UNET, checkpoint

# epsilon: as sd_xl_base_1.0 in fp16; v-prediction: bf16 with NoobAI's marker keys; fp8: the UNet cast as it is;
# scaled-fp8: the UNet's matrices with a scale each, as ComfyUI's converters write them, junk of merged files beside it
KINDS = ("epsilon", "v-prediction", "fp8", "scaled-fp8")
_NAMES = {
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
}
_POOL = 1 << 24  # random values that all weights are cut from


def write(kind: str, path: Path) -> Path:
    """Writes the file, tensor by tensor; one that is there already is kept."""
    if path.is_file():
        return path
    table: dict[str, Any] = {}
    offset = 0
    for key, shape, dtype in _entries(kind):
        size = math.prod(shape) * dtype.itemsize
        table[key] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    pool = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
    with part.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        scales: dict[str, Tensor] | None = {} if kind == "scaled-fp8" else None
        for key, shape, dtype in _entries(kind):
            tensor = _tensor(key, shape, dtype, pool, scales)
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    os.replace(part, path)
    return path


def value(reader: Any, key: str) -> Tensor:
    """What the weight `key` of the open file is, in fp32."""
    stored = reader.get_tensor(key).float()
    scale = key.removesuffix(".weight") + ".scale_weight"
    return stored * reader.get_tensor(scale) if scale in reader.keys() else stored  # noqa: SIM118


def _entries(kind: str) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    plain = torch.float16 if kind in ("epsilon", "fp8") else torch.bfloat16
    for key, shape in checkpoint().items():
        inside = key.startswith(UNET)
        if key.endswith("position_ids"):
            yield key, shape, torch.int64
        elif kind == "fp8" and inside:
            yield key, shape, torch.float8_e4m3fn
        elif kind == "scaled-fp8" and inside and len(shape) == 2:
            yield key, shape, torch.float8_e4m3fn
            yield key.removesuffix(".weight") + ".scale_weight", (), torch.float32
        else:
            yield key, shape, plain
    if kind == "v-prediction":
        yield "v_pred", (0,), torch.float32
        yield "ztsnr", (0,), torch.float32
    if kind == "scaled-fp8":
        yield f"{UNET}scaled_fp8", (2,), torch.float8_e4m3fn
        yield "model_ema.decay", (), torch.float32
        yield "first_stage_model.loss.logvar", (), torch.float32


def _tensor(
    key: str, shape: tuple[int, ...], dtype: torch.dtype, pool: Tensor, scales: dict[str, Tensor] | None
) -> Tensor:
    """The stored values. scales: takes the scale of a weight in 8 bits, whose own key comes just after."""
    if scales is not None and key in scales:
        return scales.pop(key)
    if dtype == torch.int64:
        return torch.arange(math.prod(shape)).reshape(shape)
    if key.endswith("logit_scale"):
        return torch.full(shape, 4.6, dtype=dtype)
    values = _values(key, shape, pool)
    if scales is not None and dtype == torch.float8_e4m3fn and len(shape) == 2:
        scale = values.abs().max() / torch.finfo(dtype).max
        scales[key.removesuffix(".weight") + ".scale_weight"] = scale
        values = values / scale
    return values.to(dtype)


def _values(key: str, shape: tuple[int, ...], pool: Tensor) -> Tensor:
    if len(shape) < 2:
        gain = key.endswith(".weight")  # of a normalisation
        return torch.ones(shape) if gain else torch.zeros(shape)
    count = math.prod(shape)
    long = pool if count <= _POOL else pool.repeat(-(-count // _POOL))
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "little") % (len(long) - count + 1)
    cut = long[start : start + count].view(shape)
    deviation = 0.02 if "embedding" in key else 0.7 / math.prod(shape[1:]) ** 0.5
    return cut * deviation
