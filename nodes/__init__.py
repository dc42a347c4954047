"""The nodes in menu order. A new module's name goes into _MODULES; each lists its node classes in NODES."""

from __future__ import annotations

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

_MODULES = (
    "glyph",
    "training",
    "blora",
    "fusion",
    "elements",
    "grid",
    "references",
    "pipeline",
    "lettering",
    "evaluate",
    "soulstyler",
    "restyle",
    "demo",
)
_HOST = ("comfy", "comfy_api", "comfy_extras", "folder_paths", "latent_preview", "nodes")


class ReCharExtension(ComfyExtension):
    """What the host asks for the nodes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for name in _MODULES for node in _nodes_of(name)]


def _nodes_of(name: str) -> list[type[io.ComfyNode]]:
    """A module's nodes; none, with a line in the log, where this ComfyUI lacks what the module imports.

    One module that the host renamed takes the nodes that need it, not all of the pack. The schemas are asked for here
    because they list what the host has.
    """
    try:
        nodes = list(import_module(f".{name}", __name__).NODES)
        for node in nodes:
            node.GET_SCHEMA()
        return nodes
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in _HOST:
            raise
        logging.getLogger(__name__).warning(
            "ReChar: this ComfyUI has no %s as the nodes of '%s' need it; they are left out. Update ReChar. (%s)",
            error.name,
            name,
            error,
        )
        return []


async def comfy_entrypoint() -> ReCharExtension:
    """The host's way in."""
    return ReCharExtension()
