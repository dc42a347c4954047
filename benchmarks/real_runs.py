"""Training, stopping, going on, fusing and drawing with a checkpoint of real size: by command line, and in ComfyUI.

Each goes through what users have: `python -m rechar_core`, and a ComfyUI server asked through POST /prompt. What was
stopped and gone on with must be, bit by bit, what comes out without a stop; a picture drawn with it another one than
without it. Memory is read from /proc: Linux alone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "tests" / "data" / "blora_tiny" / "structure.png"
PROMPT, RANK, RATE = "A [c]", 8, 1e-3  # a rate that moves a picture in two steps
HALF = {"bf16": "bf16", "fp16": "fp16", "no": "fp32"}  # --precision in the words of generate and ComfyUI


def by_command(options: argparse.Namespace) -> None:
    """Two steps without a stop; two with one after the first; a picture with what was trained, and one without."""
    folder = options.path.parent / f"{options.path.stem} by command"
    folder.mkdir(exist_ok=True)
    whole, stopped, log = (folder / name for name in ("whole.safetensors", "stopped.safetensors", "log.json"))
    model, side = ["--model", str(options.path)], str(options.pixels)
    train = ["train", *model, "--image", str(PICTURE), "--prompt", PROMPT, "--resolution", side]
    train += ["--mixed-precision", options.precision, "--steps", "2", "--rank", str(RANK)]
    train += ["--learning-rate", str(RATE)]
    command("train", [*train, "--output", str(whole), "--log-json", str(log), "--fresh"])
    print("losses", json.loads(log.read_text())["losses"])
    to_stop = [*train, "--output", str(stopped)]
    said = command("train, stopped", [*to_stop, "--fresh"], 130, stop_at=b"| 0/2 ")
    assert "Stopped at step 1 of 2" in said
    assert "Going on from step 1 of 2" in command("train, gone on", to_stop)
    same(whole, stopped)
    draw = ["generate", *model, "--prompt", PROMPT, "--steps", "2", "--guidance", "1", "--images", "1"]
    draw += ["--width", side, "--height", side, "--precision", HALF[options.precision]]
    both = ["--structure", str(stopped), "--style", str(stopped)]
    pictures = []
    for what, more in (("fused", both), ("plain", [])):
        command(f"generate, {what}", [*draw, *more, "--output", str(folder / what)])
        (drawn,) = (folder / what).glob("*.png")
        pictures.append(pixels(drawn))
    differ(*pictures)
    shutil.rmtree(folder)


def command(what: str, words: list[str], expected: int = 0, stop_at: bytes = b"") -> str:
    """Runs a command of the package in a process of its own; what it said. stop_at: end it kindly once it says so."""
    started = time.perf_counter()
    run = [sys.executable, "-m", "rechar_core", *words]
    said = b""
    with (
        subprocess.Popen(run, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
        watched(process.pid) as peak,
    ):
        while chunk := process.stdout.read1():  # type: ignore[union-attr]
            said += chunk
            if stop_at and stop_at in said:
                time.sleep(1)  # the step, which takes longer, is under way
                process.terminate()  # as a job scheduler does, and as Ctrl-C
                stop_at = b""
        status = process.wait()
    text = said.decode(errors="replace").replace("\r", "\n")
    assert status == expected, f"{what}: status {status}\n{text[-3000:]}"
    print(f"{what}: {time.perf_counter() - started:.0f} s, {peak}", flush=True)
    return text


class Peak:
    """Most memory of a process, in bytes. resident: with the pages of mapped files; own: without them."""

    resident = own = 0

    def read(self, pid: int) -> None:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
        self.resident = max(self.resident, found.get("VmHWM", 0))
        self.own = max(self.own, found.get("RssAnon", 0))

    def __str__(self) -> str:
        return f"at most {self.resident / 1e9:.1f} GB resident, {self.own / 1e9:.1f} without mapped files"


@contextlib.contextmanager
def watched(pid: int) -> Iterator[Peak]:
    """Looks at a process's memory ten times a second."""
    peak, over = Peak(), threading.Event()

    def look() -> None:
        while not over.wait(0.1):
            with contextlib.suppress(OSError):
                peak.read(pid)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def same(whole: Path, stopped: Path) -> None:
    from safetensors.torch import load_file

    first, second = load_file(whole), load_file(stopped)
    assert first.keys() == second.keys()
    unequal = [key for key in first if not first[key].equal(second[key])]
    moved = sum(bool(tensor.any()) for tensor in first.values())
    print(f"stopped and gone on: {len(first)} tensors, {len(unequal)} differ; {moved} are not 0", flush=True)
    assert not unequal
    assert moved == len(first)


def pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def differ(fused: Any, plain: Any) -> None:
    apart = abs(fused - plain)
    print(f"fused and plain: {apart.mean():.2f} grey levels apart, standard deviation {fused.std():.0f}")
    assert apart.mean() > 0.1
    assert fused.std() > 1


def in_host(options: argparse.Namespace) -> None:
    """What ComfyUI's loader makes of the file; then the same as by command, in a server. COMFYUI_PATH names it."""
    sys.path.append(str(ROOT / "tests"))  # behind all else: its modules have plain names
    host = importlib.import_module("hosts").hosts()[0]
    base = options.path.parent / f"{options.path.stem} in host"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    stored = stored_as(options.path.stem)
    script = str(ROOT / "benchmarks" / "real_size_in_host.py")
    checking = [str(host.python), "-s", script, str(ROOT), str(base / "check"), str(options.path.resolve())]
    subprocess.run([*checking, HALF[options.precision], *stored], cwd=host.folder, check=True)
    server = importlib.import_module("server")
    directory = server.base_directory(base / "server")
    os.symlink(options.path.resolve(), directory / "models" / "checkpoints" / options.path.name)
    with server.Server(host, directory, more_options=stored) as running:
        with watched(running.process.pid) as peak:
            Session(running, options).run()
        print(f"the server: {peak}", flush=True)
    shutil.rmtree(base)


def stored_as(kind: str) -> list[str]:
    """The host's option that keeps the UNet in the file's own type. On a CPU it would take fp32 for fp16 and bf16."""
    types = {"epsilon": "fp16", "fp8": "fp8_e4m3fn"}
    return [f"--{types.get(kind, 'bf16')}-unet"]


class Session:
    """The runs in one server: three steps with a stop after the first or second, whenever the host heeds the request
    that follows the first; gone on with; the same without a stop; drawn."""

    STEPS = 3

    def __init__(self, server: Any, options: argparse.Namespace):
        self.server, self.options = server, options
        self.kept = server.base / "user" / "rechar" / "trainings"

    def run(self) -> None:
        from safetensors import safe_open

        picture = self.server.client.upload(PICTURE)
        seen, _ = self.queue("train, stopped", self.training(picture, "stopped"), stop=True)
        assert seen == [1]
        assert len(list(self.kept.glob("*.state"))) == 1
        seen, _ = self.queue("train, gone on", self.training(picture, "stopped"))
        assert seen in ([2, 3], [3]), "it began anew"
        for file in self.kept.iterdir():
            file.unlink()
        again = self.training(picture, "whole")
        again["train"]["inputs"]["memory"] = "fast"  # another input, the same job: it runs again
        seen, _ = self.queue("train", again)
        assert seen == [1, 2, 3]
        (kept,) = self.kept.glob("*.safetensors")
        with safe_open(kept, "pt") as trained:
            print(
                "losses", trained.metadata()["training_losses"]
            )  # by command line nearly the same, of both steps
        folder = self.server.base / "models" / "loras"
        for block in ("structure", "style"):
            same(folder / f"whole_{block}.safetensors", folder / f"stopped_{block}.safetensors")
        self.draw(again)

    def draw(self, training: dict[str, Any]) -> None:
        """Two pictures in one queue, with what was trained and without."""
        graphs = importlib.import_module("graphs")
        fuse = graphs.fuse(["train", 0], ["train", 1])
        fuse["inputs"]["model"] = ["typed", 0]
        nodes = {
            **training,
            "fuse": fuse,
            **graphs.draw(["fuse", 0], "fused"),
            **graphs.draw(["typed", 0], "plain"),
        }
        for each in nodes.values():
            inputs = each["inputs"]
            for name, wire in (("clip", ["file", 1]), ("vae", ["file", 2])):
                inputs |= {name: wire} if name in inputs else {}
            inputs |= dict.fromkeys(inputs.keys() & {"width", "height"}, self.options.pixels)
            inputs |= {"cfg": 1.0} if "cfg" in inputs else {}
        _, run = self.queue("draw, fused and plain", nodes)
        differ(*(run.images[name].astype(int) for name in ("fused", "plain")))

    def training(self, picture: str, name: str) -> dict[str, Any]:
        node = importlib.import_module("graphs").node
        recipe = {"steps": self.STEPS, "learning_rate": RATE, "rank": RANK, "batch_size": 1, "seed": 0}
        recipe |= {"prompt": PROMPT, "resolution": self.options.pixels, "optimizer": "adamw"}
        wires = {"model": ["typed", 0], "clip": ["file", 1], "vae": ["file", 2], "image": ["picture", 0]}
        parts = {"structure": ["train", 0], "style": ["train", 1]}
        dtype = HALF[self.options.precision]
        return {
            "file": node("CheckpointLoaderSimple", ckpt_name=self.options.path.name),
            "typed": node("ModelComputeDtype", model=["file", 0], dtype=dtype),  # else a CPU computes in fp32
            "picture": node("LoadImage", image=picture),
            "train": node("ReCharTrainBLoRA", target="both", memory="auto", **wires, **recipe),
            "save": node("ReCharSaveBLoRA", name=name, **parts),
        }

    def queue(self, what: str, nodes: dict[str, Any], stop: bool = False) -> tuple[list[int], Any]:
        """The steps of training that the server reported, and the run. A preview comes with each of them, after its
        number: so the set-up's progress is told from that of the steps."""
        seen: list[int] = []
        last: dict[str, Any] = {}

        def show(event: Any) -> None:
            if event.kind == "progress":
                last.update(event.data)
            elif event.kind == "preview" and last.get("node") == "train":
                seen.append(last["value"])
                if stop:
                    self.server.client.stop()

        started = time.perf_counter()
        run = self.server.run(nodes, show)
        assert bool(run.error) == stop, run.error
        print(f"{what}: {time.perf_counter() - started:.0f} s, steps {seen}", flush=True)
        return seen, run
