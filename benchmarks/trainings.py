"""The B-LoRAs of the quality benchmark: one per glyph and one per style picture, trained once and kept."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rechar_core.backend.pipeline import DEMO
from rechar_core.backend.processes import processes, say
from rechar_core.demo.build import read_config
from rechar_core.images import fit, read
from rechar_core.lora import files
from rechar_core.training.recipe import Precision, TrainingRecipe
from rechar_core.training.recipes import recipe

# In fp16 the loss needs a scale, or its gradients vanish.
_PRECISIONS: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


class Trainings:
    """model: the base model's name in the settings. styles: the style pictures by name.

    glyph: IMAGE (1, H, W, 3) of a script.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        pipeline: Any,
        side: int,
        model: str,
        styles: Mapping[str, Path],
        glyph: Callable[[str], Tensor],
    ):
        self.options, self.pipeline, self.side, self.model = options, pipeline, side, model
        self.styles, self.glyph = styles, glyph
        self.known: dict[Path, Any] = {}

    def recipe(self, kind: str) -> TrainingRecipe:
        demo = read_config()["recipe"][kind] if self.options.model == DEMO else {"target": kind}
        steps = {"steps": self.options.training_steps} if self.options.training_steps else {}
        precision = _PRECISIONS.get(self.pipeline.unet.dtype, "no")
        settings = {"resolution": self.side, "precision": precision, **demo, **steps}
        return recipe(self.options.recipe or "b-lora", settings)

    def recipes(self) -> dict[str, Any]:
        """Both recipes, for the settings."""
        return {kind: told_of(self.recipe(kind)) for kind in ("structure", "style")}

    def file(self, kind: str, name: str) -> Path:
        """Named by all that it was made with."""
        made_with = [told_of(self.recipe(kind)), self.model, self.side]
        made_with += [content_of(self.styles[name])] if kind == "style" else []
        digest = hashlib.sha256(json.dumps(made_with, sort_keys=True).encode()).hexdigest()[:8]
        return self.options.out / "loras" / f"{kind}_{name}_{digest}.safetensors"

    def train(self) -> None:
        """Those that are not there yet, shared between the processes; an unfinished one begins anew."""
        here = processes()
        wanted = [("structure", s) for s in self.options.scripts] + [("style", s) for s in self.styles]
        for kind, name in wanted[here.process_index :: here.num_processes]:
            path = self.file(kind, name)
            if not path.is_file():
                say(f"training {kind} {name}")
                self._learn(kind, name, path)
        self.pipeline.to(here.device)  # training left its encoders on the CPU
        here.wait_for_everyone()

    def _learn(self, kind: str, name: str, path: Path) -> None:
        from rechar_core.cli.train import prepare

        if kind == "style":
            pixels = fit(read(self.styles[name]), self.side)
        else:
            pixels = self.glyph(name)
        run = prepare(self.pipeline, [pixels], [self.recipe(kind)])
        for _ in run.steps():
            pass
        files.write(run.trainings[0].blora(), path)

    def read(self, kind: str, name: str) -> Any:
        """A B-LoRA, one object a file: by it shared passes are recognised."""
        path = self.file(kind, name)
        if path not in self.known:
            self.known[path] = files.read(path)
        return self.known[path]


def told_of(recipe: TrainingRecipe) -> dict[str, Any]:
    """What of a recipe is not the default: a setting that is new to the trainer, and off, changes no measurement."""
    usual = TrainingRecipe().to_json()
    return {name: value for name, value in recipe.to_json().items() if value != usual.get(name)}


def content_of(file: Path) -> str:
    """A short name of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]
