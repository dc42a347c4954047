"""Which cross-attentions there are, in the adapters' order, and how strongly each block takes part.

Published adapters number the cross-attentions of diffusers' UNet 1, 3, 5, ... through the encoder, then the decoder,
then the middle; the host names its blocks ("input", n), ("output", n), ("middle", 0).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from .errors import AdapterError

_SIDES = {"input": 0, "output": 1, "middle": 2}  # in the adapters' order
_PATH = re.compile(
    r"(input|output|middle)_blocks?\.(?:(\d+)\.)?\d+\.transformer_blocks\.(\d+)\.attn2\.to_k\.weight"
)
_NAMES = {"structure": "output 0", "style": "output 1"}  # B-LoRA's blocks
_SEPARATORS = re.compile(r"[,;\n，；]+")
EVERY = "*"


@dataclass(frozen=True)
class Layer:
    """One cross-attention of the host's UNet. width: of its keys."""

    side: str
    block: int
    index: int
    width: int

    @property
    def block_name(self) -> str:
        """As the user writes it: "input 4", "output 0", "middle"."""
        return self.side if self.side == "middle" else f"{self.side} {self.block}"


def layers_of(shapes: Iterable[tuple[str, int]]) -> tuple[Layer, ...]:
    """The cross-attentions among (weight name, rows) of the host's UNet, in the adapters' order."""
    found = []
    for name, width in shapes:
        match = _PATH.search(name)
        if match:
            found.append(Layer(match[1], int(match[2]) if match[1] != "middle" else 0, int(match[3]), width))
    return tuple(sorted(found, key=lambda layer: (_SIDES[layer.side], layer.block, layer.index)))


def block_weights(text: str, layers: Iterable[Layer]) -> dict[str, float]:
    """The weight of each block, from "output 1: 1, middle: 0.5, *: 0"; what is not named has * or 1.

    "structure" and "style" mean B-LoRA's two blocks. Raises AdapterError on an unknown block or no number.
    """
    blocks = list(dict.fromkeys(layer.block_name for layer in layers))
    given: dict[str, float] = {}
    for part in filter(str.strip, _SEPARATORS.split(text)):
        name, colon, value = part.replace("=", ":").replace("\uff1a", ":").partition(":")
        name = " ".join(name.lower().split())
        name = _NAMES.get(name, name)
        if not colon or name not in (*blocks, EVERY) or not _is_number(value):
            raise AdapterError(
                f"'{part.strip()}' is no block weight; write BLOCK: NUMBER, where a block is one of "
                f"{', '.join(blocks)}, structure, style or * for all others."
            )
        given[name] = float(value)
    return {block: given.get(block, given.get(EVERY, 1.0)) for block in blocks}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
