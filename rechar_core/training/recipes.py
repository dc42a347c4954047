"""Named recipes: what each changes in the published one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import RecipeError
from .recipe import TrainingRecipe

RECIPES: dict[str, dict[str, Any]] = {
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
    if name not in tuple(RECIPES):  # a tuple, since a file may give a list as name, which has no hash
        raise RecipeError(f"recipe is {name!r}; choose one of {', '.join(RECIPES)}.")
    chosen = {**RECIPES[name], **_rates(RECIPES[name], settings), **settings}
    steps = settings.get("steps")
    if isinstance(steps, int) and "prediction_steps" in RECIPES[name] and "prediction_steps" not in settings:
        whole, part = RECIPES[name]["steps"], RECIPES[name]["prediction_steps"]
        chosen["prediction_steps"] = round(steps * part / whole)  # stages keep their shares
    return TrainingRecipe.from_json(chosen)


def _rates(recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, float]:
    """The stages' learning rates; where only the last one's is given, the first one's keeps its proportion to it."""
    last, first = recipe.get("learning_rate", TrainingRecipe.learning_rate), recipe.get("prediction_rate")
    if settings.get("optimizer") == "prodigy":
        # it finds the rate itself; these are factors on it (Mishchenko & Defazio 2024)
        last, first = 1.0, first and 1.0
    rate = settings.get("learning_rate")
    if first is None:
        return {"learning_rate": last}
    if isinstance(rate, (int, float)):  # TrainingRecipe refuses anything else
        first *= rate / last
    return {"learning_rate": last, "prediction_rate": first}
