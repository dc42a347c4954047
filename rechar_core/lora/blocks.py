"""The block table: which transformer block of SDXL's UNet holds structure and which holds style.

Source: B-LoRA (Frenkel et al., ECCV 2024), blocks W4 and W5; docs/blora.md, "The two blocks".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Block:
    """One trained block. `path` is its module path in diffusers' UNet, `host` in ComfyUI's (SGM) UNet."""

    name: Literal["structure", "style"]
    path: str
    host: str


STRUCTURE = Block("structure", "up_blocks.0.attentions.0", "output_blocks.0.1")
STYLE = Block("style", "up_blocks.0.attentions.1", "output_blocks.1.1")
BLOCKS: tuple[Block, ...] = (STRUCTURE, STYLE)


def block_of(path: str) -> Block | None:
    """The block that contains a diffusers module path, or None.

    Compares whole path components, so that "attentions.1" never matches "attentions.10".
    """
    return next((b for b in BLOCKS if f"{path}.".startswith(f"{b.path}.")), None)


def block_of_host(path: str) -> Block | None:
    """The block that contains a ComfyUI module path (without "diffusion_model."), or None."""
    return next((b for b in BLOCKS if f"{path}.".startswith(f"{b.host}.")), None)
