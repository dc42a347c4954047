"""The nodes in menu order. A new module goes into _MODULES; each lists its node classes in NODES."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import (
    blora,
    demo,
    elements,
    evaluate,
    fusion,
    glyph,
    grid,
    pipeline,
    references,
    restyle,
    soulstyler,
    training,
    word,
)

_MODULES = (
    glyph,
    training,
    blora,
    fusion,
    elements,
    grid,
    references,
    pipeline,
    word,
    evaluate,
    soulstyler,
    restyle,
    demo,
)


class ReCharExtension(ComfyExtension):
    """What the host asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for module in _MODULES for node in module.NODES]


async def comfy_entrypoint() -> ReCharExtension:
    """The host's way in."""
    return ReCharExtension()
