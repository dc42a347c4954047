"""Defaults of options that depend on the model: with `--model demo` the demo model's settings.

The published ones (1024 pixels, 1000 steps, rate 5e-5) are for SDXL; the demo model learns nothing from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..demo.build import read_config

DEMO = "demo"  # the demo model's name wherever a model is named


def training(model: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training that are not among `given`; with a recipe named there, the demo's pixels alone.

    {} for every other model. Raises ReCharError if the demo model's configuration cannot be read.
    """
    if model != DEMO:
        return {}
    if "recipe" in given:
        settings: dict[str, Any] = {"resolution": read_config()["pixels"]}
    else:
        target = given.get("target")
        settings = dict(read_config()["recipe"]["style" if target == "style" else "structure"])
        del settings["prompt"], settings["target"]
        if given.get("optimizer") == "prodigy":  # it finds the rate itself
            del settings["learning_rate"]
    return {name: value for name, value in settings.items() if name not in given}


def drawing(model: object, given: Mapping[str, Any]) -> dict[str, Any]:
    """Steps and guidance of the sampler that are not among `given`; {} for every other model."""
    if model != DEMO:
        return {}
    recipe = read_config()["recipe"]
    settings = {"steps": recipe["sampler_steps"], "guidance": recipe["guidance"]}
    return {name: value for name, value in settings.items() if name not in given}


def described(settings: Mapping[str, Any]) -> str:
    """One line that names these settings, as the options that set them."""
    options = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in settings.items())
    return f"The demo model's own settings, where none is given: {options}"
