"""A training step at real size: ours in every memory mode, and the published recipe's, in one run.

The clock is read, and the card waited for, after every group of steps alone; between, it runs ahead as in a real run.
"""

from __future__ import annotations

import gc
import time
from statistics import median
from typing import Any

import torch

from benchmarks.baselines import published, published_optimizer
from benchmarks.measure import matmul_rate
from rechar_core.backend.pipeline import cast, encode_prompt
from rechar_core.cli.train import RunContext, prepare
from rechar_core.device import empty_cache, float_named, forget_peak, peak_memory, training_precision
from rechar_core.training.memory import LADDER, MemoryMode
from rechar_core.training.recipe import TrainingRecipe

from .table import STEPS
from .task import STYLE, Row, Task, note

# A real run's share of what the card could do is told in these: the arithmetic minimum, which memory mode fast does.
COUNTED = "FLOP of one step in memory mode fast"


def run(task: Task) -> None:
    began = time.perf_counter()
    precision = training_precision(task.device)
    pipeline = task.pipeline(float_named(precision))
    about = {"precision": precision, "parameters": sum(p.numel() for p in pipeline.unet.parameters())}
    about |= {"pixels": task.size.pixels, "rank": task.size.rank, "model": _name(task)}
    about |= {"seconds_to_load_or_make": time.perf_counter() - began}
    task.send("model", about)
    bench = Bench(task, pipeline, matmul_rate(task.device, side=task.size.matrix))
    task.measure("least arithmetic", 10, bench.count)
    for mode in LADDER:
        task.measure(f"ours, {mode}", 15, lambda mode=mode: bench.ours(mode))
    task.measure("published", 30, bench.published)


def _name(task: Task) -> str:
    return task.checkpoint.name if task.checkpoint else "random weights"


class Bench:
    """One model, trained by each trainer in turn. rate: FLOP a second of the card's matrix products in bf16."""

    def __init__(self, task: Task, pipeline: Any, rate: float):
        self.task, self.pipeline, self.rate = task, pipeline, rate
        self.pixels = task.picture(STYLE)
        self.flop: float | None = None  # the least arithmetic of a step

    def recipe(self, groups: int, mode: MemoryMode = "fast") -> TrainingRecipe:
        size = self.task.size
        return TrainingRecipe(
            rank=size.rank,
            steps=groups * size.group,
            resolution=size.pixels,
            precision=training_precision(self.task.device),
            memory=mode,
        )

    def ours(self, mode: MemoryMode) -> Row:
        """As `python -m rechar_core train` does it, model and picture read before: set-up is encoding and moving."""
        clock = Clock(self.task)
        run = self._training(mode, self.task.size.groups)
        for step in run.steps():
            if run.mode != mode:
                raise torch.cuda.OutOfMemoryError(f"It went on in memory mode {run.mode}.")
            clock.stepped(step.number)
        (training,) = run.trainings
        return {"precision": training.recipe.precision, **clock.row(self, training.loss_values())}

    def _training(self, mode: MemoryMode, groups: int) -> Any:
        recipe = self.recipe(groups, mode)
        return prepare(self.pipeline, [self.pixels], [recipe], RunContext(self.task.device, tell=note))

    def count(self) -> Row:
        """The arithmetic of memory mode fast, which does nothing twice: matrix products, convolutions, attention."""
        from torch.utils.flop_counter import FlopCounterMode

        run = self._training("fast", 1)
        with FlopCounterMode(display=False) as counter:
            for _ in run.steps():
                pass
        if run.mode != "fast":
            raise torch.cuda.OutOfMemoryError(f"It went on in memory mode {run.mode}.")
        self.flop = counter.get_total_flops() / self.task.size.group
        return {"flop": self.flop, "what": COUNTED}

    def published(self) -> Row:
        """The published recipe, fp16 with a gradient scaler on CUDA, as its authors call it."""
        task, parts = self.task, (self.pipeline.text_encoder, self.pipeline.text_encoder_2)
        gpu = task.device.type == "cuda"
        unet, vae = cast(self.pipeline.unet, torch.float16 if gpu else torch.float32), self.pipeline.vae
        clock = Clock(task)
        for part in parts:
            part.to(task.device)
        cond = encode_prompt(self.pipeline, "A [v]", task.size.pixels).to(task.device, torch.float32)
        for part in parts:
            part.to("cpu")
        unet.to(task.device)
        vae.to(task.device)
        recipe = self.recipe(task.size.groups)
        pixels = (self.pixels.to(task.device) * 2 - 1).movedim(-1, 1)
        losses, _ = published(unet, vae, pixels, cond, recipe, clock.stepped)
        row = clock.row(self, losses)
        one = [torch.nn.Parameter(torch.zeros(1, device=task.device))]
        about = {"precision": "fp16" if gpu else "no"}
        return about | row | {"optimizer": type(published_optimizer(one, recipe, gpu)).__name__}


class Clock:
    """Counts from when it is made. stepped: to be called with the number of steps that are done, after each."""

    def __init__(self, task: Task):
        self.task = task
        gc.collect()
        empty_cache(task.device)
        forget_peak(task.device)
        self.marks = [task.clock()]
        self.set_up_peak = 0

    def stepped(self, number: int) -> None:
        if number % self.task.size.group == 0:
            self.marks.append(self.task.clock())
            if len(self.marks) == 2:
                self.set_up_peak = peak_memory(self.task.device)
                forget_peak(self.task.device)
            if self.task.left < 0:
                raise TimeoutError(f"the section's time was over after {number} steps")

    def row(self, bench: Bench, losses: list[float]) -> Row:
        """The first group, with all that libraries do at their first call, counts as set-up."""
        group, peak = self.task.size.group, peak_memory(self.task.device)
        found = [(b - a) / group for a, b in zip(self.marks[1:], self.marks[2:])]
        step = median(found)
        first = self.marks[1] - self.marks[0]
        return {
            "steps_measured": group * len(found),
            "seconds_a_step": step,
            "seconds_a_step_of_groups": found,
            "seconds_a_step_cuda_graphs": None,  # until a memory mode uses them
            "set_up_seconds": max(0.0, first - group * step),
            f"seconds_{STEPS}_steps": first + (STEPS - group) * step,
            "peak_bytes": max(peak, self.set_up_peak),
            "peak_bytes_of_steps": peak,
            "of_matmul_rate": bench.flop and bench.flop / step / bench.rate,
            "losses_finite": bool(torch.tensor(losses).isfinite().all()),
        }
