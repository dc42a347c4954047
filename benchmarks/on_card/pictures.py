"""From a glyph and a style picture to the finished picture, both trainings included; what a fused LoRA costs."""

from __future__ import annotations

import gc
import tempfile
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.backend.pipeline import cast
from rechar_core.cli.generate import Sampling, sample
from rechar_core.cli.train import RunContext, TrainJob, read_pictures, train_on
from rechar_core.device import (
    empty_cache,
    float_named,
    forget_peak,
    peak_memory,
    render_precision,
    training_precision,
)
from rechar_core.lora import files
from rechar_core.lora.blora import BLora, LoraPair
from rechar_core.lora.fusion import Fusion, fuse
from rechar_core.training.recipe import TrainingRecipe
from rechar_core.training.recipes import recipe

from .task import GLYPH, STYLE, Row, Task, note

_PROMPT = "A [c] in [s] style"
_STEP = 0.06  # seconds of a training step on a fast card


def run(task: Task) -> None:
    bench = Bench(task)
    task.measure("fused LoRA", 20, bench.overhead)
    for name in task.size.recipes:
        chosen = bench.recipe(name)
        task.measure(
            f"whole, recipe {name}", bench.expected(chosen), lambda chosen=chosen: bench.whole(chosen)
        )


class Bench:
    """One model, on the CPU for training as `train` has it, then on the device for drawing as `generate` has it."""

    def __init__(self, task: Task):
        self.task = task
        self.pipeline: Any = task.pipeline(float_named(training_precision(task.device)))

    def recipe(self, name: str) -> TrainingRecipe:
        size = self.task.size
        settings: dict[str, Any] = {"rank": size.rank, "resolution": size.pixels}
        settings |= {"precision": training_precision(self.task.device)}
        return recipe(name, settings | ({"steps": size.recipes[name]} if size.recipes[name] else {}))

    def expected(self, chosen: TrainingRecipe) -> float:
        """Seconds, from the speed that the section before measured."""
        ours = self.task.known.get("training", {}).get("rows", {}).get("ours, fast", {})
        return 15 + 1.2 * 2 * chosen.steps * ours.get("seconds_a_step", _STEP)

    def whole(self, chosen: TrainingRecipe) -> Row:
        """Two trainings to files, the fusion, one picture. The model is read before, and not counted."""
        task, size = self.task, self.task.size
        self._for_training()
        marks = [task.clock()]
        with tempfile.TemporaryDirectory() as folder:
            loras = []
            for picture in (GLYPH, STYLE):
                job = TrainJob("model", picture, Path(folder) / f"{picture.stem}.safetensors", chosen)
                train_on(
                    self.pipeline,
                    [job],
                    read_pictures(job),
                    RunContext(task.device, bar=False, stepped=self._stepped),
                )
                loras.append(files.read(job.output))
                marks.append(task.clock())
        self._for_drawing()
        self._draw(fuse(*loras), 0)
        marks.append(task.clock())
        names = ("training_glyph_seconds", "training_style_seconds", "drawing_seconds")
        parts = dict(zip(names, [b - a for a, b in pairwise(marks)]))
        return {"seconds": marks[-1] - marks[0], **parts, "training_steps": chosen.steps} | {
            "drawing_steps": size.draw_steps,
            "pixels": size.pixels,
            "rank": size.rank,
        }

    def _stepped(self, step: Any) -> None:
        if step.number % 50 == 0 and self.task.left < 0:
            raise TimeoutError(f"the section's time was over at step {step.number} of {step.total}")

    def overhead(self) -> Row:
        """The same picture with the fused LoRAs and without, in turn; putting them in and taking them out included."""
        task, nothing, fused = self.task, Fusion({}, {}), self._random_fusion()
        self._for_drawing()
        self._draw(nothing, 0)  # what libraries do at their first call
        found: dict[str, list[float]] = {"with": [], "without": []}
        peaks: dict[str, int] = {}
        for number in range(task.size.drawn):
            for name, fusion in (("with", fused), ("without", nothing)):
                gc.collect()
                empty_cache(task.device)
                forget_peak(task.device)
                began = task.clock()
                self._draw(fusion, number)
                found[name].append(task.clock() - began)
                peaks[name] = peak_memory(task.device)
        with_, without = median(found["with"]), median(found["without"])
        row: Row = {"with_seconds": with_, "without_seconds": without, "ratio": with_ / without}
        return row | {
            "each": found,
            "peak_bytes": peaks,
            "steps": task.size.draw_steps,
            "precision": render_precision(task.device),
        }

    def _random_fusion(self) -> Fusion:
        """Two B-LoRAs of the size's rank, so weak that the picture stays one: what they cost does not depend on it."""
        draw, rank = torch.Generator().manual_seed(0), self.task.size.rank
        pairs = {}
        for path, layer in (
            DiffusersDenoiser(self.pipeline.unet, self.pipeline.scheduler.config).layers().items()
        ):
            out, width = layer.weight.shape
            down, up = (torch.randn(shape, generator=draw) for shape in ((rank, width), (out, rank)))
            pairs[path] = LoraPair(down / rank, up * 1e-4, float(rank))
        return fuse(BLora(pairs), BLora(pairs))

    def _draw(self, fusion: Fusion, seed: int) -> Any:
        size = self.task.size
        how = Sampling(_PROMPT, steps=size.draw_steps, guidance=5.0, width=size.pixels, height=size.pixels)
        return list(sample(self.pipeline, how, fusion, [seed], progress=False))

    def _for_training(self) -> None:
        self._to("cpu", training_precision(self.task.device))

    def _for_drawing(self) -> None:
        self._to(self.task.device, render_precision(self.task.device))

    def _to(self, device: Any, precision: Any) -> None:
        """The VAE stays in fp32. `generate` would read the file again: only then nothing is rounded twice."""
        for part in (self.pipeline.unet, self.pipeline.text_encoder, self.pipeline.text_encoder_2):
            cast(part, torch.device(device), float_named(precision))
        cast(self.pipeline.vae, torch.device(device))
        note(f"model on {device} in {precision}")
