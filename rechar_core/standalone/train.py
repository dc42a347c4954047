"""The `train` command: pictures in, one B-LoRA file out, on one process or several."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import reduce
from torch import Tensor

from .. import files
from ..images import fit, jpeg, list_pictures, read
from ..training import checkpoint
from ..training.loop import Share, Training
from ..training.recipe import TrainingRecipe
from .base import encode_picture, encode_prompt, load
from .denoiser import DiffusersDenoiser
from .processes import processes, say

if TYPE_CHECKING:
    from accelerate import PartialState
    from diffusers import StableDiffusionXLPipeline

_DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_SAVE_EVERY = 250  # steps between safety copies of the state
_ROOMY = (
    12 * 2**30
)  # bytes of free GPU memory above which checkpointing only costs time (spec: 9.2 GB at 1024)


@dataclass(frozen=True)
class TrainJob:
    """What to train on what. image: a picture or a folder of them; log: where the JSON log goes, if anywhere."""

    model: str
    image: Path
    output: Path
    recipe: TrainingRecipe
    log: Path | None = None
    fresh: bool = False


def train(job: TrainJob) -> Path:
    """Trains and writes `job.output`; an unfinished run of the same job goes on where it was broken off.

    On Ctrl-C the state is kept beside the output (`<output>.state`) and KeyboardInterrupt goes on to the caller.
    Raises ReCharError on bad input, before anything is written.
    """
    here = processes()
    pictures = list_pictures(job.image)  # before the model is loaded: a wrong path should not cost a minute
    pixels = [fit(read(p), job.recipe.resolution) for p in pictures]
    pipeline = load(job.model, _DTYPES[job.recipe.precision], here.device)
    training = prepare(pipeline, pixels, job.recipe, _share(here))
    state = job.output.with_name(job.output.name + ".state")
    if job.fresh and here.is_main_process:
        state.unlink(missing_ok=True)
    here.wait_for_everyone()
    if state.is_file():
        checkpoint.resume(training, state)
        say(f"Going on from step {training.done} of {job.recipe.steps} ({state}).")
    started, first = time.perf_counter(), training.done
    _run(training, state, here)
    seconds = time.perf_counter() - started
    if here.is_main_process:
        files.write(
            training.blora(), job.output, thumbnail=jpeg(pixels[0][0] / 2 + 0.5), title=job.output.stem
        )
        state.unlink(missing_ok=True)
    if job.log and here.is_main_process:
        write_log(training, seconds / max(1, training.done - first), job.log)
    here.wait_for_everyone()
    return job.output


def prepare(
    pipeline: StableDiffusionXLPipeline,
    pixels: list[Tensor],
    recipe: TrainingRecipe,
    share: Share | None = None,
) -> Training:
    """Encodes pictures and prompt once, frees the encoders, and makes the run ready.

    pixels: each (1, 3, H, W) in -1..1. `pipeline` keeps only its UNet on the device afterwards.
    """
    moments = [encode_picture(pipeline, p) for p in pixels]
    conditioning = encode_prompt(pipeline, recipe.prompt, recipe.resolution)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        part.to("cpu")
    gc.collect()
    if _checkpoint(recipe, pipeline.unet.device):
        pipeline.unet.train()  # older diffusers checkpoint only in training mode; SDXL has no dropout
        pipeline.unet.enable_gradient_checkpointing()
    else:
        pipeline.unet.disable_gradient_checkpointing()
    denoiser = DiffusersDenoiser(pipeline.unet, pipeline.scheduler.config)
    return Training(denoiser, moments, conditioning, recipe, share=share)


def _checkpoint(recipe: TrainingRecipe, device: torch.device) -> bool:
    if recipe.gradient_checkpointing != "auto":
        return recipe.gradient_checkpointing == "on"
    if device.type != "cuda":
        return False
    free, _ = torch.cuda.mem_get_info(device)
    chosen = free < _ROOMY
    say(f"Gradient checkpointing {'on' if chosen else 'off'}: {free / 2**30:.1f} GB of GPU memory are free.")
    return chosen


def _share(here: PartialState) -> Share:
    def average(tensors: list[Tensor]) -> None:
        flat = reduce(
            torch.cat([t.reshape(-1) for t in tensors]), "mean"
        )  # one message a step instead of 321
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    if here.num_processes == 1:
        return Share()
    return Share(here.process_index, here.num_processes, average)


def _run(training: Training, state: Path, here: PartialState) -> None:
    from tqdm import tqdm

    total, main = training.recipe.steps, here.is_main_process
    with tqdm(
        total=total, initial=training.done, desc="Training", unit="step", disable=not main, ascii=True
    ) as bar:
        try:
            for step in training.steps():
                bar.update()
                if step.number % 10 == 0 or step.number == total:
                    bar.set_postfix(loss=f"{float(step.loss):.4f}")
                if main and step.number % _SAVE_EVERY == 0 and step.number < total:
                    checkpoint.save(training, state)
        except KeyboardInterrupt:
            if main and training.done:
                state.parent.mkdir(parents=True, exist_ok=True)
                checkpoint.save(training, state)
                say(
                    f"\nStopped at step {training.done} of {total}; the same command goes on from there ({state})."
                )
            raise


def write_log(training: Training, seconds_per_step: float, path: Path) -> None:
    """Losses, speed, peak memory and recipe as JSON, written to a temporary name and renamed."""
    log: dict[str, Any] = {
        "recipe": training.recipe.to_json(),
        "losses": training.loss_values(),
        "seconds_per_step": seconds_per_step,
        "peak_memory_bytes": peak_memory(training.denoiser.device),
        "processes": training.share.world,
        "torch": torch.__version__,
        "device": str(training.denoiser.device),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(log, indent=1), encoding="utf-8")
    temporary.replace(path)


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of GPU memory allocated on `device`, or of this process's resident memory on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
