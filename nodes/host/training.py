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

from ...rechar_core import charts
from ...rechar_core.device import in_ram
from ...rechar_core.errors import ReCharError
from ...rechar_core.lora import files
from ...rechar_core.lora.blora import BLora
from ...rechar_core.storage import drop_oldest
from ...rechar_core.training import checkpoint
from ...rechar_core.training.denoiser import LatentMoments
from ...rechar_core.training.loop import Training
from ...rechar_core.training.memory import MemoryMode, choose_mode
from ...rechar_core.training.recipe import TrainingRecipe
from ...rechar_core.training.run import TrainingRun
from .denoiser import HostDenoiser, computed_in, ordinary, precision_of, trainable
from .encoders import encode_pictures, encode_prompt
from .folders import cache_folder
from .inputs import check_trainable
from .progress import Progress, latent_preview, throw_if_cancelled
from .weights import is_quantised

_SETUP_PARTS = 3  # of the first progress bar: the prompt, the pictures, the UNet
_PREVIEWS = 40  # at most this many a run; each costs one forward pass
_PREVIEW_TIMESTEP = 700  # noisy enough that what is drawn comes from the LoRA, not from the picture
_SAVE_EVERY = 250  # steps between safety copies of the state
_CACHE_BYTES = 10_000_000_000  # some 90 trainings at rank 64


@dataclass(frozen=True)
class Trained:
    """What a run gave. losses: one a step."""

    blora: BLora
    losses: list[float]


def train(
    model: Any, clip: Any, vae: Any, images: Tensor, recipe: TrainingRecipe, seeds: int = 1
) -> list[Trained]:
    """Trains on IMAGE (B, H, W, C), all its pictures, with MODEL's own UNet; MODEL is bit-unchanged afterwards.

    One LoRA each for seed, seed + 1, ..., on the noises of the first. A cancelled run keeps its state and goes on from
    there when the same job is queued again. Raises ReCharError on bad input, the host's interrupt on cancel.
    """
    check_trainable(model, clip, vae)
    setup = Progress(_SETUP_PARTS)
    setup.say("Encoding the prompt")
    conditioning = encode_prompt(clip, recipe.prompt, recipe.resolution)
    setup.show(1)
    setup.say("Encoding the pictures")
    scale = model.model.latent_format.scale_factor
    moments = encode_pictures(vae, images, recipe.resolution, scale, setup)
    setup.show(2)
    setup.say("Loading the UNet")
    recipe = replace(recipe, precision=precision_of(model))  # the MODEL's own, not the user's to choose
    with trainable(model, throw_if_cancelled) as denoiser:
        mode = _mode(recipe, denoiser, moments, seeds)
        pictures = [LatentMoments(*(t.to(denoiser.device).clone() for t in (m.mean, m.std))) for m in moments]
        cond = ordinary(conditioning, denoiser.device)
        made = [
            Training(denoiser, pictures, cond, each, mode=mode, tell=logging.getLogger(__name__).info)
            for each in _recipes(recipe, seeds)
        ]
        runs = {cache_folder() / f"{_job_hash(training)}.safetensors": training for training in made}
        found = {kept: _read(kept) for kept in runs}
        missing = {kept: training for kept, training in runs.items() if found[kept] is None}
        if missing:
            _run({kept.with_suffix(".state"): training for kept, training in missing.items()}, denoiser)
        for kept, training in missing.items():
            blora, losses = training.blora(), json.dumps(training.loss_values())
            files.write(replace(blora, metadata={**blora.metadata, "training_losses": losses}), kept)
            found[kept] = _read(kept)
    drop_oldest(cache_folder(), _CACHE_BYTES)
    return [trained for trained in found.values() if trained is not None]


def _recipes(recipe: TrainingRecipe, seeds: int) -> list[TrainingRecipe]:
    others = [replace(recipe, seed=recipe.seed + i, noise_seed=recipe.seed) for i in range(1, seeds)]
    return [recipe, *others]  # the first is the same job as alone


def _run(runs: dict[Path, Training], denoiser: HostDenoiser) -> None:
    """Trains all to the end, or keeps their states at these paths."""
    for state, training in runs.items():
        if state.is_file():
            checkpoint.resume(training, state)
    run = TrainingRun(list(runs.values()))
    first = run.trainings[0]
    total = first.recipe.steps
    progress, every = Progress(total), max(1, total // _PREVIEWS)
    try:
        for steps in run.steps():
            number = steps[0].number
            show = number % every == 0 or number == total
            progress.show(number, _preview(first, denoiser) if show else None)
            if number % _SAVE_EVERY == 0 and number < total:
                _save(runs)
    except BaseException:
        _save(runs)
        raise
    for state in runs:
        state.unlink(missing_ok=True)


def _save(runs: dict[Path, Training]) -> None:
    """Every run's state, unless there is nothing to keep or it has gone wrong."""
    for state, training in runs.items():
        if training.losses and torch.stack(training.losses).isfinite().all():
            checkpoint.save(training, state)


def _preview(training: Training, denoiser: HostDenoiser) -> Any:
    """What the UNet now makes of the first picture under much noise, beside the loss so far."""
    picture = training.pictures[0]
    with torch.no_grad(), training.lora_layers.attached():
        t = torch.tensor([_PREVIEW_TIMESTEP], device=denoiser.device)
        abar = denoiser.alphas_cumprod.to(denoiser.device)[t].view(-1, 1, 1, 1)
        noise = training.noise_source.step(0, tuple(picture.mean.shape), 1000).noise.to(denoiser.device)
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


def _mode(
    recipe: TrainingRecipe, denoiser: HostDenoiser, pictures: list[LatentMoments], loras: int
) -> MemoryMode:
    """The recipe's memory mode, or the one that fits into what is free now that the host has unloaded everything."""
    if recipe.memory != "auto":
        return recipe.memory
    import comfy.model_management

    device, dtype = denoiser.device, computed_in(denoiser.patcher)
    weights = list(denoiser.model.diffusion_model.parameters())
    base = sum(weight.numel() for weight in weights) * dtype.itemsize
    free = int(comfy.model_management.get_free_memory(device)) + _there(weights, device, dtype)
    area = max(p.mean.shape[-2] * p.mean.shape[-1] for p in pictures)
    rank = recipe.rank * loras
    mode, why = choose_mode(free, base, area, recipe.batch_size, rank, dtype.itemsize, in_ram(device))
    logging.getLogger(__name__).info(why)
    return mode


def _there(weights: list[Tensor], device: torch.device, dtype: torch.dtype) -> int:
    """Bytes of the weights that lie on `device` as they are computed with, and are not copied there."""
    plain = [weight for weight in weights if weight.dtype == dtype and not is_quantised(weight)]
    return sum(weight.nbytes for weight in plain if weight.device == device)


def _job_hash(training: Training) -> str:
    job = {**checkpoint.job(training), "version": 2}
    return hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()[:32]


def _read(kept: Path) -> Trained | None:
    """What was trained before; None if there is no such file, or a damaged one, whose job is trained anew."""
    if not kept.is_file():
        return None
    try:
        blora = files.read(kept)
        trained = Trained(blora, json.loads(blora.metadata["training_losses"]))
    except (ReCharError, KeyError, ValueError) as error:
        logging.getLogger(__name__).warning("ReChar: %s It is trained anew.", error)
        return None
    kept.touch()  # what is used is kept longest
    return trained
