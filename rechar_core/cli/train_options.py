"""The options of the command `train`, and the jobs made from them. train.py, jobs.py and seeds.py do the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..backend import defaults
from ..device import TrainingPrecision, training_precision
from ..errors import RecipeError

if TYPE_CHECKING:
    from .train import TrainJob


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of train; one that is not given is not in the result, so that another default can be used."""
    from ..training.recipes import RECIPES

    add, unset = sub.add_argument, argparse.SUPPRESS
    add("--model", default=unset, help="diffusers folder, SDXL .safetensors file, hub id, or 'demo'")
    add("--image", default=unset, type=Path, help="a picture, or a folder of pictures of one thing")
    add("--prompt", default=unset, help="what the picture is called in training, for example 'A [v]'")
    add("--output", default=unset, type=Path, help="the .safetensors file to write")
    add(
        "--jobs",
        type=Path,
        help="JSON lines, each with these options of one training, shared between processes",
    )
    add(
        "--recipe",
        choices=tuple(RECIPES),
        default=unset,
        help="settings to start from (b-lora; for the model 'demo' its own)",
    )
    _add_recipe_options(sub)
    add("--frozen", type=Path, help="B-LoRA whose structure block stays in the model while training")
    add("--log-json", type=Path, help="write losses, seconds per step and peak memory here")
    add("--fresh", action="store_true", help="forget an unfinished run of this output")


def _add_recipe_options(sub: argparse.ArgumentParser) -> None:
    from ..training.memory import Memory
    from ..training.recipe import Loss, Optimizer, TrainedBlocks

    add, unset = sub.add_argument, argparse.SUPPRESS
    add("--target", choices=get_args(TrainedBlocks), default=unset, help="blocks to train (both)")
    add("--rank", type=int, default=unset, help="(64)")
    add("--steps", type=int, default=unset, help="(the recipe's: 1000 in b-lora)")
    add("--learning-rate", type=float, default=unset, help="(5e-5 in b-lora); a first stage's moves with it")
    add("--resolution", type=int, default=unset, help="pixels of the shorter side (1024; demo 256)")
    add("--batch-size", type=int, default=unset, help="noise draws of one picture a step (1)")
    add("--seed", type=int, default=unset, help="(0)")
    add("--seeds", help="one LoRA each, side by side, with a sheet to choose from: 0,1,2,3")
    add("--noise-seed", type=int, default=unset, help="of the noises, where it is not --seed")
    add("--optimizer", choices=get_args(Optimizer), default=unset, help="(adamw)")
    add("--loss", choices=get_args(Loss), default=unset, help="(the recipe's; x0 is ConsisLoRA's)")
    add("--min-snr-gamma", type=float, default=unset, help="min-SNR weighting; 5 is usual (off)")
    add("--noise-offset", type=float, default=unset, help="(the recipe's)")
    add(
        "--mixed-precision",
        choices=get_args(TrainingPrecision),
        default="auto",
        help="of the frozen base; the LoRA is fp32 always. auto: bf16 on a GPU that computes in it, fp16 on other "
        "NVIDIA and AMD GPUs (as published), no (fp32, twice the memory) on a CPU and where fp16 fails",
    )
    add("--memory", choices=get_args(Memory), default="auto", help="speed against memory")
    add("--fp8-base", action="store_true", help="base weights in 8 bits: half the memory, another result")


def run(options: argparse.Namespace) -> None:
    """Trains, and prints the names of the files."""
    from ..backend.processes import say
    from .jobs import check_output, read_jobs, train_all
    from .seeds import train_seeds
    from .train import train

    given = {name: value for name, value in vars(options).items() if name not in ("command", "jobs", "seeds")}
    if options.jobs is not None and options.seeds is not None:
        raise RecipeError("--seeds and --jobs do not go together; write a line a seed into the jobs file.")
    if options.jobs is not None:
        once = cache(say)  # a line that is the same for many jobs
        jobs = read_jobs(options.jobs, lambda values: job_of({**given, **values}, once))
        for job in jobs:
            check_output(job)
        outputs = train_all(jobs, lambda text: print(text, file=sys.stderr, flush=True))
    elif options.seeds is not None:
        outputs = train_seeds(job_of(given, say), _seeds(options.seeds))
    else:
        outputs = [train(job_of(given, say))]
    for path in outputs:
        print(path)


def _seeds(text: str) -> list[int]:
    """Raises RecipeError."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RecipeError(f"--seeds is {text!r}; it must be numbers such as 0,1,2,3.") from None


def job_of(given: Mapping[str, Any], tell: Callable[[str], None]) -> TrainJob:
    """A job from options by name, of the command line or of a line of a jobs file.

    tell: called with a line that names the demo model's settings, if they are used. Raises RecipeError, FileError.
    """
    from ..backend.processes import processes
    from ..lora.files import SUFFIX
    from ..storage import file_to_write
    from ..training.recipes import recipe
    from .train import TrainJob

    values = {name.replace("-", "_"): value for name, value in given.items()}
    missing = [f"--{name}" for name in ("model", "image", "prompt", "output") if name not in values]
    if missing:
        raise RecipeError(f"train needs {', '.join(missing)} as well.")
    _check(values)
    named = values.pop("mixed_precision")
    values["precision"] = training_precision(processes().device) if named == "auto" else named
    places = {name: values.pop(name) for name in ("image", "output", "log_json", "frozen")}
    image, output, log, frozen = (place and Path(place) for place in places.values())
    model, fresh = values.pop("model"), values.pop("fresh")
    demo_settings = defaults.training(model, values)
    chosen = recipe(values.pop("recipe", "b-lora"), {**demo_settings, **values})
    output, log = file_to_write(output, SUFFIX), log and file_to_write(log)
    if demo_settings:
        tell(defaults.described(demo_settings))
    return TrainJob(model, image, output, chosen, log, fresh, frozen, any_precision=named == "auto")


def _check(values: Mapping[str, Any]) -> None:
    """Raises RecipeError for what only a line of a jobs file can hold; the recipe checks its settings."""
    for name in ("model", "image", "output", "log_json", "frozen"):
        value = values[name]
        if not isinstance(value, (str, Path)) and not (value is None and name in ("log_json", "frozen")):
            raise RecipeError(f"{name} is {value!r}; it must be a name in quotes.")
    if not isinstance(values["fresh"], bool):
        raise RecipeError(f"fresh is {values['fresh']!r}; it must be true or false.")
    if values["mixed_precision"] not in get_args(TrainingPrecision):
        known = ", ".join(get_args(TrainingPrecision))
        raise RecipeError(f"mixed_precision is {values['mixed_precision']!r}; choose one of {known}.")
