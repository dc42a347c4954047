"""Named recipes: what each changes in the published one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RecipeError
from .recipe import TrainingRecipe

PRESETS: dict[str, dict[str, Any]] = {
    "b-lora": {},  # Frenkel et al. 2024, as published
    # ConsisLoRA (2503.10614), both blocks of the structure picture: epsilon steps first, then the x0 loss
    "consislora": {
        "steps": 1500,
        "prediction_steps": 500,
        "prediction_rate": 2e-4,
        "loss": "x0",
        "learning_rate": 1e-4,
    },
    # its second stage: the style half anew, while the style picture's own structure half stays in the model, frozen
    "consislora-style": {
        "target": "style",
        "steps": 1000,
        "loss": "x0",
        "learning_rate": 1e-4,
        "noise_offset": 0.03,
    },
    "quick": {
        "steps": 350,
        "learning_rate": 2e-4,
    },  # what speaks for it, and how little: benchmarks/README.md
}


def recipe(name: str, settings: Mapping[str, Any]) -> TrainingRecipe:
    """The named recipe with these settings instead of its own. Raises RecipeError on an unknown name or setting."""
    if name not in tuple(PRESETS):  # a tuple, since a file may give a list as name, which has no hash
        raise RecipeError(f"recipe is {name!r}; choose one of {', '.join(PRESETS)}.")
    chosen = {**PRESETS[name], **settings}
    if chosen.get("optimizer") == "prodigy" and "learning_rate" not in settings:
        chosen["learning_rate"] = (
            1.0  # it finds the rate itself; this is a factor on it (Mishchenko & Defazio 2024)
        )
    steps = settings.get("steps")
    if isinstance(steps, int) and "prediction_steps" in PRESETS[name] and "prediction_steps" not in settings:
        whole, part = PRESETS[name]["steps"], PRESETS[name]["prediction_steps"]
        chosen["prediction_steps"] = round(steps * part / whole)  # stages keep their shares
    return TrainingRecipe.from_json(chosen)
