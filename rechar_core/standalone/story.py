"""The `demo` command: the whole method on the shipped demo model, told in one contact sheet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import files
from ..demo import build
from ..fusion import Fusion, fuse
from ..images import fit, jpeg, read, sheet
from ..training.recipe import TrainingRecipe

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image

    from ..lora import BLora

Cell = tuple[str, "Image"]


def tell(output: Path, seed: int = 0) -> Path:
    """Trains a structure and a style B-LoRA on the demo model's samples, draws with them, writes sheet.png.

    output: folder for sheet.png, every single picture, both LoRA files and log.json. Returns the sheet's path.
    About two minutes on two cores. Raises ReCharError if the demo model's files are missing or damaged.
    """
    import torch

    from .base import DEMO, load

    started = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    script = build.read_config()["story"]
    pipeline = load(DEMO, torch.float32, torch.device("cpu"))
    learnt = {kind: _learn(pipeline, kind, script, output, seed) for kind in ("structure", "style")}
    rows = list(_rows(pipeline, script, learnt["structure"], learnt["style"], seed))
    for y, row in enumerate(rows):
        for x, (_, picture) in enumerate(row):
            picture.save(output / f"{y + 1}{chr(ord('a') + x)}.png")
    page = output / "sheet.png"
    sheet(rows, "ReChar demo: a glyph and a style picture become two B-LoRAs").save(page)
    log = {"seconds": time.perf_counter() - started, "seed": seed, "script": script}
    (output / "log.json").write_text(json.dumps(log, ensure_ascii=False, indent=1), encoding="utf-8")
    return page


def _learn(
    pipeline: StableDiffusionXLPipeline, kind: str, script: dict[str, Any], output: Path, seed: int
) -> BLora:
    from tqdm import tqdm

    from .train import prepare

    recipe = replace(TrainingRecipe.from_json(script[kind]["recipe"]), seed=seed)
    pixels = fit(read(build.FOLDER / script[kind]["picture"]), recipe.resolution)
    training = prepare(pipeline, [pixels], recipe)
    for step in tqdm(training.steps(), desc=f"Training {kind}", total=recipe.steps, unit="step", ascii=True):
        del step
    blora = training.blora()
    files.write(
        blora, output / f"{kind}.safetensors", thumbnail=jpeg(pixels[0] / 2 + 0.5), title=f"demo {kind}"
    )
    return blora


def _rows(
    pipeline: StableDiffusionXLPipeline, script: dict[str, Any], structure: BLora, style: BLora, seed: int
) -> Iterator[list[Cell]]:
    """The sheet's rows: the inputs, each LoRA alone beside its control, the fusion at several alphas."""

    def draw(label: str, prompt: str, fusion: Fusion) -> Cell:
        return label, _draw(pipeline, script, prompt, fusion, seed)

    nothing = fuse(None, None)
    yield [(f"{kind} picture (input)", _picture(script[kind]["picture"])) for kind in ("structure", "style")]
    for prompt in script["structure_prompts"]:
        yield [
            draw(f"{prompt}\nno LoRA (control)", prompt, nothing),
            draw(f"{prompt}\nstructure LoRA", prompt, fuse(structure, None)),
        ]
    for prompt in script["style_prompts"]:
        yield [
            draw(f"{prompt}\nno LoRA (control)", prompt, nothing),
            draw(f"{prompt}\nstyle LoRA", prompt, fuse(None, style)),
        ]
    prompt = script["fusion_prompt"]
    yield [
        draw(f"style alpha {a}\nstructure alpha 1", prompt, fuse(structure, style, 1.0, a))
        for a in script["alphas"]
    ]
    yield [
        draw(f"structure alpha {a}\nstyle alpha 1", prompt, fuse(structure, style, a, 1.0))
        for a in script["alphas"]
    ]
    prompt = script["element_prompt"]
    yield [
        draw(f"{prompt}\nboth LoRAs, alpha {a}", prompt, fuse(structure, style, a, a))
        for a in script["alphas"]
    ]


def _draw(
    pipeline: StableDiffusionXLPipeline, script: dict[str, Any], prompt: str, fusion: Fusion, seed: int
) -> Image:
    from .generate import Sampling, sample

    sampling = Sampling(prompt, negative="", steps=script["steps"], guidance=script["guidance"])
    return next(iter(sample(pipeline, sampling, fusion, [seed], progress=False)))


def _picture(name: str) -> Image:
    from PIL import Image

    return Image.open(build.FOLDER / name)
