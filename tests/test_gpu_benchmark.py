"""The GPU benchmark on the simulated card, at a small size: that it works, not what it measures."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import preloaded
import pytest
import server

from benchmarks import gpu
from benchmarks.on_card.table import markdown

ROOT = Path(__file__).parents[1]
LAUNCHER = Path(__file__).parent / "accelerator" / "launch.py"
SIM = ("--device", "sim", "--size", "small")
SIM_IMPORT = ("--import", "accelerator.backend")


def start(out: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    there = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "benchmarks.gpu", "--out", str(out), *SIM, *SIM_IMPORT, *options]
    streams: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    # a test run in the background ignores Ctrl-C, and its children would inherit that
    restored = None if os.name == "nt" else lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(command, cwd=ROOT, env=there, preexec_fn=restored, **streams)


def run(out: Path, *options: str, **environment: str) -> tuple[dict[str, Any], str]:
    """What it wrote, and what it printed; its sections are forks, which need not import torch."""
    command, forked = gpu.child_command, preloaded.python(sys.executable, preloaded.SDXL)
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        for name, value in ({"PYTHONPATH": str(Path(__file__).parent)} | environment).items():
            patch.setenv(name, value)
        patch.setattr(gpu, "child_command", lambda *given: [*forked, *command(*given)[1:], *SIM_IMPORT])
        assert gpu.main(["--out", str(out), *SIM, *options]) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    for name, section in found["sections"].items():
        assert "stopped" not in section, (name, section)
        broken = [row for row in section.get("rows", {}).values() if "error" in row]
        assert not broken, (name, broken)
    return found, printed.getvalue()


def rows(found: dict[str, Any], section: str) -> dict[str, Any]:
    return found["sections"][section]["rows"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """All sections, where there is neither a ComfyUI nor a checkpoint."""
    out = tmp_path_factory.mktemp("gpu") / "card.json"
    return run(out, "--minutes", "40", COMFYUI_PATH=str(out.parent / "none"))


def test_every_contestant_is_measured(whole: tuple[dict[str, Any], str]):
    """A failure means that a run on a real card would lack this figure."""
    found = rows(whole[0], "training")
    least = found["least arithmetic"]["flop"]
    for name in ("ours, fast", "ours, normal", "ours, low", "published"):
        row = found[name]
        assert row["seconds_a_step"] > 0 and row["losses_finite"] and row["peak_bytes"] > 0, row
        assert row["seconds_1000_steps"] >= 999 * row["seconds_a_step"]
        assert row["seconds_a_step_cuda_graphs"] is None
    rate = least / found["ours, fast"]["seconds_a_step"] / found["ours, fast"]["of_matmul_rate"]
    assert rate == pytest.approx(
        least / found["published"]["seconds_a_step"] / found["published"]["of_matmul_rate"]
    )


def test_low_holds_less_of_the_model_than_fast(whole: tuple[dict[str, Any], str]):
    """The peaks are of the card's memory: mode low never has the whole UNet there."""
    found = rows(whole[0], "training")
    assert found["ours, low"]["peak_bytes_of_steps"] < found["ours, fast"]["peak_bytes_of_steps"]


def test_pictures_count_both_trainings(whole: tuple[dict[str, Any], str]):
    row = rows(whole[0], "pictures")["whole, recipe quick"]
    parts = ("training_glyph_seconds", "training_style_seconds", "drawing_seconds")
    assert row["training_steps"] == 2 and row["seconds"] == pytest.approx(sum(row[name] for name in parts))
    fused = rows(whole[0], "pictures")["fused LoRA"]
    assert fused["ratio"] == pytest.approx(fused["with_seconds"] / fused["without_seconds"])


def test_what_is_not_run_says_why(whole: tuple[dict[str, Any], str]):
    found, printed = whole
    assert "no ComfyUI in" in rows(found, "host")["ComfyUI"]["skipped"] and "no ComfyUI in" in printed
    assert "--checkpoint" in found["sections"]["quality"]["skipped"] and "--checkpoint" in printed
    assert printed.strip() == markdown(found).strip()


def test_a_broken_run_leaves_what_it_had(tmp_path: Path):
    """Killed in its second section: the file is whole, and holds the first."""
    out = tmp_path / "card.json"
    with start(out, "--only", "card", "training") as process:
        end = time.monotonic() + 300
        while time.monotonic() < end and process.poll() is None:
            if out.is_file() and "seconds" in json.loads(out.read_text(encoding="utf-8"))["sections"].get(
                "card", {}
            ):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.communicate()
    found = json.loads(out.read_text(encoding="utf-8"))
    assert rows(found, "card")["copy"]["bytes_s"] > 0 and "seconds" not in found["about"]


def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, minutes: float = 1) -> dict[str, Any]:
    """A run whose sections are the Python program `child`."""
    monkeypatch.setattr(gpu, "child_command", lambda *_: [sys.executable, "-c", child])
    monkeypatch.setattr(gpu, "_GRACE", 0.5)
    out = tmp_path / "card.json"
    assert gpu.main(["--out", str(out), "--minutes", str(minutes), "--only", "card", "training"]) == 0
    return json.loads(out.read_text(encoding="utf-8"))["sections"]


def test_a_section_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It keeps its rows, even where it does not listen to being told to end; what no time is left for says so."""
    monkeypatch.setattr(gpu, "SECTIONS", {"card": 0.05, "training": 1.0})
    monkeypatch.setattr(gpu, "_LEAST", 0.0)
    hangs = """import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(chr(30) + '["model", {"name": "X"}]', flush=True)
time.sleep(60)"""
    began = time.monotonic()
    found = fake(tmp_path, monkeypatch, hangs, minutes=0.2)
    assert time.monotonic() - began < 30
    assert found["card"]["rows"] == {"model": {"name": "X"}} and "were over" in found["card"]["stopped"]


def test_a_section_that_crashes_costs_itself_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = fake(tmp_path, monkeypatch, "import os; os._exit(134)")
    assert "status 134" in found["card"]["stopped"] and "status 134" in found["training"]["stopped"]


def test_no_section_begins_when_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = fake(tmp_path, monkeypatch, "", minutes=0.1)
    assert all("were left" in section["skipped"] for section in found.values())


def test_running_out_of_memory_is_a_row():
    import torch

    from benchmarks.on_card.task import SIZES, Task

    sent: dict[str, Any] = {}
    task = Task(torch.device("cpu"), SIZES["small"], None, time.time() + 60, sent.__setitem__, {})

    def fails(error: Exception) -> Any:
        raise error

    task.measure("full", 0, lambda: fails(torch.OutOfMemoryError("CUDA out of memory. Tried\nmore")))
    task.measure("wrong", 0, lambda: fails(ValueError("odd")))
    task.measure("late", 100, lambda: {"seconds": 1})
    task.measure("well", 0, lambda: {"seconds": 1})
    assert sent["full"] == {"out_of_memory": "OutOfMemoryError: CUDA out of memory. Tried"}
    assert sent["wrong"] == {"error": "ValueError: odd"} and "were left" in sent["late"]["skipped"]
    assert sent["well"] == {"seconds": 1}


@pytest.mark.host
def test_comfyui_on_the_simulated_card_trains_and_draws_the_demo(tmp_path: Path):
    """With dynamic VRAM, as on an NVIDIA card."""
    server.find_host()
    launcher = f"--host-launcher={LAUNCHER} dynamic 0"
    found, _ = run(tmp_path / "card.json", "--only", "host", launcher, "--minutes", "40")
    about, *runs = rows(found, "host").values()
    assert about["dynamic_vram"] and len(runs) == 3
    assert all(row["pictures"] == 1 and not row["pictures_of_one_colour"] for row in runs), runs
