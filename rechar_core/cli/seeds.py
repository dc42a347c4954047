"""`train --seeds`: several B-LoRAs of one picture at once, and a sheet of what each draws, to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..backend.defaults import drawing
from ..backend.placement import place
from ..backend.processes import processes
from ..errors import RecipeError
from ..images import png, sheet
from ..lora import files
from ..lora.fusion import applied, fuse
from ..storage import write_bytes
from ..training.run import TrainingRun
from .generate import Sampling, sample
from .train import RunContext, TrainJob, load_base, read_pictures, train_on

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image

_MOST = 64
_DRAWING = 20  # sampler steps of each picture of the sheet


def train_seeds(job: TrainJob, seeds: Sequence[int]) -> list[Path]:
    """Trains one B-LoRA a seed on the same noises; returns `<output>_seedN.safetensors` of each, then the sheet.

    The seeds are those of the initial values; the noises' is the recipe's noise_seed, or else its seed. On Ctrl-C the
    states are kept, as KeyboardInterrupt says, and the same command goes on. Raises RecipeError on bad seeds or
    several processes.
    """
    here = processes()
    if here.num_processes > 1:
        raise RecipeError("--seeds trains on one device; for several write a line a seed for --jobs.")
    if not 1 <= len(seeds) <= _MOST or len(set(seeds)) < len(seeds):
        raise RecipeError(f"--seeds takes 1 to {_MOST} different numbers, such as 0,1,2,3.")
    jobs = [_job(job, seed) for seed in seeds]
    pixels, pipeline = read_pictures(job), load_base(job)
    run = train_on(pipeline, jobs, pixels, RunContext(here.device))
    with applied(pipeline.unet, fuse(files.read(job.frozen) if job.frozen else None, None)):
        place(pipeline, here.device, job.recipe.resolution**2)
        page = _draw(pipeline, run, seeds, {"steps": _DRAWING, **drawing(job.model, {})})
    drawn = job.output.with_name(f"{job.output.stem}_seeds.png")
    write_bytes((png(page),), drawn)
    return [*(each.output for each in jobs), drawn]


def _job(job: TrainJob, seed: int) -> TrainJob:
    recipe = job.recipe
    noise = recipe.seed if recipe.noise_seed is None else recipe.noise_seed
    output = job.output.with_name(f"{job.output.stem}_seed{seed}.safetensors")
    log = job.log and job.log.with_name(f"{job.log.stem}_seed{seed}{job.log.suffix}")
    return replace(job, recipe=replace(recipe, seed=seed, noise_seed=noise), output=output, log=log)


def _draw(
    pipeline: StableDiffusionXLPipeline, run: TrainingRun, seeds: Sequence[int], settings: dict[str, Any]
) -> Image:
    """Each B-LoRA's picture of its own prompt, from one noise, in rows of four."""
    cells = []
    recipe = run.trainings[0].recipe
    side = recipe.resolution
    sampling = Sampling(recipe.prompt, width=side, height=side, **settings)
    for seed, training in zip(seeds, run.trainings, strict=True):
        with torch.no_grad(), training.lora_layers.attached():
            (picture,) = sample(
                pipeline, sampling, fuse(None, None), [recipe.noise_seed or 0], progress=False
            )
        cells.append((f"seed {seed}\nlast loss {training.loss_values()[-1]:.4f}", picture))
    return sheet([cells[i : i + 4] for i in range(0, len(cells), 4)], f"{recipe.prompt}: one B-LoRA a seed")
