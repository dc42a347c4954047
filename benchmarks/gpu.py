"""Everything that only a graphics card can show, in one run of a few minutes: README's figures for a card.

    python -m benchmarks.gpu --out card.json [--checkpoint SDXL.safetensors] [--minutes 8.5] [--only training host]

Sections (on_card/): the card's own rates; a training step at SDXL's real size in every memory mode and by the published
recipe; from glyph and style picture to the finished picture; a ComfyUI server (COMFYUI_PATH, COMFYUI_PYTHON) with the
demo workflows; with --checkpoint, 8 glyphs x 4 styles scored. Without one, SDXL's layout gets random weights, which
cost the same time and memory.

Each section runs in a process of its own and has a share of the time; what is over when it comes is skipped, and says
so. FILE is written after each measurement, so that a run that is cut off leaves what it had. A Markdown table of it is
printed at the end and written next to it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from rechar_core.storage import write_bytes  # noqa: E402

# The most of the whole time that each section may take; what one leaves over goes to those behind it.
SECTIONS = {"card": 0.1, "training": 0.4, "pictures": 0.45, "host": 0.4, "quality": 1.0}
_FOR_QUALITY = 0.45  # of the whole time, kept for that section where it runs: 12 trainings, 32 pictures
_LEAST = 15.0  # seconds that a section is begun with
_ASIDE = 4.0  # seconds of each time that stay for ending, and at the end for the table
_GRACE = 10.0  # seconds that a section has to end itself when its time is over
_ROW = "\x1e"  # a line of a section's output that is a row


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    for name in options.imports:
        importlib.import_module(name)
    if options.section:
        return one(options)
    report, began = Report(options), time.monotonic()
    for name in options.only:
        left = options.minutes * 60 - _ASIDE - (time.monotonic() - began)
        if name != "quality" and options.checkpoint and "quality" in options.only:
            left -= _FOR_QUALITY * options.minutes * 60
        if name == "quality" and options.checkpoint is None:
            report.close(name, skipped="it scores pictures: that needs --checkpoint")
        elif left < _LEAST:
            report.close(name, skipped=f"{max(0, left):.0f} s of {options.minutes:g} minutes were left")
        else:
            run_section(name, min(left, SECTIONS[name] * options.minutes * 60), options, report)
    report.finish(time.monotonic() - began)
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="the JSON file to write")
    add("--checkpoint", type=Path, help="an SDXL base model: .safetensors file or diffusers folder")
    add("--minutes", type=float, default=8.5, help="for everything (8.5); a slow card needs more")
    add("--only", nargs="+", choices=tuple(SECTIONS), default=list(SECTIONS), help="these sections")
    add("--device", default="cuda", help="as torch names it")
    add("--size", choices=("sdxl", "small"), default="sdxl", help="small: to try the benchmark itself")
    add(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="imported first: a device that torch does not have by itself (torch_npu)",
    )
    add("--host-launcher", default="", help=argparse.SUPPRESS)  # what starts ComfyUI's main.py
    add("--section", choices=tuple(SECTIONS), help=argparse.SUPPRESS)
    add("--ends", type=float, help=argparse.SUPPRESS)  # as time.time() counts
    return parser.parse_args(arguments)


class Report:
    """All that was measured, written after each row."""

    def __init__(self, options: argparse.Namespace):
        self.path: Path = options.out
        about = {
            "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "minutes": options.minutes,
            "size": options.size,
            "model": options.checkpoint.name if options.checkpoint else "random weights",
        }
        self.found: dict[str, Any] = {"about": about, "sections": {}}
        self.write()

    def section(self, name: str) -> dict[str, Any]:
        return self.found["sections"].setdefault(name, {"rows": {}})

    def add(self, name: str, row: str, values: dict[str, Any]) -> None:
        self.section(name)["rows"][row] = values
        self.write()

    def close(self, name: str, **about: Any) -> None:
        """The section is over: how long it took, or why it was skipped or stopped."""
        self.section(name).update(about)
        self.write()

    def finish(self, seconds: float) -> None:
        from benchmarks.on_card.table import markdown

        self.found["about"]["seconds"] = seconds
        self.write()
        table = markdown(self.found)
        write_bytes((table.encode(),), self.path.with_suffix(".md"))
        print(table)

    def write(self) -> None:
        text = json.dumps(self.found, ensure_ascii=False, indent=1) + "\n"
        write_bytes((text.encode(),), self.path)


def run_section(name: str, seconds: float, options: argparse.Namespace, report: Report) -> None:
    """In a process of its own: what breaks it, or hangs in it, costs this section alone."""
    print(f"{name}: at most {seconds:.0f} s", file=sys.stderr, flush=True)
    began, late = time.monotonic(), threading.Event()
    command = child_command(name, time.time() + seconds - _ASIDE, options)
    environment = {"HF_HUB_OFFLINE": "1", **os.environ}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, encoding="utf-8", errors="replace"
    ) as process:
        assert process.stdout
        timers = (
            threading.Timer(seconds, lambda: (late.set(), process.terminate())),
            threading.Timer(seconds + _GRACE, process.kill),
        )
        try:
            for timer in timers:
                timer.start()
            for line in process.stdout:
                if line.startswith(_ROW):
                    report.add(name, *json.loads(line[1:]))
                else:
                    print(line, end="", file=sys.stderr, flush=True)
            status = process.wait()
        except BaseException:
            process.terminate()
            raise
        finally:
            for timer in timers:
                timer.cancel()
    about: dict[str, Any] = {"seconds": time.monotonic() - began}
    if late.is_set():
        about["stopped"] = f"its {seconds:.0f} s were over"
    elif status:
        about["stopped"] = f"it ended with status {status}; its output says why"
    report.close(name, **about)


def child_command(name: str, ends: float, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", "--section", name, "--ends", str(ends)]
    command += ["--out", str(options.out.resolve()), "--device", options.device, "--size", options.size]
    for module in options.imports:
        command += ["--import", module]
    if options.checkpoint:
        command += ["--checkpoint", str(options.checkpoint.resolve())]
    if options.host_launcher:
        command += [f"--host-launcher={options.host_launcher}"]
    return command


def one(options: argparse.Namespace) -> int:
    """In the child: the section's rows go to stdout, all else to stderr."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: the section's time is over"))
    rows, sys.stdout = sys.stdout, sys.stderr

    def send(name: str, row: dict[str, Any]) -> None:
        print(f"{_ROW}{json.dumps([name, row])}", file=rows, flush=True)

    import torch

    from benchmarks.on_card.task import SIZES, Task

    if options.device == "cuda" and not torch.cuda.is_available():
        send("device", {"error": "torch finds no CUDA device here"})
        return 0
    device = torch.device(options.device)
    if device.index is None and device.type not in ("cpu", "mps"):
        device = torch.device(device.type, 0)  # as tensors on it say
    known = json.loads(options.out.read_text(encoding="utf-8"))["sections"] if options.out.is_file() else {}
    task = Task(
        *(device, SIZES[options.size], options.checkpoint, options.ends, send, known),
        launcher=tuple(shlex.split(options.host_launcher)),
        out=options.out,
    )
    importlib.import_module(f"benchmarks.on_card.{options.section}").run(task)
    return 0


if __name__ == "__main__":
    sys.exit(main())
