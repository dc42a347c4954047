"""The `train` command: pictures in, one B-LoRA file out, on one process or several."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import reduce
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from ..backend.denoiser import DiffusersDenoiser
from ..backend.pipeline import cast, encode_picture, encode_prompt, load, weights_size
from ..backend.processes import processes, say, shown
from ..device import empty_cache, float_named, forget_peak, free_memory, in_ram, or_on_cpu, peak_memory
from ..errors import RecipeError
from ..images import check_drawn, fit, jpeg, list_pictures, read
from ..lora import files
from ..lora.blora import BLora
from ..lora.fusion import applied, fuse
from ..storage import write_bytes
from ..training.denoiser import Conditioning, LatentMoments
from ..training.fp8 import shrink
from ..training.loop import DistributedContext, Training
from ..training.memory import MemoryMode, choose_mode
from ..training.progress import watched
from ..training.recipe import TrainingRecipe
from ..training.run import Step, TrainingRun
from .interrupt import StoppedBetweenSteps, held_back

if TYPE_CHECKING:
    from accelerate import PartialState
    from diffusers import StableDiffusionXLPipeline

INPUTS = "training_inputs"  # the field of a file's metadata with what `inputs` gives


@dataclass(frozen=True)
class TrainJob:
    """What to train on what. image: a picture or a folder of them; log: where the JSON log goes, if anywhere.

    frozen: a B-LoRA whose structure block is in the model during training (ConsisLoRA's style stage). any_precision:
    the precision was chosen for this device, not by the user, so a file trained in another one counts as this training.
    Raises RecipeError where fp8 and a frozen B-LoRA come together.
    """

    model: str
    image: Path
    output: Path
    recipe: TrainingRecipe
    log: Path | None = None
    fresh: bool = False
    frozen: Path | None = None
    any_precision: bool = False

    def __post_init__(self) -> None:
        if self.recipe.fp8_base and self.frozen:
            raise RecipeError("A B-LoRA cannot be put into a base in fp8: leave out --frozen or --fp8-base.")

    def beside(self, ending: str) -> Path:
        """The file beside the output whose name is the output's and this ending."""
        return self.output.with_name(self.output.name + ending)

    @property
    def state(self) -> Path:
        """Where an unfinished run is kept."""
        return self.beside(".state")

    @property
    def dtype(self) -> torch.dtype:
        """The base's."""
        return float_named(self.recipe.precision)


@dataclass(frozen=True)
class RunContext:
    """Where a run computes and how it reports: in this process alone, or in one of several.

    bar: whether to draw progress bars; stepped: called with each step; tell: called with a line for the user.
    """

    device: torch.device
    distributed: DistributedContext = field(default_factory=DistributedContext)
    bar: bool = True
    stepped: Callable[[Step], None] = lambda step: None
    tell: Callable[[str], None] = say


def train(job: TrainJob) -> Path:
    """Trains and writes `job.output`; an unfinished run of the same job goes on where it was broken off.

    On Ctrl-C the step under way is finished, the state is kept beside the output (`<output>.state`), and
    KeyboardInterrupt, saying so, goes on to the caller. A second one stops at once and keeps the last safety copy.
    Raises ReCharError on bad input, before anything is written.
    """
    here = processes()
    pixels = read_pictures(job)  # before the model is loaded: a wrong path should not cost a minute
    distributed = _distributed(here)
    train_on(load_base(job), [job], pixels, RunContext(here.device, distributed, distributed.main))
    return job.output


def load_base(job: TrainJob) -> StableDiffusionXLPipeline:
    """The job's model on the CPU, in its precision."""
    pipeline = load(job.model, job.dtype, torch.device("cpu"))
    if job.recipe.fp8_base:
        shrink(pipeline.unet)
    return pipeline


def read_pictures(job: TrainJob) -> list[Tensor]:
    """The job's pictures, each IMAGE (1, H, W, 3). Raises ImageError."""
    pictures = []
    for path in list_pictures(job.image):
        pictures.append(fit(read(path), job.recipe.resolution))
        check_drawn(pictures[-1], f"'{path.name}'", "Is it the right file?")
    return pictures


def train_on(
    pipeline: StableDiffusionXLPipeline, jobs: Sequence[TrainJob], pixels: list[Tensor], context: RunContext
) -> TrainingRun:
    """Trains jobs that differ in their seeds and files only, on a loaded pipeline, which is unchanged afterwards."""
    forget_peak(context.device)
    job = jobs[0]
    recorded_inputs = json.dumps(inputs(job))
    thumbnail = jpeg(pixels[0][0])
    ended = started = 0.0

    def write(bloras: list[BLora]) -> None:
        nonlocal ended
        ended = time.perf_counter()
        for blora, each in zip(bloras, jobs, strict=True):
            blora = replace(blora, metadata={**blora.metadata, INPUTS: recorded_inputs})
            files.write(blora, each.output, thumbnail=thumbnail, title=each.output.stem)

    with applied(pipeline.unet, fuse(files.read(job.frozen) if job.frozen else None, None)):
        run = prepare(pipeline, pixels, [each.recipe for each in jobs], context)
        states = [each.state for each in jobs]
        if context.distributed.main and job.fresh:
            run.forget(states)
        context.distributed.wait()
        run.resume(states)
        started, first = time.perf_counter(), run.done
        _drive(run, write, context)
    if context.distributed.main:
        seconds = (ended - started) / max(1, run.total - first) / len(jobs)
        for training, each in zip(run.trainings, jobs, strict=True):
            if each.log:
                write_log(training, seconds, each.log)
    context.distributed.wait()
    return run


def prepare(
    pipeline: StableDiffusionXLPipeline,
    pixels: list[Tensor],
    recipes: Sequence[TrainingRecipe],
    context: RunContext | None = None,
) -> TrainingRun:
    """Encodes pictures and prompt once, frees the encoders, and makes the run of these recipes ready.

    pixels: each IMAGE (1, H, W, 3). recipes: alike but in what is each LoRA's own (see TrainingRun). context: None
    computes where the pipeline is. `pipeline` keeps only its UNet on the device afterwards.
    """
    context = context or RunContext(pipeline.unet.device)
    device, recipe = context.device, recipes[0]
    conditioning, moments = _encoded(pipeline, pixels, recipe, context)
    gc.collect()
    denoiser = DiffusersDenoiser(pipeline.unet, pipeline.scheduler.config, device)
    mode, why = _mode(recipe, pipeline.unet, device, moments, len(recipes))
    if why:
        context.tell(why)
    trainings = [
        Training(denoiser, moments, conditioning, each, distributed=context.distributed) for each in recipes
    ]
    return TrainingRun(trainings, mode=mode, tell=context.tell)


def _encoded(
    pipeline: StableDiffusionXLPipeline, pixels: list[Tensor], recipe: TrainingRecipe, context: RunContext
) -> tuple[Conditioning, list[LatentMoments]]:
    """Prompt and pictures, encoded where the run computes if there is room, else on the CPU, where the encoders go."""
    encoders = torch.nn.ModuleList((pipeline.text_encoder, pipeline.text_encoder_2))
    moments: list[LatentMoments] = []

    def encode_words(device: torch.device) -> Conditioning:
        cast(torch.nn.ModuleList((pipeline.vae, *encoders)), device)  # a pipeline computes where its VAE is
        with shown("Encoding the prompt", context.bar) as ran, watched(encoders, ran):
            return encode_prompt(pipeline, recipe.prompt, recipe.resolution)

    def encode_pictures(device: torch.device) -> None:
        cast(pipeline.vae, device)
        while len(moments) < len(pixels):
            what = f"Encoding picture {len(moments) + 1} of {len(pixels)}"
            with shown(what, context.bar) as ran, watched(pipeline.vae.encoder, ran):
                made = encode_picture(pipeline, pixels[len(moments)])
            moments.append(LatentMoments(made.mean.to(context.device), made.std.to(context.device)))

    conditioning = or_on_cpu(encode_words, context.device, "encode the prompt", context.tell)
    cast(encoders, torch.device("cpu"))
    or_on_cpu(encode_pictures, context.device, "encode the pictures", context.tell)
    cast(pipeline.vae, torch.device("cpu"))
    return conditioning, moments


def inputs(job: TrainJob) -> dict[str, str]:
    """The inputs of a training besides its recipe: the model's name, digests of the pictures and the frozen B-LoRA.

    Raises ImageError, OSError where a file is missing.
    """
    pictures = b"".join(_digest(path) for path in list_pictures(job.image))
    return {
        "model": Path(job.model).name,  # no path: it would reveal who trained it, and change with the folder
        "picture": hashlib.sha256(pictures).hexdigest()[:16],
        "frozen B-LoRA": _digest(job.frozen).hex()[:16] if job.frozen else "",
    }


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _mode(
    recipe: TrainingRecipe, unet: Any, device: torch.device, moments: list[LatentMoments], loras: int
) -> tuple[MemoryMode, str]:
    """The memory mode, and a sentence that says why, or "" if it needs no explanation."""
    area = max(m.mean.shape[-2] * m.mean.shape[-1] for m in moments)
    empty_cache(device)
    free, base = free_memory(device), weights_size(unet)
    if in_ram(device) or unet.device == device:
        free += base
    rank, itemsize = recipe.rank * loras, unet.dtype.itemsize
    asked = (free, base, area, recipe.batch_size, rank, itemsize, in_ram(device), recipe.memory)
    mode, why = choose_mode(*asked)
    return mode, "" if in_ram(device) and mode == "fast" else why


def _distributed(here: PartialState) -> DistributedContext:
    def average(tensors: list[Tensor]) -> None:
        flat = reduce(parameters_to_vector(tensors), "mean")  # one message a step instead of 321
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    if here.num_processes == 1:
        return DistributedContext()
    return DistributedContext(here.process_index, here.num_processes, average, here.wait_for_everyone)


def _drive(run: TrainingRun, write: Callable[[list[BLora]], None], context: RunContext) -> None:
    """The run with a progress bar and Ctrl-C."""
    from tqdm import tqdm

    bar = tqdm(
        total=run.total, initial=run.done, desc="Training", unit="step", disable=not context.bar, ascii=True
    )
    try:
        with bar, held_back() as between_steps:

            def stepped(step: Step) -> None:
                bar.update()
                if step.number % 10 == 0 or step.number == step.total:
                    bar.set_postfix(loss=f"{float(step.loss):.4f}")
                context.stepped(step)
                between_steps()

            run.train(write, stepped)
    except StoppedBetweenSteps:
        if not context.distributed.main:
            raise
        saved = run.states[0] if len(run.states) == 1 else run.states[0].parent
        raise KeyboardInterrupt(
            f"Stopped at step {run.done} of {run.total}; the same command goes on from there ({saved})."
        ) from None


def write_log(training: Training, seconds_per_step: float, path: Path) -> None:
    """Losses, speed, peak memory and recipe as JSON, whole or not at all."""
    log: dict[str, Any] = {
        "recipe": training.recipe.to_json(),
        "losses": training.loss_values(),
        "seconds_per_step": seconds_per_step,
        "peak_memory_bytes": peak_memory(training.denoiser.device),
        "processes": training.distributed.world,
        "torch": torch.__version__,
        "device": str(training.denoiser.device),
    }
    write_bytes((json.dumps(log, indent=1).encode(),), path)
