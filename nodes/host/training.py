"""Training on the MODEL in the graph, with previews and a cache: an unchanged job is never trained twice."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ...rechar_core import charts
from ...rechar_core.device import in_ram, next_seed, ran_out
from ...rechar_core.errors import ReCharError
from ...rechar_core.lora import files
from ...rechar_core.lora.blora import BLora
from ...rechar_core.storage import drop_oldest
from ...rechar_core.training.denoiser import Conditioning, LatentMoments, Prefix
from ...rechar_core.training.loop import Training
from ...rechar_core.training.memory import MemoryMode, choose_mode
from ...rechar_core.training.objective import NoisedBatch, add_noise, denoised
from ...rechar_core.training.recipe import TrainingRecipe
from ...rechar_core.training.run import Step, TrainingRun
from .denoiser import HostDenoiser, computed_in, ordinary, precision_of, trainable
from .encoders import encode_pictures, encode_prompt
from .folders import cache_folder
from .inputs import check_trainable, not_trained
from .progress import Progress, say, throw_if_cancelled
from .weights import is_quantised

_SETUP_PARTS = 3  # of the first progress bar: the prompt, the pictures, the UNet
_PREVIEWS = 40  # at most this many a run; each costs half a forward pass
_PREVIEW_TIMESTEP = 700  # with so much noise, the preview shows the LoRA and not the picture
_LOSSES = "training_losses"  # the field of a cached file's metadata
_CACHE_BYTES = 10_000_000_000  # some 90 trainings at rank 64


@dataclass(frozen=True)
class Trained:
    """The result of one training. losses: one a step."""

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
    conditioning, moments = _encoded(model, clip, vae, images, recipe, setup)
    say("Loading the UNet")
    recipe = replace(recipe, precision=precision_of(model))  # the MODEL's, not the user's
    try:
        with trainable(model, throw_if_cancelled) as denoiser:
            mode = _mode(recipe, denoiser, moments, seeds)
            pictures = [ordinary(each, denoiser.device) for each in moments]
            conditioning = ordinary(conditioning, denoiser.device)
            later = (next_seed(recipe.seed, i) for i in range(1, seeds))
            # the first is the same job as alone
            recipes = (recipe, *(replace(recipe, seed=seed, noise_seed=recipe.seed) for seed in later))
            trainings = [Training(denoiser, pictures, conditioning, each) for each in recipes]
            files_of = {
                cache_folder() / f"{_job_hash(training)}.safetensors": training for training in trainings
            }
            trained = {file: cached for file in files_of if (cached := _read(file)) is not None}
            missing = {file: training for file, training in files_of.items() if file not in trained}
            if missing:
                run = TrainingRun(list(missing.values()), mode, logging.getLogger(__name__).info)
                trained |= _run(run, list(missing))
    finally:  # the states of cancelled trainings count too
        drop_oldest(cache_folder(), _CACHE_BYTES)
    return [trained[file] for file in files_of]


def _encoded(
    model: Any, clip: Any, vae: Any, images: Tensor, recipe: TrainingRecipe, setup: Progress
) -> tuple[Conditioning, list[LatentMoments]]:
    """The prompt and the pictures, as the first two parts of the set-up."""
    if sentence := not_trained(model):
        say(sentence)
    say("Encoding the prompt")
    conditioning = encode_prompt(clip, recipe.prompt, recipe.resolution)
    setup.show(1)
    say("Encoding the pictures")
    scale = model.model.latent_format.scale_factor
    moments = encode_pictures(vae, images, recipe.resolution, scale, setup)
    setup.show(2)
    return conditioning, moments


def _run(run: TrainingRun, cached: list[Path]) -> dict[Path, Trained]:
    """Trains all to the end and writes each to its file, or keeps the states next to them."""
    preview, trained = _Preview(run.trainings[0]), {}
    progress, every = Progress(run.total), max(1, run.total // _PREVIEWS)

    def stepped(step: Step) -> None:
        shown = step.number % every == 0 or step.number == step.total
        progress.show(step.number, preview.picture() if shown else None)

    def write(bloras: list[BLora]) -> None:
        for blora, training, file in zip(bloras, run.trainings, cached, strict=True):
            losses = training.loss_values()
            blora = replace(blora, metadata={_LOSSES: json.dumps(losses)})
            files.write(blora, file)
            trained[file] = Trained(blora, losses)

    run.resume([file.with_suffix(".state") for file in cached], set_aside=True)
    run.train(write, stepped)
    return trained


class _Preview:
    """Pictures of a training under way: the UNet's prediction of the first picture, and a chart of the loss.

    What the UNet computes before the LoRA is computed once, and waits on the CPU: in memory mode low each preview would
    move both halves of the UNet otherwise.
    """

    def __init__(self, training: Training) -> None:
        self._training, self._denoiser = training, cast(HostDenoiser, training.denoiser)

    @cached_property
    def _start(self) -> tuple[NoisedBatch, Prefix]:
        """The first picture under noise, and the prefix of its prediction on the CPU."""
        denoiser, mean = self._denoiser, self._training.pictures[0].mean
        drawn = self._training.noise_source.step(0, tuple(mean.shape), 1000)
        t = torch.tensor([_PREVIEW_TIMESTEP], device=mean.device)
        noise = replace(drawn, noise=drawn.noise.to(mean.device), timesteps=t)
        noised = add_noise(denoiser.prediction, mean, noise, denoiser.alphas_cumprod.to(mean.device)[t])
        prefix = denoiser.prefix(noised.noisy, noised.timesteps, self._training.conditioning)
        return noised, prefix.to(torch.device("cpu"))

    def picture(self) -> Any:
        """The picture of now; None if there is no memory for it, which ends no training."""
        try:
            with torch.no_grad(), self._training.lora_layers.attached():
                noised, prefix = self._start
                out = self._denoiser.suffix(prefix.to(self._denoiser.device), self._training.conditioning)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            return None
        return self._beside_losses(denoised(self._denoiser.prediction, out, noised))

    def _beside_losses(self, latent: Tensor) -> Any:
        from latent_preview import Latent2RGBPreviewer

        colours = self._denoiser.model.latent_format
        previewer = Latent2RGBPreviewer(colours.latent_rgb_factors, colours.latent_rgb_factors_bias)
        rough = previewer.decode_latent_to_preview(latent)
        return charts.beside(
            rough.resize((256, 256 * rough.height // rough.width)),
            charts.loss_chart(self._training.loss_values(), self._training.recipe.steps),
        )


def _mode(
    recipe: TrainingRecipe, denoiser: HostDenoiser, pictures: list[LatentMoments], loras: int
) -> MemoryMode:
    """The recipe's memory mode, or the one that fits into what is free now that the host has unloaded everything."""
    import comfy.model_management

    device, dtype = denoiser.device, computed_in(denoiser.patcher)
    weights = list(denoiser.model.diffusion_model.parameters())
    base = sum(weight.numel() for weight in weights) * dtype.itemsize
    free = int(comfy.model_management.get_free_memory(device)) + bytes_used_as_they_are(
        weights, device, dtype
    )
    area = max(p.mean.shape[-2] * p.mean.shape[-1] for p in pictures)
    rank = recipe.rank * loras
    asked = (free, base, area, recipe.batch_size, rank, dtype.itemsize, in_ram(device), recipe.memory)
    mode, why = choose_mode(*asked)
    if why:
        logging.getLogger(__name__).info(why)
    return mode


def bytes_used_as_they_are(weights: list[Tensor], device: torch.device, dtype: torch.dtype) -> int:
    """Bytes of the weights that are on `device` in the dtype of the computation, so that they are not copied."""
    plain = [weight for weight in weights if weight.dtype == dtype and not is_quantised(weight)]
    return sum(weight.nbytes for weight in plain if weight.device == device)


def _job_hash(training: Training) -> str:
    return hashlib.sha256(json.dumps(training.job, sort_keys=True).encode()).hexdigest()[:32]


def _read(file: Path) -> Trained | None:
    """The result of an earlier training; None if there is no such file, or it is damaged (then it is trained again)."""
    if not file.is_file():
        return None
    try:
        blora = files.read(file)
        losses = blora.metadata[_LOSSES]
        blora = replace(blora, source_format="trained", metadata={_LOSSES: losses})
        trained = Trained(blora, json.loads(losses))
    except (ReCharError, KeyError, ValueError) as error:
        logging.getLogger(__name__).warning("ReChar: %s It is trained anew.", error)
        return None
    file.touch()  # the files used last are kept longest
    return trained
