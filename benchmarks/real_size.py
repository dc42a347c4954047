"""SDXL at its real size without its weights: keys, types, memory and arithmetic that no small model shows.

    python -m benchmarks.real_size write FOLDER [--kind scaled-fp8]    a random checkpoint, 4.1 to 6.9 GB
    python -m benchmarks.real_size check FILE                          loads it; every weight against the file's bytes
    python -m benchmarks.real_size train FILE [--pixels 64]            by command line: train, stop, go on, fuse, draw
    python -m benchmarks.real_size host FILE [--pixels 64]             the same in a ComfyUI server, and its own loader
    python -m benchmarks.real_size count [--pixels 1024]               bytes and TFLOP of training, bytes of drawing

check and train need 9 GB of RAM in half precision, host 10; count needs little: it runs on tensors without data
(counting.py). Half-precision convolutions take a CPU without AMX some 60 times as long as fp32 ones: hence so few
pixels. Twice as many take four times as long; --precision no computes in fp32, with twice the memory. docs/memory.md
has its figures.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

NAMES = {"bf16": "bfloat16", "fp16": "float16", "no": "float32"}  # by --precision


def main() -> int:
    options = parse()
    options.run(options)
    return 0


def parse() -> argparse.Namespace:
    from benchmarks.real_checkpoint import KINDS
    from benchmarks.real_runs import by_command, in_host

    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True)
    for name, run, pixels in (
        ("write", write, None),
        ("check", check, None),
        ("train", by_command, 64),
        ("host", in_host, 64),
        ("count", count, 1024),
    ):
        sub = commands.add_parser(name)
        sub.set_defaults(run=run)
        if name != "count":
            sub.add_argument("path", type=Path)
        if name == "write":
            sub.add_argument("--kind", choices=KINDS, default="epsilon")
        if name in ("check", "train", "host"):
            sub.add_argument("--precision", choices=NAMES, default="bf16")
        if pixels:
            sub.add_argument("--pixels", type=int, default=pixels)
    return parser.parse_args()


def write(options: argparse.Namespace) -> None:
    from benchmarks.real_checkpoint import write

    print(write(options.kind, options.path / f"{options.kind}.safetensors"))


def check(options: argparse.Namespace) -> None:
    """Loads the file as the commands do, and compares each weight of the four models; exits with 1 if one differs."""
    import torch

    from benchmarks.measure import resident
    from benchmarks.real_checkpoint import value
    from rechar_core.backend.pipeline import load
    from rechar_core.backend.sdxl_layout import required
    from rechar_core.backend.single_file import empty_models
    from rechar_core.storage import opened

    started, dtype = time.perf_counter(), getattr(torch, NAMES[options.precision])
    pipeline = load(str(options.path), dtype, torch.device("cpu"))
    prediction = pipeline.scheduler.config.prediction_type
    print(f"loaded in {time.perf_counter() - started:.0f} s, {prediction}", flush=True)
    wrong = 0
    with opened(options.path) as reader:
        for name, (prefix, empty) in empty_models().items():
            kind = torch.float32 if name == "vae" else dtype
            own = dict(getattr(pipeline, name).named_parameters())
            places, compared, unequal = _places(name, empty, prefix), set(), []
            for key in required(prefix):  # one at a time, to hold the model once
                for theirs, tensor in _parts(places[key], empty, key, value(reader, key).to(kind)):
                    unequal += [] if torch.equal(own[theirs], tensor) else [theirs]
                    compared.add(theirs)
            missed = [key for key in places if not places[key]]
            left = own.keys() - compared
            print(
                f"{name}: {len(places)} keys, {len(missed)} missed; "
                f"{len(compared)} weights compared, {len(left)} left out, {len(unequal)} differ {unequal[:3]}",
                flush=True,
            )
            wrong += len(missed) + len(left) + len(unequal)
    print(f"at most {resident('VmHWM') / 1e9:.1f} GB resident, with the file's own pages")
    if wrong:
        sys.exit(1)


def _places(name: str, model: Any, prefix: str) -> dict[str, list[str]]:
    """A checkpoint's keys -> where diffusers' converter, which wants all of them at once, puts each."""
    import torch

    from rechar_core.backend.sdxl_layout import required
    from rechar_core.backend.single_file import converted

    shapes = required(prefix)
    keys = list(shapes)
    places: dict[str, list[str]] = {key: [] for key in keys}
    numbered = {key: torch.tensor(float(i)).expand(shapes[key]) for i, key in enumerate(keys)}
    for theirs, found in converted(name, model, numbered).items():
        places[keys[int(found.flatten()[0])]].append(theirs)
    return places


def _parts(places: list[str], model: Any, key: str, tensor: Any) -> Any:
    """One weight of the file under diffusers' names: open_clip keeps q, k and v in one."""
    parts = tensor.chunk(len(places)) if len(places) > 1 else [tensor]
    for theirs, part in zip(places, parts, strict=True):
        turned = part.T if key.endswith("text_projection") else part
        yield theirs, turned.reshape(model.get_parameter(theirs).shape)


def count(options: argparse.Namespace) -> None:
    from benchmarks.counted import drawing, set_up, training

    for line in (*training(options.pixels), *set_up(options.pixels), *drawing(options.pixels)):
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
