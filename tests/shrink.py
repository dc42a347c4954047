"""Shipped workflows made small enough for a test: the demo model, few steps, small pictures; nothing else changes."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

# input -> the value that a test uses instead, for the nodes that have it
SMALL: dict[str, Any] = {
    "steps": 2,
    "rank": 4,
    "resolution": 256,
    "structure_alphas": "0, 1",
    "style_alphas": "0, 1",
    "crops": 4,
}
_SIZE = {"width": 256, "height": 256, "batch_size": 1}
OWN: dict[str, dict[str, Any]] = {  # what is small for one kind of node alone
    **dict.fromkeys(("EmptyLatentImage", "ReCharGlyph", "ReCharGlyphFromImage"), _SIZE),
    "SoulstylerMask": {"threshold": 0.05},  # random networks are never very sure
}
CHECKPOINT, DEMO = "CheckpointLoaderSimple", "ReCharDemoModel"


def small_api(workflow: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """An API workflow with small values, its checkpoint loader replaced by the demo model (the same outputs)."""
    small = deepcopy(workflow)
    for node in small.values():
        if node["class_type"] == CHECKPOINT:
            node.update(class_type=DEMO, inputs={})
        node["inputs"] |= {
            name: value for name, value in values(node["class_type"]).items() if name in node["inputs"]
        }
    return small


def small_graph(graph: dict[str, Any]) -> dict[str, Any]:
    """A UI workflow with its checkpoint loader replaced; small values are set in the page (see `values`)."""
    small = deepcopy(graph)
    for node in small["nodes"]:
        if node["type"] == CHECKPOINT:
            node.update(type=DEMO, widgets_values=[], properties={}, inputs=[])
    return small


def values(kind: str) -> dict[str, Any]:
    """Small values for a node's inputs, by name."""
    return {**SMALL, **OWN.get(kind, {})}
