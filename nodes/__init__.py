"""The nodes in menu order. A new module's name goes into _MODULES; each lists its node classes in NODES.

In a schema, an output is written X.Output(id, label, tooltip=...).
"""

from __future__ import annotations

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

from .host.gate import gate

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
    """The entry point from which ComfyUI gets the node classes."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [node for name in _MODULES for node in _nodes_of(name)]


def _nodes_of(name: str) -> list[type[io.ComfyNode]]:
    """The node classes of a module, or an empty list if the module cannot be imported in this ComfyUI.

    If ComfyUI has renamed one of its modules, only the nodes that import it are missing, with a warning in the log,
    instead of the whole pack. The schemas are built here too, because some of them list options of ComfyUI.
    """
    try:
        nodes = list(import_module(f".{name}", __name__).NODES)
        for node in nodes:
            gate(node, node.GET_SCHEMA())
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
    """ComfyUI calls this to load the pack."""
    return ReCharExtension()
