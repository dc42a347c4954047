"""Input options that several nodes share."""

from __future__ import annotations

from typing import Any

ELEMENTS: dict[str, Any] = {
    "default": "plum blossoms, a crane",
    "multiline": True,
    "tooltip": "Decorative things, separated by commas or line breaks.",
}
STYLE_IMAGE: dict[str, Any] = {
    "optional": True,
    "tooltip": (
        "The style picture for the style adapter. With a style B-LoRA, the second pass generates that picture, and "
        "only references-only uses this one."
    ),
}
MODES = ["tuned", "paper", "official", "references-only"]
PASSES_SEED: dict[str, Any] = {
    "default": 0,
    "min": 0,
    "max": 2**64 - 1,
    "control_after_generate": True,
    "tooltip": "Seed of the noise. The three passes use seed, seed + 1 and seed + 2.",
}
PASSES_STEPS: dict[str, Any] = {
    "default": 0,
    "min": 0,
    "max": 10000,
    "tooltip": "Sampling steps of each pass. 0: the mode's own value.",
}
PASSES_GUIDANCE: dict[str, Any] = {
    "default": 0.0,
    "min": 0.0,
    "max": 100.0,
    "step": 0.1,
    "tooltip": "CFG of all passes. 0: the mode's own value. Use 1 with the demo model.",
}
