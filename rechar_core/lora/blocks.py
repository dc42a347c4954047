"""The one block table: which part of SDXL's UNet carries structure and which carries style.

Source: B-LoRA (Frenkel et al., ECCV 2024), blocks W4 and W5; ../shared/spec/blora.md, "The block table".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BlockName = Literal["structure", "style"]


@dataclass(frozen=True)
class Block:
    """One trained block. `path` is its module path in diffusers' UNet, `host` in ComfyUI's (SGM) UNet."""

    name: BlockName
    path: str
    host: str


STRUCTURE = Block("structure", "up_blocks.0.attentions.0", "output_blocks.0.1")
STYLE = Block("style", "up_blocks.0.attentions.1", "output_blocks.1.1")
BLOCKS: tuple[Block, ...] = (STRUCTURE, STYLE)

# "content" is the papers' word for structure; it is understood on reading and never written.
_NAMES = {"structure": STRUCTURE, "content": STRUCTURE, "style": STYLE}


def block_named(name: str) -> Block:
    """The block called `name` ("structure", "style", or "content" for structure).

    Raises KeyError for any other name: names come from our own schemas, never from a user's text.
    """
    return _NAMES[name]


def block_of(path: str) -> Block | None:
    """The block that a diffusers module path lies in, or None.

    Compares whole path components, so that "attentions.1" never matches "attentions.10".
    """
    return next((b for b in BLOCKS if path == b.path or path.startswith(b.path + ".")), None)


def block_of_host(path: str) -> Block | None:
    """The block that a host module path (without "diffusion_model.") lies in, or None."""
    return next((b for b in BLOCKS if path == b.host or path.startswith(b.host + ".")), None)
