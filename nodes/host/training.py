"""Training on the MODEL in the graph: encode, train, show, keep. An unchanged job is never trained twice."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...rechar_core import charts, files
from ...rechar_core.lora import BLora
from ...rechar_core.training import checkpoint
from ...rechar_core.training.denoiser import LatentMoments
from ...rechar_core.training.loop import Training
from ...rechar_core.training.memory import Mode, choose
from ...rechar_core.training.recipe import TrainingRecipe
from .denoiser import HostDenoiser, encode_pictures, encode_prompt, ordinary, trainable
from .folders import cache_folder
from .inputs import check_trainable
from .progress import Progress, latent_preview

_PREVIEWS = 40  # at most this many a run; each costs one forward pass
_PREVIEW_TIMESTEP = 700  # noisy enough that what is drawn comes from the LoRA, not from the picture
_SAVE_EVERY = 250  # steps between safety copies of the state


@dataclass(frozen=True)
class Trained:
    """What a run gave. losses: one a step; cached: it was trained before and only read now."""

    blora: BLora
    losses: list[float]
    cached: bool


def train(model: Any, clip: Any, vae: Any, images: Tensor, recipe: TrainingRecipe) -> Trained:
    """Trains on IMAGE (B, H, W, C), all its pictures, with MODEL's own UNet; MODEL is bit-unchanged afterwards.

    A cancelled run keeps its state and goes on from there when the same job is queued again.
    Raises ReCharError on bad input, the host's interrupt on cancel.
    """
    check_trainable(model, clip, vae)
    conditioning = encode_prompt(clip, recipe.prompt, recipe.resolution)
    moments = encode_pictures(vae, images, recipe.resolution, model.model.latent_format.scale_factor)
    with trainable(model) as denoiser:
        recipe = replace(recipe, precision=denoiser.precision)  # the MODEL's own, not the user's to choose
        pictures = [LatentMoments(*(t.to(denoiser.device).clone() for t in (m.mean, m.std))) for m in moments]
        cond = ordinary(conditioning, denoiser.device)
        mode = _mode(recipe, denoiser, pictures)
        training = Training(
            denoiser, pictures, cond, recipe, mode=mode, tell=logging.getLogger(__name__).info
        )
        kept = cache_folder() / f"{_job_hash(training)}.safetensors"
        if kept.is_file():
            return _read(kept)
        _run(training, denoiser, kept.with_suffix(".state"))
        blora = training.blora()
    losses = training.loss_values()
    files.write(replace(blora, metadata={**blora.metadata, "training_losses": json.dumps(losses)}), kept)
    return Trained(blora, losses, cached=False)


def _run(training: Training, denoiser: HostDenoiser, state: Path) -> None:
    total = training.recipe.steps
    if state.is_file():
        checkpoint.resume(training, state)
    progress, every = Progress(total), max(1, total // _PREVIEWS)
    try:
        for step in training.steps():
            show = step.number % every == 0 or step.number == total
            progress.show(step.number, _preview(training, denoiser) if show else None)
            if step.number % _SAVE_EVERY == 0 and step.number < total:
                checkpoint.save(training, state)
    except BaseException:
        if training.done < total and training.losses and torch.stack(training.losses).isfinite().all():
            checkpoint.save(training, state)
        raise
    state.unlink(missing_ok=True)


def _preview(training: Training, denoiser: HostDenoiser) -> Any:
    """What the UNet now makes of the first picture under much noise, beside the loss so far."""
    picture = training.pictures[0]
    with torch.no_grad():
        t = torch.tensor([_PREVIEW_TIMESTEP], device=denoiser.device)
        abar = denoiser.alphas_cumprod.to(denoiser.device)[t].view(-1, 1, 1, 1)
        noise = training.draws.step(0, tuple(picture.mean.shape), 1000).noise.to(denoiser.device)
        noisy = abar.sqrt() * picture.mean + (1 - abar).sqrt() * noise
        out = denoiser.predict(noisy, t, training.conditioning)
        if denoiser.prediction == "epsilon":
            x0 = (noisy - (1 - abar).sqrt() * out) / abar.sqrt()
        else:
            x0 = abar.sqrt() * noisy - (1 - abar).sqrt() * out
    drawn = latent_preview(denoiser.model.latent_format, x0)
    return charts.beside(
        drawn.resize((256, 256 * drawn.height // drawn.width)),
        charts.loss_chart(training.loss_values(), training.recipe.steps),
    )


def _mode(recipe: TrainingRecipe, denoiser: HostDenoiser, pictures: list[LatentMoments]) -> Mode:
    """The recipe's memory mode, or the one that fits into what the host says is free."""
    if recipe.memory != "auto":
        return recipe.memory
    import comfy.model_management

    on_gpu = denoiser.device.type not in ("cpu", "mps")
    free = int(comfy.model_management.get_free_memory(denoiser.device)) if on_gpu else None
    area = max(p.mean.shape[-2] * p.mean.shape[-1] for p in pictures)
    mode, why = choose(free, area, recipe.batch_size, recipe.rank, denoiser.itemsize)
    logging.getLogger(__name__).info(why)
    return mode


def _job_hash(training: Training) -> str:
    job = {**checkpoint.job(training), "version": 1}
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:32]


def _read(kept: Path) -> Trained:
    blora = files.read(kept)
    return Trained(blora, json.loads(blora.metadata["training_losses"]), cached=True)
