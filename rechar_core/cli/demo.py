"""The `demo` command: the whole method on the shipped demo model, shown in one contact sheet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from tqdm import tqdm

from ..backend.defaults import DEMO, drawing
from ..backend.pipeline import load
from ..demo import build
from ..images import fit, jpeg, png, read, sheet
from ..lora import files
from ..lora.fusion import Fusion, fuse
from ..storage import make_folder, write_bytes
from ..training.recipe import TrainingRecipe
from .generate import Sampling, sample
from .train import prepare

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

    from ..lora.blora import BLora

# The demo model has seen neither picture; its language is in demo/MODEL_CARD.md.
PICTURES = {"structure": "glyph_luo", "style": "style_c"}
TEXT_STYLES = ("A [v] in cyan neon style on navy", "A [v] in red stripes style on cream")
TEXT_CONTENTS = ("the character 木", "the letter R")
FUSED = "A [v]"
ELEMENTS = "A [v] with flowers"
ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)

Cell = tuple[str, Image.Image]
Plan = tuple[str, str, Fusion]  # label, prompt, what is added to the UNet


def run_demo(output: Path, seed: int = 0) -> Path:
    """Trains a structure and a style B-LoRA on two sample pictures, draws with them, writes sheet.png.

    output: folder for sheet.png, every single picture, both LoRA files and log.json. Returns the sheet's path.
    About two minutes on two cores. Raises ReCharError if the demo model's files are missing or damaged.
    """
    started = time.perf_counter()
    make_folder(output)
    recipe = build.read_config()["recipe"]
    pipeline = load(DEMO, torch.float32, torch.device("cpu"))
    trained, seconds = {}, {}
    for kind in ("structure", "style"):
        began = time.perf_counter()
        trained[kind] = _train(pipeline, kind, recipe[kind], seed, output)
        seconds[f"training {kind}"] = time.perf_counter() - began
    plans = list(_plans(trained["structure"], trained["style"]))
    inputs: list[tuple[str, Image.Image]] = [
        (f"{kind} picture (input)", Image.open(build.SAMPLES[name])) for kind, name in PICTURES.items()
    ]
    rows = [inputs, *_draw(pipeline, plans, seed)]
    for y, row in enumerate(rows):
        for x, (_, picture) in enumerate(row):
            write_bytes((png(picture),), output / f"{y + 1}{chr(ord('a') + x)}.png")
    page = sheet(rows, "ReChar demo: a glyph and a style picture become two B-LoRAs")
    log = {"seconds": {**seconds, "all": time.perf_counter() - started}, "seed": seed, "recipe": recipe}
    write_bytes((json.dumps(log, indent=1).encode(),), output / "log.json")
    return write_bytes((png(page),), output / "sheet.png")


def _train(pipeline: StableDiffusionXLPipeline, kind: str, settings: Any, seed: int, output: Path) -> BLora:
    recipe = replace(TrainingRecipe.from_json({"resolution": 256, **settings}), seed=seed)
    pixels = fit(read(build.SAMPLES[PICTURES[kind]]), recipe.resolution)
    run = prepare(pipeline, [pixels], [recipe])
    with tqdm(total=recipe.steps, desc=f"Training {kind}", unit="step", ascii=True) as bar:
        for _ in run.steps():
            bar.update()
    blora = run.trainings[0].blora()
    picture = jpeg(pixels[0])
    files.write(blora, output / f"{kind}.safetensors", thumbnail=picture, title=f"demo {kind}")
    return blora


def _draw(
    pipeline: StableDiffusionXLPipeline, plans: Sequence[Sequence[Plan]], seed: int
) -> list[list[Cell]]:
    """Every picture of the plans; all start from the same noise."""

    def drawn(plan: Plan) -> Cell:
        label, prompt, fusion = plan
        sampling = Sampling(prompt, negative="", **drawing(DEMO, {}))
        (picture,) = sample(pipeline, sampling, fusion, [seed], progress=False)
        bar.update()
        return label, picture

    with tqdm(total=sum(map(len, plans)), desc="Drawing", unit="picture", ascii=True) as bar:
        return [[drawn(plan) for plan in row] for row in plans]


def _plans(structure: BLora, style: BLora) -> Iterator[list[Plan]]:
    """The rows of generated pictures: each LoRA alone next to its control, the fusion at several alphas."""
    for texts, kind, alone in (
        (TEXT_STYLES, "structure", fuse(structure, None)),
        (TEXT_CONTENTS, "style", fuse(None, style)),
    ):
        variants = (("no LoRA (control)", fuse(None, None)), (f"{kind} LoRA", alone))
        yield [(f"{text}\n{label}", text, fusion) for text in texts for label, fusion in variants]
    yield [(f"structure alpha 1\nstyle alpha {a:g}", FUSED, fuse(structure, style, 1.0, a)) for a in ALPHAS]
    yield [(f"structure alpha {a:g}\nstyle alpha 1", FUSED, fuse(structure, style, a, 1.0)) for a in ALPHAS]
    yield [(f"{ELEMENTS}\nboth alphas {a:g}", ELEMENTS, fuse(structure, style, a, a)) for a in ALPHAS]
