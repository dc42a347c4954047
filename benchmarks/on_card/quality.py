"""With a checkpoint: 8 glyphs x 4 styles drawn with their fused B-LoRAs, scored as benchmarks/quality.py does, beside
text alone and its controls. One picture a cell; B-LoRAs of the recipe quick, shorter where the time asks for it.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks import quality
from benchmarks.metrics import GLYPHS
from benchmarks.quality_report import write_report
from rechar_core.backend.processes import processes
from rechar_core.training.recipes import RECIPES

from .task import Row, Task

STYLES = {"sdxl": 4, "small": 1}
SCRIPTS = {"sdxl": tuple(GLYPHS), "small": ("latin", "hangul")}
VARIANTS = ("B-LoRA fusion", "plain")
_SHOWN = ("both", "structure", "iou", "skeleton_recall", "edge_f1", "top_1", "colour_distance", "decoration")
_TO_DRAW = 4.0  # seconds a picture, until one is drawn
_FEWEST = 100  # training steps worth having


def run(task: Task) -> None:
    task.measure("scores", 60, lambda: scores(task))


def scores(task: Task) -> Row:
    assert task.checkpoint and task.out
    processes().device = task.device  # what the quality benchmark asks
    folder = task.out.with_suffix("")
    bench = quality.Run(options(task, folder))
    bench.variants = [variant for name in VARIANTS for variant in bench.variants if variant.name == name]
    bench.trainings.train()
    done = draw(task, bench)
    write_report(folder, "report", bench.about(), [a.name for a in bench.variants], bench.not_run)
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    shutil.copy(folder / "report.png", task.out.with_suffix(".png"))
    variants = {variant: brief(values) for variant, values in found["variants"].items()}
    return {"cells": done, "training_steps": bench.options.training_steps, "variants": variants} | {
        "controls": {name: brief(values) for name, values in found["controls"].items()}
    }


def options(task: Task, folder: Path) -> Any:
    """The quality benchmark's own, for this table."""
    styles = folder / "styles"
    styles.mkdir(parents=True, exist_ok=True)
    for path in sorted((quality.ROOT / "benchmarks" / "styles").glob("*.png"))[: STYLES[task.size.name]]:
        shutil.copy(path, styles)
    given = [str(folder), "--model", str(task.checkpoint), "--styles", str(styles), "--seeds", "1"]
    given += [
        "--scripts",
        *SCRIPTS[task.size.name],
        "--recipe",
        "quick",
        "--training-steps",
        str(steps(task)),
    ]
    if task.size.name == "small":
        given += ["--steps", "1", "--guidance", "1"]
    return quality.parse(given)


def steps(task: Task) -> int:
    """Of each training: those of the recipe quick, or as many as half of the time allows."""
    if task.size.name == "small":
        return 2
    ours = task.known.get("training", {}).get("rows", {}).get("ours, fast", {})
    trainings, usual = len(GLYPHS) + STYLES["sdxl"], RECIPES["quick"]["steps"]
    most = (
        int((task.left / 2 / trainings - 2) / ours["seconds_a_step"]) if "seconds_a_step" in ours else usual
    )
    return max(_FEWEST, min(usual, most))


def draw(task: Task, bench: quality.Run) -> dict[str, int]:
    """Cell by cell, the fusion first, as long as there is time: how many of each variant there are."""
    done, slowest, all_metrics = {}, _TO_DRAW, {}
    for variant in bench.variants:
        done[variant.name] = 0
        for place in bench.cells:
            if task.left < 2 * slowest + 10:
                break
            began = time.perf_counter()
            if place.script not in all_metrics:
                all_metrics[place.script] = bench._metrics_of(place.script)
            bench._one(place, variant, all_metrics[place.script])
            slowest = max(slowest, time.perf_counter() - began)
            done[variant.name] += 1
    return done


def brief(values: dict[str, Any]) -> dict[str, Any]:
    """Means, with their intervals where there are some."""
    return {name: values[name] for name in _SHOWN if name in values}
