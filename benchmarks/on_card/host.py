"""A real ComfyUI server with this pack, as its users start it: the demo workflows, and SDXL's training if there is a
checkpoint. The server is that of the tests (tests/server.py), on the card and with the host's own defaults.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

from .task import ROOT, Row, Task, note

WORKFLOWS = ROOT / "workflows" / "api"
FIRST = "demo_train_from_glyph"
_STEPS = 200  # of SDXL's training here: its speed is asked for, not its picture


def run(task: Task) -> None:
    sys.path.append(str(ROOT / "tests"))  # behind all else: its modules have plain names
    hosts = importlib.import_module("hosts")
    found = hosts.hosts()
    if not found:
        where = ", ".join(map(str, hosts.absent()))
        return task.send("ComfyUI", {"skipped": f"no ComfyUI in {where}: set COMFYUI_PATH"})
    if fault := hosts.fault(found[0]):
        return task.send("ComfyUI", {"skipped": fault})
    try:
        server = importlib.import_module("server")
    except ModuleNotFoundError as error:
        return task.send("ComfyUI", {"skipped": f"the package {error.name} is not installed"})
    launcher = task.launcher or (() if task.device.type == "cpu" else (str(server.ATTACHED),))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        base = server.base_directory(Path(folder) / "comfyui")
        checkpoint = linked(task.checkpoint, base)
        began = time.perf_counter()
        running = server.Server(found[0], base, launcher)
        try:
            started: list[Any] = []
            task.measure("ComfyUI", 20, lambda: start(running, found[0], began, started))
            if started:
                Bench(task, running).run(checkpoint)
        finally:
            running.stop()


def start(running: Any, host: Any, began: float, started: list[Any]) -> Row:
    try:
        running.wait()
    except Exception as error:  # with the log's end above what is wrong
        note(str(error))
        raise RuntimeError(str(error).strip().splitlines()[-1]) from None
    started.append(True)
    log = running.log()
    return {
        "version": host.version,
        "dynamic_vram": "DynamicVRAM support detected and enabled" in log,
        "start_seconds": time.perf_counter() - began,
        "pack_import_seconds": running.import_seconds(),
        "device": running.client_json("/system_stats")["devices"][0]["name"],
    }


def linked(checkpoint: Path | None, base: Path) -> str:
    """The checkpoint's name among the server's models; empty if there is none, or it is no single file."""
    if checkpoint is None or not checkpoint.is_file():
        return ""
    os.symlink(checkpoint.resolve(), base / "models" / "checkpoints" / checkpoint.name)
    return checkpoint.name


class Bench:
    """What a running server does with the shipped workflows."""

    def __init__(self, task: Task, server: Any):
        self.task, self.server = task, server

    def run(self, checkpoint: str) -> None:
        """First what matters most: training and drawing the demo, twice; then SDXL; then the other demo workflows."""
        measure, first = self.task.measure, self.workflow(FIRST)
        measure(f"{FIRST}, first", 10, lambda: self.queue(first))
        measure(f"{FIRST}, another seed", 5, lambda: self.queue(seeded(first, "ReCharTrainBLoRA")))
        measure(f"{FIRST}, trained before", 5, lambda: self.queue(seeded(first, "KSampler")))
        if checkpoint:
            sdxl = self.sdxl(checkpoint)
            measure(f"SDXL, {_STEPS} training steps", 60, lambda: self.queue(sdxl))
            drawn = seeded(sdxl, "KSampler")
            measure("SDXL, trained before", 10, lambda: self.queue(drawn))
        others = [] if self.task.size.name == "small" else sorted(WORKFLOWS.glob("demo_*.json"))
        for path in others:
            if path.stem != FIRST:
                measure(path.stem, 10, lambda path=path: self.queue(self.workflow(path.stem)))

    def workflow(self, name: str) -> dict[str, Any]:
        found = json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))
        return importlib.import_module("shrink").small_api(found) if self.task.size.name == "small" else found

    def sdxl(self, checkpoint: str) -> dict[str, Any]:
        found = json.loads((WORKFLOWS / "train_from_glyph.json").read_text(encoding="utf-8"))
        for node in found.values():
            if node["class_type"] == "CheckpointLoaderSimple":
                node["inputs"]["ckpt_name"] = checkpoint
            elif node["class_type"] == "ReCharTrainBLoRA":
                node["inputs"]["steps"] = _STEPS
        return found

    def queue(self, workflow: dict[str, Any]) -> Row:
        """Seconds from queueing to the finished pictures; what the card holds after it."""
        began = time.perf_counter()
        made = self.server.run(workflow)
        seconds = time.perf_counter() - began
        if made.error:
            raise RuntimeError(made.error)
        pictures = [picture for several in made.images.values() for picture in several]
        memory = self.server.client_json("/system_stats")["devices"][0]
        return {
            "seconds": seconds,
            "pictures": len(pictures),
            "pictures_of_one_colour": sum(float(p.std()) < 1 for p in pictures),
            "bytes_used_after": memory["vram_total"] - memory["vram_free"],
            "bytes_of_torch_after": memory["torch_vram_total"] - memory["torch_vram_free"],
        }


def seeded(workflow: dict[str, Any], kind: str) -> dict[str, Any]:
    """The workflow with the next seed in its nodes of this kind."""
    changed = deepcopy(workflow)
    for node in changed.values():
        if node["class_type"] == kind:
            node["inputs"]["seed"] += 1
    return changed
