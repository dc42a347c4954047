"""`train --seeds`: several B-LoRAs of one picture at once, and a sheet of what each draws, to choose from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..backend.defaults import drawing
from ..backend.offload import place
from ..backend.processes import processes, say
from ..errors import RecipeError
from ..images import png, sheet
from ..lora import files
from ..lora.fusion import applied, fuse
from ..storage import write_bytes
from ..training import checkpoint
from ..training.loop import Training
from ..training.run import TrainingRun
from .generate import Sampling, sample
from .interrupt import StoppedBetweenSteps, held_back
from .train import SAVE_EVERY, TrainJob, finish, forget_peak, inputs, load_base, prepare, read_pictures

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
    pixels, made_of, pipeline = read_pictures(job), inputs(job), load_base(job)
    forget_peak(here.device)
    with applied(pipeline.unet, fuse(files.read(job.frozen) if job.frozen else None, None)):
        first_run = prepare(pipeline, pixels, jobs[0].recipe, device=here.device, loras=len(seeds))
        run = TrainingRun(list(_trainings(first_run, jobs)))
        started, first = time.perf_counter(), run.done
        _run(run, jobs)
        seconds = (time.perf_counter() - started) / max(1, job.recipe.steps - first) / len(seeds)
        for each, training in zip(jobs, run.trainings, strict=True):
            finish(each, training, pixels, made_of, seconds)
        place(pipeline, here.device, job.recipe.resolution**2)
        page = _draw(pipeline, run, seeds, {"steps": _DRAWING, **drawing(job.model)})
    drawn = job.output.with_name(f"{job.output.stem}_seeds.png")
    write_bytes((png(page),), drawn)
    return [*(each.output for each in jobs), drawn]


def _job(job: TrainJob, seed: int) -> TrainJob:
    recipe = job.recipe
    noise = recipe.seed if recipe.noise_seed is None else recipe.noise_seed
    output = job.output.with_name(f"{job.output.stem}_seed{seed}.safetensors")
    log = job.log and job.log.with_name(f"{job.log.stem}_seed{seed}{job.log.suffix}")
    return replace(job, recipe=replace(recipe, seed=seed, noise_seed=noise), output=output, log=log)


def _trainings(first: Training, jobs: Sequence[TrainJob]) -> Iterator[Training]:
    """Each job's run beside `first`, which is the first job's, gone on with where it was broken off."""
    for job in jobs:
        run = first
        if job is not jobs[0]:
            made = first.denoiser, first.pictures, first.conditioning, job.recipe
            run = Training(*made, mode=first.mode, tell=first.tell)
        if job.fresh:
            job.state.unlink(missing_ok=True)
        if job.state.is_file():
            checkpoint.resume(run, job.state)
            say(f"Going on from step {run.done} of {job.recipe.steps} ({job.state}).")
        yield run


def _run(run: TrainingRun, jobs: Sequence[TrainJob]) -> None:
    from tqdm import tqdm

    def save() -> None:
        for job, training in zip(jobs, run.trainings, strict=True):
            if training.done:
                job.state.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.save(training, job.state)

    total = jobs[0].recipe.steps
    bar = tqdm(total=total, initial=run.done, desc="Training", unit="step", ascii=True)
    try:
        with bar, held_back() as between_steps:
            for steps in run.steps():
                bar.update()
                if steps[0].number % SAVE_EVERY == 0 and steps[0].number < total:
                    save()
                between_steps()
    except StoppedBetweenSteps:
        save()
        raise KeyboardInterrupt(
            f"Stopped at step {run.done} of {total}; the same command goes on from there."
        ) from None


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
