"""The command line: `python -m rechar_core train | generate | inspect | convert | restyle | demo`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ReCharError, RecipeError
from ..keys import WRITABLE

if TYPE_CHECKING:
    from .train import TrainJob

_CHECKPOINTING = {"auto": "auto", "on": "normal", "off": "fast"}  # the option before --memory


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 on bad input, 130 when interrupted."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a gbk or cp1252 console must not crash on a file name
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault(
        "TRANSFORMERS_VERBOSITY", "error"
    )  # it warns of image processors that nobody asked for
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # a job scheduler's stop keeps the state, as Ctrl-C
    try:
        options.command(options)
    except ReCharError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """All commands with their exact options; scripts rely on them."""
    root = argparse.ArgumentParser(
        prog="python -m rechar_core",
        description="Structure and style B-LoRAs from single pictures, fused with an alpha each.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    commands = root.add_subparsers(required=True, metavar="command")
    for name, (help_text, add_options, command) in _COMMANDS.items():
        sub = commands.add_parser(
            name, help=help_text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        add_options(sub)
        sub.set_defaults(command=command)
    return root


def _train_options(sub: argparse.ArgumentParser) -> None:
    from ..training.presets import PRESETS

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
    add("--recipe", choices=tuple(PRESETS), default="b-lora", help="settings to start from")
    add("--target", choices=("both", "structure", "style"), default=unset, help="blocks to train (both)")
    add("--rank", type=int, default=unset, help="(64)")
    add("--steps", type=int, default=unset, help="(the recipe's: 1000 in b-lora)")
    add("--learning-rate", type=float, default=unset, help="(the recipe's: 5e-5 in b-lora)")
    add("--resolution", type=int, default=unset, help="pixels of the shorter side (1024)")
    add("--batch-size", type=int, default=unset, help="noise draws of one picture a step (1)")
    add("--seed", type=int, default=unset, help="(0)")
    add("--seeds", help="one LoRA each, side by side, with a sheet to choose from: 0,1,2,3")
    add("--noise-seed", type=int, default=unset, help="of the noises, where it is not --seed")
    add("--optimizer", choices=("adamw", "adamw8bit", "prodigy"), default=unset, help="(adamw)")
    add("--loss", choices=("prediction", "x0"), default=unset, help="(the recipe's; x0 is ConsisLoRA's)")
    add("--min-snr-gamma", type=float, default=unset, help="min-SNR weighting; 5 is usual (off)")
    add("--noise-offset", type=float, default=unset, help="(the recipe's)")
    add("--mixed-precision", choices=("no", "fp16", "bf16"), default="no", help="of the frozen base")
    add("--memory", choices=("auto", "fast", "normal", "low"), default="auto", help="speed against memory")
    add("--gradient-checkpointing", choices=tuple(_CHECKPOINTING), default=unset, help=argparse.SUPPRESS)
    add("--fp8-base", action="store_true", help="base weights in 8 bits: half the memory, another result")
    add("--frozen", type=Path, help="B-LoRA whose structure block stays in the model while training")
    add("--log-json", type=Path, help="write losses, seconds per step and peak memory here")
    add("--fresh", action="store_true", help="forget an unfinished run of this output")


def _train(options: argparse.Namespace) -> None:
    own = ("command", "jobs", "seeds")
    given = {name: value for name, value in vars(options).items() if name not in own}
    if options.seeds is not None:
        _train_seeds(options, given)
        return
    if options.jobs is None:
        from .train import train

        print(train(_train_job(given)))
        return
    from .jobs import finished, read_jobs, train_all

    jobs = read_jobs(options.jobs, lambda values: _train_job({**given, **values}))
    for job in jobs:
        finished(job)
    for path in train_all(jobs, lambda text: print(text, file=sys.stderr, flush=True)):
        print(path)


def _train_seeds(options: argparse.Namespace, given: Mapping[str, Any]) -> None:
    from .seeds import train_seeds

    if options.jobs is not None:
        raise RecipeError("--seeds and --jobs do not go together; write a line a seed into the jobs file.")
    try:
        seeds = [int(part) for part in options.seeds.split(",")]
    except ValueError:
        raise RecipeError(f"--seeds is {options.seeds!r}; it must be numbers such as 0,1,2,3.") from None
    for path in train_seeds(_train_job(given), seeds):
        print(path)


def _train_job(given: Mapping[str, Any]) -> TrainJob:
    """A job from options by name, of the command line or of a line of a jobs file."""
    from ..files import SUFFIX
    from ..storage import file_to_write
    from ..training.presets import recipe
    from .train import TrainJob

    values = {name.replace("-", "_"): value for name, value in given.items()}
    missing = [f"--{name}" for name in ("model", "image", "prompt", "output") if name not in values]
    if missing:
        raise RecipeError(f"train needs {', '.join(missing)} as well.")
    values["precision"] = values.pop("mixed_precision")
    if "gradient_checkpointing" in values:
        values["memory"] = _CHECKPOINTING[values.pop("gradient_checkpointing")]
    places = {name: values.pop(name) for name in ("image", "output", "log_json", "frozen")}
    image, output, log, frozen = (place and Path(place) for place in places.values())
    model, fresh = values.pop("model"), values.pop("fresh")
    chosen = recipe(values.pop("recipe"), values)
    output, log = file_to_write(output, SUFFIX), log and file_to_write(log)
    return TrainJob(model, image, output, chosen, log, fresh, frozen)


def _generate_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--model", required=True, help="diffusers folder, SDXL .safetensors file, hub id, or 'demo'")
    add("--structure", type=Path, help="B-LoRA file to take the structure block from")
    add("--structure-alpha", type=float, default=1.0)
    add("--style", type=Path, help="B-LoRA file to take the style block from")
    add("--style-alpha", type=float, default=1.0)
    add(
        "--alpha-mode",
        choices=("linear", "reference"),
        default="linear",
        help="'reference' squares the alphas",
    )
    add("--prompt", help="what to draw; needed without --mode")
    add("--negative", help="negative prompt; without it SDXL's zeros")
    add("--output", required=True, type=Path, help="folder for the PNG files")
    add("--images", type=int, default=4)
    add("--steps", type=int, help="(30; with --mode the mode's)")
    add("--guidance", type=float, help="classifier-free scale (5; with --mode the mode's)")
    add("--seed", type=int, default=0, help="of the first picture; the next has seed + 1")
    add("--width", type=int, help="pixels, a multiple of 8; with --mode of the shorter side")
    add("--height", type=int, help="pixels, a multiple of 8")
    from .decorate import add_options

    add_options(sub)


def _generate(options: argparse.Namespace) -> None:
    if options.mode is not None:
        from .decorate import decorate, job_of

        for path in decorate(job_of(options)):
            print(path)
        return
    from .generate import GenerateJob, Sampling, generate

    if options.prompt is None:
        raise RecipeError("generate needs --prompt, or --mode with --glyph.")
    given = {
        name: getattr(options, name) for name in ("steps", "guidance") if getattr(options, name) is not None
    }
    sampling = Sampling(options.prompt, options.negative, width=options.width, height=options.height, **given)
    job = GenerateJob(
        model=options.model,
        sampling=sampling,
        output=options.output,
        structure=options.structure,
        style=options.style,
        structure_alpha=options.structure_alpha,
        style_alpha=options.style_alpha,
        alpha_mode=options.alpha_mode,
        images=options.images,
        seed=options.seed,
    )
    for path in generate(job):
        print(path)


def _inspect_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="a LoRA file")
    sub.add_argument("--json", action="store_true", help="machine-readable")


def _inspect(options: argparse.Namespace) -> None:
    from ..files import read
    from ..inspect import inspect

    report = inspect(read(options.file))
    print(json.dumps(report.as_dict(), ensure_ascii=False, indent=1) if options.json else report)


def _convert_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("input", type=Path, help="a LoRA file of any format")
    sub.add_argument("output", type=Path, help="the .safetensors file to write")
    sub.add_argument("--format", choices=WRITABLE, default="kohya", help="key format to write")


def _convert(options: argparse.Namespace) -> None:
    from ..files import read, write

    print(write(read(options.input), options.output, format=options.format))


def _restyle_options(sub: argparse.ArgumentParser) -> None:
    add = sub.add_argument
    add("--image", required=True, type=Path, help="the picture")
    add("--instruction", required=True, help="for example 'turn the red car into a watercolor painting'")
    add("--output", required=True, type=Path, help="the PNG file to write")
    add("--engine", choices=("sdxl", "clip"), default="sdxl", help="SDXL, or CLIP-guided optimisation")
    add("--mask", type=Path, help="a picture, white on the object; else --segmenter finds it")
    add("--segmenter", type=Path, help="a folder with CLIPSeg or GroundingDINO")
    add("--sam", type=Path, help="a folder with SAM 2, for GroundingDINO")
    add(
        "--object", default="", help="what the segmenter looks for, in English; else the instruction's object"
    )
    add("--threshold", type=float, default=0.4, help="of the segmenter, 0 to 1")
    add("--llm", type=Path, help="a folder with an instruct model that reads the instruction; else rules")
    add("--model", default="", help="sdxl: diffusers folder, SDXL .safetensors file, hub id, or 'demo'")
    add("--style", type=Path, help="sdxl: B-LoRA file to take the style block from")
    add("--style-alpha", type=float, default=1.0)
    add("--structure", type=Path, help="sdxl: B-LoRA of the object, which keeps its form at a high strength")
    add("--prompt", help="sdxl: instead of one made from object and style")
    add("--guidance", type=float, default=5.0, help="sdxl: classifier-free scale")
    add("--strength", type=float, default=0.6, help="sdxl: how much is drawn anew, up to 1")
    add("--steps", type=int, help="30 for sdxl, 201 for clip")
    add("--clip", type=Path, help="clip: a folder with a CLIP model")
    add("--vgg", type=Path, help="clip: VGG19 as .safetensors")
    add("--t", type=float, default=0.7, help="clip: how strongly the surroundings are held")
    add("--seed", type=int, default=0)


def _restyle(options: argparse.Namespace) -> None:
    from .restyle import RestyleJob, restyle

    given = {name: value for name, value in vars(options).items() if name != "command"}
    print(restyle(RestyleJob(**given)))


def _demo_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--output", type=Path, default=Path("rechar-demo"), help="folder for pictures and LoRA files"
    )
    sub.add_argument("--seed", type=int, default=0)


def _demo(options: argparse.Namespace) -> None:
    import torch

    from .story import tell

    torch.set_num_threads(
        1
    )  # so small a model gains nothing from more, and on a busy machine they wait for each other
    print(tell(options.output, options.seed))


_COMMANDS = {
    "train": ("train a B-LoRA from a picture", _train_options, _train),
    "generate": ("draw with a structure and/or a style B-LoRA", _generate_options, _generate),
    "inspect": ("say what a LoRA file holds", _inspect_options, _inspect),
    "convert": ("write a LoRA file in another key format", _convert_options, _convert),
    "restyle": ("restyle one named object of a picture", _restyle_options, _restyle),
    "demo": ("the whole method on the shipped demo model", _demo_options, _demo),
}
