"""What a training takes: the table that docs show, the counted bytes behind it, and its set-up's progress."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from rechar_core.backend import single_file
from rechar_core.cli import memory, train
from rechar_core.cli.main import main
from rechar_core.training.fp8 import shrink
from rechar_core.training.memory import SDXL_FP8, SDXL_HALF, needed, table
from rechar_core.training.progress import watched

ROOT = Path(__file__).resolve().parents[1]
COUNTED = {"fast": 7.986e9, "normal": 5.981e9, "low": 3.345e9}  # bytes, by benchmarks/real_size.py


def test_the_table_of_the_docs_is_the_commands(capsys) -> None:
    """A failure means that the docs promise another mode than `auto` takes: print it anew with the command memory."""
    assert table(1024, 1, 64) in (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    assert main(["memory"]) == 0
    assert table(1024, 1, 64) in (said := capsys.readouterr().out)
    assert "This machine: " in said


@pytest.mark.parametrize("mode", COUNTED)
def test_each_mode_asks_for_what_was_counted_and_a_margin(mode) -> None:
    """A failure means that `auto` runs out of memory, or leaves a mode unused that would fit."""
    asked = needed(mode, SDXL_HALF, 128 * 128, 1, 64, 2)
    assert 1.05 < asked / COUNTED[mode] < 1.2


def test_the_sizes_of_the_unet_are_sdxls() -> None:
    with torch.device("meta"):
        unet = single_file.empty_models()["unet"][1].bfloat16()
    assert train.weights_size(unet) == SDXL_HALF
    shrink(unet)
    assert train.weights_size(unet) == SDXL_FP8


def test_settings_that_no_training_takes_are_one_sentence(capsys) -> None:
    assert main(["memory", "--rank", "0"]) == 1
    assert "rank is 0" in capsys.readouterr().err


def test_this_machine_is_described(monkeypatch) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda _: 14 * 2**30)
    monkeypatch.setattr(memory, "processes", lambda: type("", (), {"device": torch.device("cpu")}))
    said = memory.report(1024, 1, 64)
    assert "cpu, 14.0 GB of RAM free now" in said and "--mixed-precision no" in said
    assert "Memory mode normal: 14.0 GB of RAM" in said


# Set-up


def test_each_layer_is_told_and_what_is_raised_there_stops_the_pass() -> None:
    """A failure means that encoding a picture, a minute on a CPU, shows nothing or cannot be cancelled."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.SiLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    )
    seen: list[tuple[int, int]] = []
    with watched(model, lambda *now: seen.append(now)):
        model(torch.zeros(1, 3, 1, 1))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(done: int, total: int) -> None:
        seen.append((done, total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), watched(model, stop):
        model(torch.zeros(1, 3, 1, 1))
    assert seen[3:] == [(1, 3)]
    model(torch.zeros(1, 3, 1, 1))
    assert len(seen) == 4 and not any(part._forward_hooks for part in model.modules())


def test_set_up_shows_its_phases_and_a_cancelled_one_leaves_nothing(tmp_path, monkeypatch, capsys) -> None:
    phases = []
    shown = train.shown

    def seen(what, bar=True):
        phases.append(what)
        return shown(what, bar)

    monkeypatch.setattr(train, "shown", seen)
    picture, output = tiny.REFERENCE / "style.png", tmp_path / "a.safetensors"
    words = [
        "train",
        "--model",
        str(tiny.MODEL),
        "--image",
        str(picture),
        "--prompt",
        "A [v]",
        "--output",
        str(output),
    ]
    words += ["--rank", "4", "--steps", "1", "--resolution", "64"]
    assert main(words) == 0
    assert phases == ["Encoding the prompt", "Encoding picture 1 of 1"]
    output.unlink()

    def cancelled(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "encode_picture", cancelled)
    assert main(words) == 130
    assert capsys.readouterr().err.endswith("Interrupted.\n")
    assert not list(tmp_path.iterdir())
