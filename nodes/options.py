"""What inputs of several nodes have in common, each said once."""

from __future__ import annotations

from typing import Any

ELEMENTS: dict[str, Any] = {
    "default": "plum blossoms, a crane",
    "multiline": True,
    "tooltip": "Decorative things, separated by commas or lines.",
}
MODES = ["tuned", "paper", "official", "references-only"]
PASSES_SEED: dict[str, Any] = {
    "default": 0,
    "min": 0,
    "max": 2**63,
    "control_after_generate": True,
    "tooltip": "Of the noise; the passes take this one and the next two.",
}
PASSES_STEPS: dict[str, Any] = {
    "default": 0,
    "min": 0,
    "max": 1000,
    "tooltip": "Of each pass; 0 is the mode's own.",
}
PASSES_GUIDANCE: dict[str, Any] = {
    "default": 0.0,
    "min": 0.0,
    "max": 100.0,
    "step": 0.1,
    "tooltip": "CFG of all passes; 0 is the mode's own. The demo model wants 1.",
}
