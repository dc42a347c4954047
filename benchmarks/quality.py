"""The open quality benchmark: scripts x styles x seeds x variants, every measure with its controls.

    python -m benchmarks.quality OUT                                   # the demo model, on a CPU
    python -m benchmarks.quality OUT --variants                        # the effect of each default of `tuned`
    accelerate launch -m benchmarks.quality OUT --model sd_xl_base_1.0.safetensors --styles PICTURES \\
        --composition-adapter FILE --style-adapter FILE --image-encoder FOLDER --control-net FOLDER   # SDXL

B-LoRAs are trained once per glyph and once per style, and shared by all variants and seeds. Finished cells are kept:
each is a file with the settings it was made with. Trainings and cells are distributed over the processes. At the end
the first process writes report.html, .png, .md and .json (variants.*) from all finished cells.
A variant whose files are missing is not run, and the report names them.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks import added_measures  # noqa: E402
from benchmarks.metrics import GLYPHS, SCRIPTS, GlyphMetrics, VggGram, Weights  # noqa: E402
from benchmarks.ocr import Reader  # noqa: E402
from benchmarks.trainings import Trainings, content_of  # noqa: E402
from benchmarks.variants import Cell, LoadedModels, Variant, changed_variants, main_variants, style_pictures  # noqa: E402
from rechar_core.backend.ip_adapters import control_net, ip_adapters  # noqa: E402
from rechar_core.backend.pipeline import DEMO, load  # noqa: E402
from rechar_core.backend.processes import processes, say  # noqa: E402
from rechar_core.backend.renderer import DiffusersIPAdapters, DiffusersRenderer  # noqa: E402
from rechar_core.demo.build import WEIGHTS, read_config  # noqa: E402
from rechar_core.errors import FileError, ReCharError  # noqa: E402
from rechar_core.images import png, read, to_pil  # noqa: E402
from rechar_core.storage import write_bytes  # noqa: E402
from rechar_core.training.recipes import RECIPES  # noqa: E402

_ABOUT = 1  # raised when the same settings mean another measurement


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    try:
        return measure(options)
    except ReCharError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def measure(options: argparse.Namespace) -> int:
    if options.ocr:
        Reader(options.scripts)  # what is missing is said before hours of drawing
    run = Run(options)
    say(f"{len(run.cells)} cells x {len(run.variants)} variants in {options.out}")
    if any(variant.loras for variant in run.variants):
        run.trainings.train()
    run.draw()
    processes().wait_for_everyone()
    if processes().is_main_process:
        from benchmarks.quality_report import write_report

        added_measures.add(options.out, options.scripts, run.side, options.ocr)
        name = "variants" if options.variants else "report"
        print(write_report(options.out, name, run.about(), [a.name for a in run.variants], run.not_run))
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("out", type=Path)
    add("--model", default=DEMO)
    add("--styles", type=Path, default=ROOT / "benchmarks" / "styles", help="folder of style pictures")
    add("--scripts", nargs="+", choices=tuple(GLYPHS), default=list(SCRIPTS))
    add("--seeds", type=int, default=3)
    add("--elements", help="decorations in text (demo: flowers; else plum blossoms, a crane)")
    add("--side", type=int, help="pixels (the model's own)")
    add("--steps", type=int, help="of each pass (demo: 16; else each mode's own)")
    add(
        "--guidance",
        type=float,
        help="of each pass (demo: 1, which it was trained for; else each mode's own)",
    )
    for name in ("composition-adapter", "style-adapter", "image-encoder", "control-net"):
        add(f"--{name}", type=Path, help="as in generate --mode (demo: its own)")
    add(
        "--clip",
        type=Path,
        help="folder of a CLIP model: adds likeness to the style picture and to the elements",
    )
    add("--vgg", type=Path, help="VGG19 as .safetensors: adds the Gram distance to the style picture")
    add("--ocr", action="store_true", help="adds whether Tesseract, if installed, reads the character")
    add("--recipe", choices=tuple(RECIPES), help="of the B-LoRAs (demo: its own; else b-lora, as published)")
    add("--training-steps", type=int, help="of the B-LoRAs, instead of the recipe's")
    add("--variants", action="store_true", help="`tuned` and what it becomes with one default changed")
    options = parser.parse_args(arguments)
    if options.model == DEMO:
        recipe = read_config()["recipe"]
        own = {"steps": recipe["sampler_steps"], "guidance": recipe["guidance"], "elements": "flowers"}
        own |= dict.fromkeys(
            ("composition_adapter", "style_adapter", "image_encoder", "control_net"), Path(DEMO)
        )
    else:
        own = {"steps": 0, "guidance": 0.0, "elements": "plum blossoms, a crane"}
    for name, value in own.items():
        setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
    return options


@dataclass(frozen=True)
class Place:
    """Where a cell stands in the table."""

    script: str
    style: str
    seed: int

    def file(self, out: Path, variant: str) -> Path:
        return out / "cells" / f"{self.script}_{self.style}_{self.seed}_{variant.replace(' ', '_')}.json"


class Run:
    """One run of the benchmark in this process."""

    def __init__(self, options: argparse.Namespace):
        self.options, here = options, processes()
        half = here.device.type == "cuda"
        self.where = (torch.float16 if half else torch.float32, here.device)
        self.models = self._models()
        self.side = options.side or int(self.models.renderer.pipeline.unet.config.sample_size) * 8
        self.styles = style_pictures(options.styles)
        self.contents = {name: content_of(path) for name, path in self.styles.items()}
        self.model = demo_version() if options.model == DEMO else shown(Path(options.model))
        self.trainings = Trainings(
            options,
            self.models.renderer.pipeline,
            self.side,
            self.model,
            self.styles,
            lambda script: self._glyph(GlyphMetrics(script, self.side))[0],
        )
        seeds = range(options.seeds)
        self.cells = [Place(g, s, n) for g in options.scripts for s in self.styles for n in seeds]
        chosen, self.not_run = main_variants(options.steps, options.guidance), {}
        if options.variants:
            alone = bool(chosen[-1].lacks(self.models))
            chosen = changed_variants(chosen[-1], alone)
        self.variants: list[Variant] = []
        for variant in chosen:
            if lacking := variant.lacks(self.models):
                self.not_run[variant.name] = f"not run: {' '.join(lacking)}"
            else:
                self.variants.append(variant)

    def _models(self) -> LoadedModels:
        o = self.options
        renderer = DiffusersRenderer(load(o.model, *self.where))
        found, missing = DiffusersIPAdapters(), []
        given = (o.composition_adapter, o.style_adapter, o.image_encoder)
        try:
            if None in given:
                missing = ["No --composition-adapter, --style-adapter and --image-encoder are given."]
            else:
                found = ip_adapters(*given, *self.where)
        except FileError as error:
            missing = [told_here(error)]
        net, no_net = None, ["No --control-net is given."]
        try:
            net = control_net(o.control_net, *self.where)
            no_net = [] if net is not None else no_net
        except FileError as error:
            no_net = [told_here(error)]
        renderer = replace(renderer, ip_adapters=found, control_net=net)
        return LoadedModels(renderer, tuple(missing), tuple(no_net), {})

    def about(self) -> dict[str, Any]:
        """What all cells have in common."""
        o = self.options
        names = ("composition_adapter", "style_adapter", "image_encoder", "control_net", "clip")
        return {
            "version": _ABOUT,
            "model": self.model,
            "side": self.side,
            "elements": o.elements,
            "recipes": self.trainings.recipes(),
            **{name: shown(getattr(o, name)) for name in names},
            **({"vgg": shown(o.vgg)} if o.vgg else {}),
        }

    def _glyph(self, glyph_metrics: GlyphMetrics) -> tuple[torch.Tensor, torch.Tensor]:
        mask = torch.from_numpy(np.ascontiguousarray(glyph_metrics.soft, dtype=np.float32))[None]
        return (1 - mask)[..., None].expand(-1, -1, -1, 3).contiguous(), mask

    # Cells

    def draw(self) -> None:
        """All cells of this process: glyph by glyph, so that passes that cells have in common are drawn once."""
        from tqdm import tqdm

        here, all_metrics = processes(), {}
        mine = self.cells[here.process_index :: here.num_processes]
        todo = [
            (place, variant) for place in mine for variant in self.variants if not self._done(place, variant)
        ]
        for place, variant in tqdm(
            todo, desc="Cells", unit="cell", ascii=True, disable=not here.is_main_process
        ):
            if place.script not in all_metrics:
                all_metrics = {place.script: self._metrics_of(place.script)}
            self._one(place, variant, all_metrics[place.script])

    def _metrics_of(self, script: str) -> GlyphMetrics:
        glyph_metrics = GlyphMetrics(script, self.side)
        path, found = self.options.out / "controls" / f"{script}.json", self._controls(glyph_metrics)
        known = (
            json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        )  # what was added afterwards
        added_measures.write(path, {name: known.get(name, {}) | row for name, row in found.items()})
        if self.options.clip:
            glyph_metrics.weights.append(
                Weights(self.options.clip, self.options.elements, glyph_metrics.target.drawn)
            )
        if self.options.vgg:
            glyph_metrics.weights.append(VggGram(self.options.vgg))
        return glyph_metrics

    def _controls(self, glyph_metrics: GlyphMetrics) -> dict[str, Any]:
        """Each control against each style, averaged over the styles."""
        styles = [self._style(name)[0].double().numpy() for name in self.styles]
        rows = {}
        for name, picture in glyph_metrics.controls().items():
            found = [glyph_metrics(picture, style) for style in styles]
            rows[name] = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
        return rows

    def _style(self, name: str) -> torch.Tensor:
        return read(self.styles[name])

    def _settings(self, place: Place, variant: Variant) -> dict[str, Any]:
        return json.loads(
            json.dumps(
                {
                    **self.about(),
                    **asdict(place),
                    "style_content": self.contents[place.style],
                    **asdict(variant),
                },
                default=str,
            )
        )

    def _done(self, place: Place, variant: Variant) -> bool:
        path = place.file(self.options.out, variant.name)
        if not (path.is_file() and path.with_suffix(".png").is_file()):
            return False
        return json.loads(path.read_text(encoding="utf-8"))["settings"] == self._settings(place, variant)

    def _one(self, place: Place, variant: Variant, glyph_metrics: GlyphMetrics) -> None:
        glyph, mask = self._glyph(glyph_metrics)
        style = self._style(place.style)
        pairs = (("structure", place.script), ("style", place.style))
        loras = [self.trainings.read(*pair) if variant.loras else None for pair in pairs]
        character = GLYPHS[place.script][0]
        cell = Cell(character, place.style, place.seed, glyph, mask, style, self.options.elements, *loras)
        result, drawn = variant.run(self.models, cell)
        picture = result[0].double().numpy()
        found = glyph_metrics(
            picture, style[0].double().numpy(), None if drawn is None else drawn[0].double().numpy()
        )
        path = place.file(self.options.out, variant.name)
        write_bytes((png(to_pil(result[0])),), path.with_suffix(".png"))
        added_measures.write(path, {"settings": self._settings(place, variant), "measures": found})


def shown(path: Path | None) -> str:
    """How reports tell a path: seen from the repository, so that they say nothing of this machine's folders."""
    if path is None or str(path) == DEMO:
        return str(path)
    try:
        return Path(os.path.relpath(path, ROOT)).as_posix()
    except ValueError:  # on another drive
        return path.name


def told_here(error: FileError) -> str:
    """Its sentence, with paths in the repository seen from there."""
    return str(error).replace(f"{ROOT}{os.sep}", "")


@functools.cache
def demo_version() -> str:
    return f"demo {content_of(WEIGHTS)}"


if __name__ == "__main__":
    sys.exit(main())
