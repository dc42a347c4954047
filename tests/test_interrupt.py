"""Ctrl-C in the middle of a training step, for one LoRA and for several: whole steps are kept, or nothing new."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file

from rechar_core.cli.interrupt import StoppedBetweenSteps, held_back
from rechar_core.cli.main import main

PICTURE = tiny.REFERENCE / "structure.png"
COMMAND = ["train", "--model", str(tiny.MODEL), "--image", str(PICTURE), "--prompt", "A [v]"]
SMALL = ["--rank", "4", "--steps", "5", "--resolution", "64", "--learning-rate", "1e-2"]


@pytest.fixture(autouse=True)
def signals():
    """Ctrl-C as in a terminal: a test run in the background ignores it, and the command line handles SIGTERM."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(folder: Path, *more: str) -> int:
    return main([*COMMAND, "--output", str(folder / "a.safetensors"), *SMALL, *more])


def interrupted(monkeypatch, update: int, number: int = signal.SIGINT, times: int = 1) -> None:
    """Sends the signal when the parameters are changed for the `update`th time, and the step is not counted yet."""
    whole, calls = torch.optim.AdamW.step, []

    def step(optimizer, *args, **kwargs):
        whole(optimizer, *args, **kwargs)
        calls.append(1)
        for _ in range(times if len(calls) == update else 0):
            signal.raise_signal(number)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("straight")
    assert run(folder) == 0 and run(folder, "--seeds", "0,7") == 0
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seeds", [[], ["--seeds", "0,7"]])
def test_ctrl_c_in_the_middle_of_a_step_goes_on_bit_equal(
    straight, tmp_path, monkeypatch, capsys, seeds, number
):
    """A failure means that a half step is saved, and the resumed training is another one."""
    with monkeypatch.context() as patch:
        interrupted(patch, update=3, number=number)  # with two seeds: the first one's second step
        assert run(tmp_path, *seeds) == 130
    done = 2 if seeds else 3
    (said,) = re.findall(
        r"Stopped at step (\d) of 5; the same .* from there \((.*)\)", capsys.readouterr().err
    )
    states = list(tmp_path.glob("*.state"))
    assert said == (str(done), str(tmp_path if seeds else states[0]))
    assert signal.getsignal(number) is signal.default_int_handler
    assert run(tmp_path, *seeds) == 0
    assert f"Going on from step {done} of 5" in capsys.readouterr().err
    for file in tmp_path.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(straight / file.name)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert not list(tmp_path.glob("*.state"))


@pytest.mark.parametrize("seeds", [[], ["--seeds", "0,7"]])
def test_a_second_ctrl_c_stops_at_once_and_keeps_no_half_step(tmp_path, monkeypatch, capsys, seeds):
    interrupted(monkeypatch, update=3, times=2)
    assert run(tmp_path, *seeds) == 130
    assert capsys.readouterr().err.strip().endswith("Interrupted.")
    assert not list(tmp_path.iterdir())


def test_signals_of_others_and_other_threads_are_left_alone():
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append("theirs"))
    with held_back() as between_steps:
        signal.raise_signal(signal.SIGINT)
        between_steps()
    assert seen == ["theirs"]

    def elsewhere():
        with held_back() as look:
            look()
        seen.append("thread")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == ["theirs", "thread"]


def test_ctrl_c_behind_the_last_step_is_not_lost():
    with pytest.raises(StoppedBetweenSteps), held_back():
        signal.raise_signal(signal.SIGINT)
