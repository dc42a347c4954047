"""The command line: `python -m rechar_core train | generate | inspect | convert | demo`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ReCharError

_FORMATS = ("kohya", "kohya-sgm", "diffusers", "peft", "comfy")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 on bad input, 130 when interrupted."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a gbk or cp1252 console must not crash on a file name
            stream.reconfigure(errors="backslashreplace")
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
    add = sub.add_argument
    add("--model", required=True, help="diffusers folder, SDXL .safetensors file, hub id, or 'demo'")
    add("--image", required=True, type=Path, help="a picture, or a folder of pictures of one thing")
    add("--prompt", required=True, help="what the picture is called in training, for example 'A [v]'")
    add("--output", required=True, type=Path, help="the .safetensors file to write")
    add("--target", choices=("both", "structure", "style"), default="both", help="blocks to train")
    add("--rank", type=int, default=64)
    add("--steps", type=int, default=1000)
    add("--learning-rate", type=float, default=5e-5)
    add("--resolution", type=int, default=1024, help="pixels of the shorter side")
    add("--batch-size", type=int, default=1, help="noise draws of one picture a step")
    add("--seed", type=int, default=0)
    add("--optimizer", choices=("adamw", "adamw8bit", "prodigy"), default="adamw")
    add("--mixed-precision", choices=("no", "fp16", "bf16"), default="no", help="of the frozen base")
    add(
        "--gradient-checkpointing",
        choices=("auto", "on", "off"),
        default="auto",
        help="less memory, more time",
    )
    add("--log-json", type=Path, help="write losses, seconds per step and peak memory here")
    add("--fresh", action="store_true", help="forget an unfinished run of this output")


def _train(options: argparse.Namespace) -> None:
    from ..training.recipe import TrainingRecipe
    from .train import TrainJob, train

    recipe = TrainingRecipe(
        prompt=options.prompt,
        target=options.target,
        rank=options.rank,
        steps=options.steps,
        learning_rate=options.learning_rate,
        resolution=options.resolution,
        batch_size=options.batch_size,
        seed=options.seed,
        optimizer=options.optimizer,
        precision=options.mixed_precision,
        gradient_checkpointing=options.gradient_checkpointing,
    )
    print(
        train(TrainJob(options.model, options.image, options.output, recipe, options.log_json, options.fresh))
    )


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
    add("--prompt", required=True)
    add("--negative", help="negative prompt; without it SDXL's zeros")
    add("--output", required=True, type=Path, help="folder for the PNG files")
    add("--images", type=int, default=4)
    add("--steps", type=int, default=30)
    add("--guidance", type=float, default=5.0)
    add("--seed", type=int, default=0, help="of the first picture; the next has seed + 1")
    add("--width", type=int, help="pixels, a multiple of 8")
    add("--height", type=int, help="pixels, a multiple of 8")


def _generate(options: argparse.Namespace) -> None:
    from .generate import GenerateJob, Sampling, generate

    sampling = Sampling(
        options.prompt, options.negative, options.steps, options.guidance, options.width, options.height
    )
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
    sub.add_argument("--format", choices=_FORMATS, default="kohya", help="key format to write")


def _convert(options: argparse.Namespace) -> None:
    from ..files import read, write

    print(write(read(options.input), options.output, format=options.format))


def _demo_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--output", type=Path, default=Path("rechar-demo"), help="folder for pictures and LoRA files"
    )
    sub.add_argument("--seed", type=int, default=0)


def _demo(options: argparse.Namespace) -> None:
    from .story import tell

    print(tell(options.output, options.seed))


_COMMANDS = {
    "train": ("train a B-LoRA from a picture", _train_options, _train),
    "generate": ("draw with a structure and/or a style B-LoRA", _generate_options, _generate),
    "inspect": ("say what a LoRA file holds", _inspect_options, _inspect),
    "convert": ("write a LoRA file in another key format", _convert_options, _convert),
    "demo": ("the whole method on the shipped demo model", _demo_options, _demo),
}
