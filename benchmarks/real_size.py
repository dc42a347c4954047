"""SDXL at its real size without its weights: keys, types, memory and arithmetic that no small model shows.

    python -m benchmarks.real_size write FOLDER [--kind scaled-fp8]    a random checkpoint, 4.7 to 6.9 GB
    python -m benchmarks.real_size check FILE                          loads it; every weight against the file's bytes
    python -m benchmarks.real_size train FILE [--pixels 64]            by command line: train, stop, go on, fuse, draw
    python -m benchmarks.real_size host FILE [--pixels 64]             in ComfyUI: keys, weights, two steps of training
    python -m benchmarks.real_size count [--pixels 1024]               bytes and TFLOP of training, bytes of drawing

check and train need 8 GB of RAM, host 16; count needs little: it runs on tensors without data (counting.py).
docs/memory.md has its figures.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "tests" / "data" / "blora_tiny" / "structure.png"


def main() -> int:
    options = parse()
    options.run(options)
    return 0


def parse() -> argparse.Namespace:
    from benchmarks.real_checkpoint import KINDS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, run, pixels in (
        ("write", write, None),
        ("check", check, None),
        ("train", train, 64),
        ("host", host, 64),
        ("count", count, 1024),
    ):
        sub = commands.add_parser(name)
        sub.set_defaults(run=run)
        if name != "count":
            sub.add_argument("path", type=Path)
        if name == "write":
            sub.add_argument("--kind", choices=KINDS, default="epsilon")
        if pixels:
            sub.add_argument("--pixels", type=int, default=pixels)
    return parser.parse_args()


def write(options: argparse.Namespace) -> None:
    from benchmarks.real_checkpoint import write

    print(write(options.kind, options.path / f"{options.kind}.safetensors"))


def check(options: argparse.Namespace) -> None:
    """Loads the file as the commands do, and compares each weight of the four models."""
    import torch

    from benchmarks.real_checkpoint import value
    from rechar_core.standalone.base import load
    from rechar_core.standalone.sdxl_layout import required
    from rechar_core.standalone.single_file import converted, empty_models
    from rechar_core.storage import opened

    started = time.perf_counter()
    pipeline = load(str(options.path), torch.bfloat16, torch.device("cpu"))
    print(f"loaded in {time.perf_counter() - started:.0f} s, {pipeline.scheduler.config.prediction_type}")
    with opened(options.path) as reader:
        for name, (prefix, empty) in empty_models().items():
            kind = torch.float32 if name == "vae" else torch.bfloat16
            own = dict(getattr(pipeline, name).named_parameters())
            unequal, compared = [], 0
            for key in required(prefix):  # one at a time, to hold the model once
                for theirs, tensor in _named(
                    converted, name, empty, prefix, key, value(reader, key).to(kind)
                ):
                    unequal += [] if torch.equal(own[theirs], tensor) else [theirs]
                    compared += 1
            print(f"{name}: {compared} of {len(own)} weights compared, {len(unequal)} differ {unequal[:3]}")


def _named(converted: Any, name: str, model: Any, prefix: str, key: str, tensor: Any) -> Any:
    """One weight under diffusers' names, by a converter that wants the others to be there as well."""
    import torch

    from rechar_core.standalone.sdxl_layout import required

    if name not in _PLACES:
        shapes = required(prefix)
        numbered = {k: torch.tensor(float(i)).expand(s) for i, (k, s) in enumerate(shapes.items())}
        _PLACES[name], keys = {k: [] for k in shapes}, list(shapes)
        for theirs, found in converted(name, model, numbered).items():
            _PLACES[name][keys[int(found.flatten()[0])]].append(theirs)
    places = _PLACES[name][key]
    parts = tensor.chunk(len(places)) if len(places) > 1 else [tensor]
    for theirs, part in zip(places, parts, strict=True):
        turned = part.T if key.endswith("text_projection") else part
        yield theirs, turned.reshape(model.get_parameter(theirs).shape)


_PLACES: dict[str, dict[str, list[str]]] = {}


def train(options: argparse.Namespace) -> None:
    """Trains two steps with a stop after the first, goes on, and draws with what was trained, by the commands."""
    from rechar_core.standalone.cli import main as command
    from rechar_core.training.loop import Training

    folder = options.path.parent
    output = folder / "trained.safetensors"
    words = [
        "train",
        "--model",
        str(options.path),
        "--image",
        str(PICTURE),
        "--prompt",
        "A [c]",
        "--output",
        str(output),
    ]
    words += [
        "--mixed-precision",
        "bf16",
        "--steps",
        "2",
        "--rank",
        "8",
        "--resolution",
        str(options.pixels),
        "--fresh",
    ]
    step = Training.step
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it

    def stopped(*given: Any) -> Any:
        done = step(*given)
        os.kill(os.getpid(), signal.SIGINT)
        return done

    Training.step = stopped  # type: ignore[method-assign]
    timed("train, stopped after a step", lambda: command(words), 130)
    Training.step = step  # type: ignore[method-assign]
    timed("train, gone on", lambda: command(words[:-1]), 0)
    side = str(options.pixels)
    draw = [
        "generate",
        "--model",
        str(options.path),
        "--structure",
        str(output),
        "--prompt",
        "A [c]",
        "--steps",
        "2",
    ]
    draw += [
        "--output",
        str(folder / "drawn"),
        "--images",
        "1",
        "--width",
        side,
        "--height",
        side,
        "--precision",
        "bf16",
    ]
    timed("generate", lambda: command(draw), 0)


def timed(what: str, run: Any, expected: int) -> None:
    import resource

    started = time.perf_counter()
    gc.collect()  # of the command before: each has a process of its own otherwise
    status = run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{what}: status {status}, {time.perf_counter() - started:.0f} s, at most {peak:.1f} GB of RAM so far",
        flush=True,
    )
    assert status == expected


def host(options: argparse.Namespace) -> None:
    """The same in ComfyUI's Python, in its folder."""
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
    own = folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python = os.environ.get("COMFYUI_PYTHON") or (str(own) if own.is_file() else sys.executable)
    script = str(ROOT / "benchmarks" / "real_size_in_host.py")
    base = options.path.parent / "host"
    base.mkdir(exist_ok=True)
    subprocess.run(
        [python, "-s", script, str(ROOT), str(base), str(options.path.resolve()), str(options.pixels)],
        cwd=folder,
        check=True,
    )


def count(options: argparse.Namespace) -> None:
    from benchmarks.counted import drawing, set_up, training

    for line in (*training(options.pixels), *set_up(options.pixels), *drawing(options.pixels)):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
