"""The command line: `python -m rechar_core train | generate | inspect | convert | restyle | memory | demo`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from ..backend import defaults
from ..device import RenderPrecision, ran_out
from ..errors import ReCharError, RecipeError, first_line
from ..lora.key_formats import WRITABLE
from . import train_options
from .options import job_from


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status: 0, 1 on bad input, 130 when interrupted."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a gbk or cp1252 console must not crash on a file name
            stream.reconfigure(errors="backslashreplace")
    # transformers warns of image processors that nothing here uses
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # when a job scheduler stops a training, its state is saved as on Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        options.command(options)
    except ReCharError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"error: {_without(error)}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if not ran_out(error):
            raise
        print(
            f"error: The memory does not suffice ({first_line(error)}). Close other programs that use it, "
            "or choose a smaller picture or resolution.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as stop:
        print(str(stop) or "Interrupted.", file=sys.stderr)  # a training says what it saved
        return 130
    return 0


def _without(error: ModuleNotFoundError) -> str:
    """What to do without a package. Raises `error` again where the missing module is one of our own."""
    package, root = (error.name or "").split(".")[0], Path(__file__).parents[2]
    if package in ("", "rechar_core"):
        raise error
    python = root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    lacks = f"The package '{package}' is not installed for the Python in use ({sys.executable})."
    install = f'"{sys.executable}" -m pip install -r "{root / "requirements.txt"}"'
    if Path(sys.prefix) == python.parents[1]:
        return f"{lacks} Install what it needs: {install}"
    ready = "which has all" if python.is_file() else "which 'python run.py demo' makes"
    return f'{lacks} Use that of run.py\'s environment, {ready}: "{python}" -m rechar_core ..., or install: {install}'


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in a line; all options are a screenful, in which that line would be lost."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}. '{self.prog} --help' shows all options.\n")


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Says no default where there is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if any(action.default is nothing for nothing in (None, False, "")):
            return action.help
        return super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """All commands with their exact options; scripts rely on them."""
    root = _Parser(
        prog="python -m rechar_core",
        description="Structure and style B-LoRAs from single pictures, fused with an alpha each.",
        formatter_class=_Help,
    )
    commands = root.add_subparsers(required=True, metavar="command")
    for name, (help_text, add_options, command) in _COMMANDS.items():
        sub = commands.add_parser(name, help=help_text, formatter_class=_Help)
        add_options(sub)
        sub.set_defaults(command=command)
    return root


def _generate_options(sub: argparse.ArgumentParser) -> None:
    add, unset = sub.add_argument, argparse.SUPPRESS
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
    add("--images", type=int, default=4, help="how many pictures to draw, each with a seed of its own")
    _precision_option(sub)
    add("--steps", type=int, default=unset, help="(30; with --mode the mode's, with 'demo' its own)")
    add("--guidance", type=float, default=unset, help="classifier-free scale (5; as --steps)")
    add("--seed", type=int, default=0, help="of the first picture; the next has seed + 1")
    add("--width", type=int, help="pixels, a multiple of 8 (SDXL 1024); with --mode of the shorter side")
    add("--height", type=int, help="pixels, a multiple of 8 (SDXL 1024)")
    from .decorate import add_options

    add_options(sub)


def _precision_option(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--precision",
        choices=get_args(RenderPrecision),
        default="auto",
        help="of UNet and text encoders; the VAE computes in fp32 always. auto: fp16 on a GPU that computes in it, "
        "else fp32, which takes twice the memory (15 GB for SDXL): on a CPU with less than 16 GB of RAM choose bf16",
    )


def _generate(options: argparse.Namespace) -> None:
    from ..backend.processes import say
    from .decorate import decorate, job_of
    from .generate import GenerateJob, Sampling, generate

    demo_settings = defaults.drawing(options.model, vars(options))
    vars(options).update(demo_settings)
    if options.mode is None and options.prompt is None:
        raise RecipeError("generate needs --prompt, or --mode with --glyph.")
    if demo_settings:
        say(defaults.described(demo_settings))
    if options.mode is not None:
        paths = decorate(job_of(options))
    else:
        paths = generate(job_from(GenerateJob, options, sampling=job_from(Sampling, options)))
    for path in paths:
        print(path)


def _inspect_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("file", type=Path, help="a LoRA file")
    sub.add_argument("--json", action="store_true", help="machine-readable")


def _inspect(options: argparse.Namespace) -> None:
    from ..lora.files import read
    from ..lora.inspect import inspect

    report = inspect(read(options.file))
    print(json.dumps(report.as_dict(), ensure_ascii=False, indent=1) if options.json else report)


def _convert_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("input", type=Path, help="a LoRA file of any format")
    sub.add_argument("output", type=Path, help="the .safetensors file to write")
    sub.add_argument("--format", choices=WRITABLE, default="kohya", help="key format to write")


def _convert(options: argparse.Namespace) -> None:
    from ..lora.files import read, write

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
    add(
        "--guidance",
        type=float,
        default=argparse.SUPPRESS,
        help="sdxl: classifier-free scale (5; with the model 'demo' its own)",
    )
    add("--strength", type=float, default=0.6, help="sdxl: how much is drawn anew, up to 1")
    add("--steps", type=int, help="30 for sdxl, 201 for clip")
    add("--clip", type=Path, help="clip: a folder with a CLIP model")
    add("--vgg", type=Path, help="clip: VGG19 as .safetensors")
    add("--t", type=float, default=0.7, help="clip: how strongly the surroundings are held")
    add("--seed", type=int, default=0)
    _precision_option(sub)


def _restyle(options: argparse.Namespace) -> None:
    from .restyle import RestyleJob, restyle

    vars(options).update(defaults.drawing(options.model, vars(options)))  # guidance alone: steps is there
    print(restyle(job_from(RestyleJob, options)))


def _demo_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--output", type=Path, default=Path("rechar-demo"), help="folder for pictures and LoRA files"
    )
    sub.add_argument("--seed", type=int, default=0)


def _demo(options: argparse.Namespace) -> None:
    import torch

    from .demo import run_demo

    # so small a model gains nothing from more threads, and on a busy machine they wait for each other
    torch.set_num_threads(1)
    print(run_demo(options.output, options.seed))


def _memory_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--resolution", type=int, default=1024, help="pixels of a square picture's side")
    sub.add_argument("--rank", type=int, default=64, help="of all LoRAs that are trained at once, together")
    sub.add_argument("--batch-size", type=int, default=1)


def _memory(options: argparse.Namespace) -> None:
    from .memory import report

    print(report(options.resolution, options.batch_size, options.rank))


_COMMANDS = {
    "train": ("train a B-LoRA from a picture", train_options.add_options, train_options.run),
    "generate": ("draw with a structure and/or a style B-LoRA", _generate_options, _generate),
    "inspect": ("say what a LoRA file holds", _inspect_options, _inspect),
    "convert": ("write a LoRA file in another key format", _convert_options, _convert),
    "restyle": ("restyle one named object of a picture", _restyle_options, _restyle),
    "memory": ("what a training takes, and the memory mode for each card", _memory_options, _memory),
    "demo": ("the whole method on the shipped demo model", _demo_options, _demo),
}
