"""The cross-attention layers of ComfyUI's UNet in the order of IP-Adapters, and the weight of each block.

Published IP-Adapters number the cross-attentions of diffusers' UNet 1, 3, 5, ...: first the down blocks, then the up
blocks, then the middle block. ComfyUI names its blocks ("input", n), ("output", n), ("middle", 0).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ...rechar_core.synthesis.references.errors import AdapterError

_SIDES = {"input": 0, "output": 1, "middle": 2}  # in the adapters' order
_PATH = re.compile(
    r"(input|output|middle)_blocks?\.(?:(\d+)\.)?\d+\.transformer_blocks\.(\d+)\.attn2\.to_k\.weight"
)
_NAMES = {"structure": "output 0", "style": "output 1"}  # B-LoRA's blocks
_SEPARATORS = re.compile(r"[,;\n，；]+")
EVERY = "*"


@dataclass(frozen=True)
class Layer:
    """One cross-attention of ComfyUI's UNet. width: of its keys."""

    side: str
    block: int
    index: int
    width: int

    @property
    def block_name(self) -> str:
        """As the user writes it: "input 4", "output 0", "middle"."""
        return self.side if self.side == "middle" else f"{self.side} {self.block}"


def layers_of(shapes: Iterable[tuple[str, int]]) -> tuple[Layer, ...]:
    """The cross-attentions among (weight name, rows) of ComfyUI's UNet, in the IP-Adapters' order."""
    layers = []
    for name, width in shapes:
        match = _PATH.search(name)
        if match:
            layers.append(Layer(match[1], int(match[2] or 0), int(match[3]), width))
    return tuple(sorted(layers, key=lambda layer: (_SIDES[layer.side], layer.block, layer.index)))


def block_weights(text: str, layers: Iterable[Layer]) -> dict[str, float]:
    """The weight of each block, from text such as "output 1: 1, middle: 0.5, *: 0". Other blocks get that of *, else 1.

    "structure" and "style" mean B-LoRA's two blocks. Raises AdapterError for an unknown block or a missing number.
    """
    blocks = list(dict.fromkeys(layer.block_name for layer in layers))
    named: dict[str, float] = {}
    for part in filter(str.strip, _SEPARATORS.split(text)):
        name, colon, value = part.replace("=", ":").replace("\uff1a", ":").partition(":")
        name = " ".join(name.lower().split())
        name = _NAMES.get(name, name)
        if not colon or name not in (*blocks, EVERY) or not _is_number(value):
            raise AdapterError(
                f"'{part.strip()}' is no block weight; write BLOCK: NUMBER, where a block is one of "
                f"{', '.join(blocks)}, structure, style or * for all others."
            )
        named[name] = float(value)
    return {block: named.get(block, named.get(EVERY, 1.0)) for block in blocks}


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
