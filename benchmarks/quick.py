"""How many steps each learning rate needs to reach the published recipe's quality: the curve behind `quick`.

    python -m benchmarks.quick [--pictures N] [--json FILE] [--plot FILE]

On the shipped demo model, pictures held out of its training: N glyphs (structure) and N style pictures. The quality of
a B-LoRA is its picture's loss at 48 fixed noises that training never drew, timesteps spread evenly. Controls: no LoRA
(what there is to gain), and the B-LoRA of another picture (whether the loss is about this picture). What is seen in
drawn pictures stands beside it at the end of each run: IoU with the glyph, Gram distance to the style picture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from demo.held_out import enlarge, glyph_mask, glyph_picture, style_picture  # noqa: E402
from demo.metrics import foreground, gram_distance, halve, iou  # noqa: E402
from rechar_core.backend.pipeline import DEMO, load  # noqa: E402
from rechar_core.cli.generate import Sampling, sample  # noqa: E402
from rechar_core.cli.train import prepare  # noqa: E402
from rechar_core.demo.build import WEIGHTS  # noqa: E402
from rechar_core.lora.blocks import STRUCTURE, STYLE  # noqa: E402
from rechar_core.lora.blora import BLora  # noqa: E402
from rechar_core.lora.fusion import applied, fuse  # noqa: E402
from rechar_core.training import objective  # noqa: E402
from rechar_core.training.noise import StepNoise  # noqa: E402
from rechar_core.training.recipes import RECIPES, recipe  # noqa: E402
from rechar_core.training.run import TrainingRun  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
PUBLISHED = 1000
# learning rate -> the steps at which a run is looked at; the first is the published one
CURVES = {
    5e-5: (125, 250, 500, 750, PUBLISHED),
    1e-4: (125, 250, 375, 500),
    2e-4: (50, 100, 150, 200, 250, 300, 350, 400),
    4e-4: (50, 100, 150, 200, 250),
}
CHOSEN_RATE = RECIPES["quick"][
    "learning_rate"
]  # the highest that a published SDXL recipe of these layers takes


@dataclass(frozen=True)
class Subject:
    """A held-out picture (256, 256, 3) in 0..1 and what its B-LoRA is used for."""

    name: str
    kind: str
    number: int
    pixels: np.ndarray

    def seen(self, drawn: np.ndarray) -> float:
        """IoU with the glyph (more is better), or Gram distance to the style picture (less is)."""
        small = halve(drawn)
        if self.kind == "structure":
            return iou(foreground(small), glyph_mask(self.number) > 0.5)
        return gram_distance(small, halve(self.pixels))


class Bench:
    """The demo model, and what is asked of it."""

    def __init__(self, count: int):
        self.pipeline = load(DEMO, torch.float32, torch.device("cpu"))
        draw = {"structure": glyph_picture, "style": style_picture}
        self.subjects = [
            Subject(f"{kind} {n}", kind, n, enlarge(make(n)))
            for kind, make in draw.items()
            for n in range(count)
        ]

    def training(self, subject: Subject, rate: float) -> TrainingRun:
        """A run of the published recipe at another learning rate."""
        settings = {"learning_rate": rate, "steps": CURVES[rate][-1], "resolution": 256, "memory": "fast"}
        pixels = torch.from_numpy(np.ascontiguousarray(subject.pixels)).permute(2, 0, 1)[None].float() * 2 - 1
        return prepare(self.pipeline, [pixels], [recipe("b-lora", settings)])

    def learn(self, subject: Subject, rate: float) -> Iterator[tuple[int, BLora]]:
        """The B-LoRA at each of the rate's steps."""
        run = self.training(subject, rate)
        for step in run.steps():
            if step.number in CURVES[rate]:
                yield step.number, run.trainings[0].blora()

    @torch.no_grad()
    def loss(self, subject: Subject, blora: BLora | None) -> float:
        """With both blocks in place."""
        (run,) = self.training(subject, 5e-5).trainings
        draw = torch.Generator().manual_seed(1_000_003)
        shape = (16, *run.pictures[0].mean.shape[1:])
        losses = []
        with applied(self.pipeline.unet, fuse(blora, blora)):
            for part in torch.linspace(10, 989, 48).round().long().split(16):
                drawn = StepNoise(
                    torch.randn(shape, generator=draw), torch.randn(shape, generator=draw), part
                )
                latents = run.pictures[0].sample(drawn.posterior)
                losses.append(float(objective.unsplit_loss(run.denoiser, latents, drawn, run.conditioning)))
        return float(np.mean(losses))

    def seen(self, subject: Subject, blora: BLora | None) -> float:
        """In two drawn pictures, with the subject's block alone."""
        block = STRUCTURE if subject.kind == "structure" else STYLE
        own = blora.select(block) if blora else None
        fusion = fuse(own, None) if subject.kind == "structure" else fuse(None, own)
        prompt = "A [v]" if subject.kind == "structure" else "the letter R"
        pictures = sample(self.pipeline, Sampling(prompt, "", 16, 1.0), fusion, [7, 8], progress=False)
        seen = [subject.seen(np.asarray(p.convert("RGB"), dtype=float) / 255) for p in pictures]
        return float(np.mean(seen))


def measure(bench: Bench) -> dict[str, Any]:
    """Every subject's figures: the controls, and the curves by learning rate."""
    found: dict[str, Any] = {}
    published: dict[str, BLora] = {}
    for subject in bench.subjects:
        row: dict[str, Any] = {"kind": subject.kind, "none": bench.loss(subject, None), "curves": {}}
        row["seen"] = {"none": bench.seen(subject, None)}
        for rate in CURVES:
            kept = list(bench.learn(subject, rate))
            row["curves"][f"{rate:g}"] = {str(n): bench.loss(subject, blora) for n, blora in kept}
            row["seen"][f"{rate:g}"] = bench.seen(subject, kept[-1][1])
            if kept[-1][0] == PUBLISHED:
                published[subject.name] = kept[-1][1]
            print(subject.name, f"{rate:g}", row["curves"][f"{rate:g}"], row["seen"], flush=True)
        found[subject.name] = row
    names = list(published)
    for place, subject in enumerate(bench.subjects):
        other = published[names[(place + 1) % len(names)]]
        found[subject.name]["another picture's"] = bench.loss(subject, other)
    return found


def gain(row: dict[str, Any], loss: float) -> float:
    """The share of the published run's gain over no LoRA: 0 is none, 1 the published run's at its last step."""
    none, published = row["none"], row["curves"]["5e-05"][str(PUBLISHED)]
    return (none - loss) / (none - published)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Means over the subjects, and the fewest steps of each rate at which every subject has the whole gain."""
    curves: dict[str, Any] = {}
    for rate, steps in CURVES.items():
        rows = {n: [gain(r, r["curves"][f"{rate:g}"][str(n)]) for r in found.values()] for n in steps}
        reached = [n for n in steps if min(rows[n]) >= 1]
        curves[f"{rate:g}"] = {
            "gain": {str(n): float(np.mean(values)) for n, values in rows.items()},
            "least": {str(n): float(min(values)) for n, values in rows.items()},
            "fewest_steps": min(reached) if reached else None,
        }
    others = [gain(row, row["another picture's"]) for row in found.values()]
    return {"curves": curves, "another picture's": float(np.mean(others)), "subjects": len(found)}


def plot(result: dict[str, Any], path: Path) -> None:
    """Mean gain against steps as SVG, one line a learning rate; dashed: the control."""
    width, height, left, bottom = 640, 380, 50, 40
    low, high = -0.5, 1.5

    def place(step: float, value: float) -> str:
        x = left + step / PUBLISHED * (width - left - 20)
        y = 20 + (high - min(max(value, low), high)) / (high - low) * (height - bottom - 20)
        return f"{x:.1f},{y:.1f}"

    def line(points: str, style: str) -> str:
        return f'<polyline points="{points}" fill="none" {style}/>'

    def text(at: str, words: str, colour: str = "black") -> str:
        x, y = at.split(",")
        return f'<text x="{x}" y="{y}" fill="{colour}">{words}</text>'

    parts = [line(f"{place(0, y)} {place(PUBLISHED, y)}", 'stroke="#ccc"') for y in (-0.5, 0, 0.5, 1, 1.5)]
    parts += [text(f"8,{place(0, y).split(',')[1]}", f"{y:g}") for y in (-0.5, 0, 0.5, 1, 1.5)]
    parts += [text(f"{place(n, low).split(',')[0]},{height - 22}", str(n)) for n in range(0, PUBLISHED, 250)]
    other = result["another picture's"]
    dashed = 'stroke="grey" stroke-dasharray="4 3"'
    parts.append(line(f"{place(0, other)} {place(PUBLISHED, other)}", dashed))
    parts.append(text(place(600, other + 0.05), "control: another picture's B-LoRA", "grey"))
    colours = ("#1f77b4", "#2ca02c", "#d62728", "#9467bd")
    for number, ((rate, curve), colour) in enumerate(zip(result["curves"].items(), colours)):
        points = " ".join(place(int(n), v) for n, v in [("0", 0.0), *curve["gain"].items()])
        parts.append(line(points, f'stroke="{colour}" stroke-width="2"'))
        parts.append(text(f"520,{250 + 16 * number}", f"rate {rate}", colour))
    parts.append(text(f"{left},{height - 6}", "steps; gain in loss, 1 = published recipe after 1000 steps"))
    size = f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n' + "\n".join(parts) + "\n</svg>\n"
    path.write_text(svg, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=2, help="of each kind")
    parser.add_argument("--json", type=Path, default=RESULTS / "quick.json")
    parser.add_argument("--plot", type=Path, default=RESULTS / "quick.svg")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(Bench(options.pictures))
    weights = hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()
    result = {**summary(found), "chosen_rate": CHOSEN_RATE, "model_sha256": weights, "pictures": found}
    options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    plot(result, options.plot)
    for rate, curve in result["curves"].items():
        print(
            rate, {n: round(v, 3) for n, v in curve["gain"].items()}, "fewest steps:", curve["fewest_steps"]
        )
    print("another picture's B-LoRA:", round(result["another picture's"], 3))


if __name__ == "__main__":
    main()
