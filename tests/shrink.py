"""Shipped workflows made small enough for a test: the demo model, few steps, small pictures; nothing else changes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

# input -> the value that a test uses instead, for the nodes that have it
SMALL: dict[str, Any] = {
    "steps": 2,
    "rank": 4,
    "resolution": 128,
    "structure_alphas": "0, 1",
    "style_alphas": "0, 1",
    "crops": 4,
}
_SIZE = {"width": 128, "height": 128, "batch_size": 1}
OWN: dict[str, dict[str, Any]] = {  # what is small for one kind of node alone
    **dict.fromkeys(("EmptyLatentImage", "ReCharGlyph", "ReCharGlyphFromImage"), _SIZE),
    "ReCharWord": {"side": 128, "structure_steps": 2, "structure_rank": 4},
    "SoulstylerMask": {"threshold": 0.05},  # random networks are never very sure
}
# Loaders of full-size files -> the demo's node with the same first output; they need nothing then.
STANDS_FOR = {"CheckpointLoaderSimple": "ReCharDemoModel", "ReCharLoadAdapters": "ReCharDemoReferences"}
LEFT_OUT = "CLIPVisionLoader"  # whose encoder the demo's adapters bring along


def small_api(workflow: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """An API workflow with small values, its loaders replaced by those of the demo model (the same outputs)."""
    small = {k: deepcopy(n) for k, n in workflow.items() if n["class_type"] != LEFT_OUT}
    for node in small.values():
        if node["class_type"] in STANDS_FOR:
            node.update(class_type=STANDS_FOR[node["class_type"]], inputs={})
        node["inputs"] |= {
            name: value for name, value in values(node["class_type"]).items() if name in node["inputs"]
        }
    return small


def smallest(workflow: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`small_api` with pictures of 64 pixels."""
    small = small_api(workflow)
    for node in small.values():
        sides = ("resolution", "width", "height", "side")
        node["inputs"] |= {key: 64 for key in sides if key in node["inputs"]}
    return small


def small_graph(graph: dict[str, Any]) -> dict[str, Any]:
    """A UI workflow with its loaders replaced; small values are set in the page (see `values`)."""
    small = deepcopy(graph)
    gone = {node["id"] for node in small["nodes"] if node["type"] == LEFT_OUT}
    small["nodes"] = [node for node in small["nodes"] if node["id"] not in gone]
    small["links"] = [link for link in small["links"] if link[1] not in gone]
    for node in small["nodes"]:
        if node["type"] in STANDS_FOR:
            node.update(type=STANDS_FOR[node["type"]], widgets_values=[], properties={}, inputs=[])
    return small


def values(kind: str) -> dict[str, Any]:
    """Small values for a node's inputs, by name."""
    return {**SMALL, **OWN.get(kind, {})}
