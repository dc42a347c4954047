"""Several LoRAs of one picture side by side: each what it is alone, the prefix computed once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import tiny
import torch

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.errors import FileError, ReCharError, RecipeError, TrainingError
from rechar_core.training import checkpoint
from rechar_core.training import run as training_run
from rechar_core.training.loop import Training
from rechar_core.training.run import TrainingRun

CHANGES = (
    {"seed": 3, "noise_seed": 3},
    {"seed": 4, "noise_seed": 3},
    {"seed": 3, "noise_seed": 3, "rank": 2},
    {"seed": 5, "noise_seed": 3, "target": "structure"},
    {"seed": 5, "noise_seed": 3, "target": "style", "learning_rate": 2e-3},
)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


class Counting(DiffusersDenoiser):
    """Counts samples that go through the prefix, and runs out of memory in `fails`, a list of (mode, call)."""

    samples, calls, mode = 0, 0, None
    fails: tuple[tuple[str, int], ...] = ()

    def use(self, mode):
        self.mode, self.calls = mode, 0
        super().use(mode)

    def prefix(self, noisy, timesteps, conditioning):
        self.samples += len(noisy)
        return super().prefix(noisy, timesteps, conditioning)

    def suffix(self, prefix, conditioning):
        self.calls += 1
        if (self.mode, self.calls) in self.fails:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().suffix(prefix, conditioning)


def side_by_side(pipe, changes, mode="fast", fails=(), messages=None) -> TrainingRun:
    denoiser = Counting(pipe.unet, pipe.scheduler.config)
    denoiser.fails = fails
    first = tiny.training(pipe, {"steps": 6, **changes[0]}, denoiser=denoiser)
    shared = denoiser, first.pictures, first.conditioning
    trainings = [Training(*shared, tiny.recipe(**{"steps": 6, **c})) for c in changes]
    return TrainingRun(trainings, mode, (messages if messages is not None else []).append)


def deltas(training) -> torch.Tensor:
    pairs = training.blora().pairs
    return torch.cat([pairs[path].delta().flatten() for path in sorted(pairs)])


@pytest.fixture(scope="module")
def alone(pipe):
    return [tiny.finish(tiny.training(pipe, {"steps": 6, **c})) for c in CHANGES]


@pytest.mark.parametrize("mode", ["fast", "normal", "low"])
def test_each_is_what_it_is_alone(pipe, alone, mode):
    """A failure means that one LoRA acts while another is trained, or that they see other noises."""
    run = side_by_side(pipe, CHANGES, mode)
    assert [step.number for step in run.steps()] == list(range(1, 7))
    assert run.trainings[0].denoiser.samples == 6
    for together, single in zip(run.trainings, alone, strict=True):
        assert together.loss_values() == pytest.approx(single.loss_values(), abs=1e-6)
        assert (deltas(together) - deltas(single)).norm() / deltas(single).norm() < 1e-4
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in pipe.unet.modules())


def test_the_noise_seed_is_of_the_noises_alone(pipe):
    """A failure means that a LoRA of a run cannot be trained again alone, or that all seeds give the same one."""
    own, borrowed, other = (
        tiny.training(pipe, c) for c in ({"seed": 3}, {"seed": 4, "noise_seed": 3}, {"seed": 4})
    )
    noises = [run.noise_source.step(0, (1, 4, 8, 8), 1000).noise for run in (own, borrowed, other)]
    assert torch.equal(noises[0], noises[1]) and not torch.equal(noises[0], noises[2])
    downs = [run.lora_layers.parameters()[0] for run in (own, borrowed, other)]
    assert torch.equal(downs[1], downs[2]) and not torch.equal(downs[0], downs[1])


def test_running_out_of_memory_takes_all_down_one_rung(pipe, alone):
    messages: list[str] = []
    run = side_by_side(pipe, CHANGES[:2], fails=(("fast", 4),), messages=messages)
    assert len(list(run.steps())) == 6
    assert messages == ["Memory ran out at step 2: going on in memory mode normal instead of fast."]
    assert run.mode == "normal"
    for together, single in zip(run.trainings, alone[:2], strict=True):
        assert (deltas(together) - deltas(single)).norm() / deltas(single).norm() < 1e-4
    with pytest.raises(TrainingError, match="memory mode low"):
        list(side_by_side(pipe, CHANGES[:2], mode="low", fails=(("low", 1),)).steps())


@pytest.mark.parametrize(
    ("changes", "words"), [({"seed": 4}, "noise_seed"), ({"seed": 4, "noise_seed": 3, "steps": 9}, "steps")]
)
def test_what_they_share_must_be_the_same(pipe, changes, words):
    with pytest.raises(RecipeError, match=f"same {words}"):
        side_by_side(pipe, ({"seed": 3}, changes))


def test_a_state_that_cannot_be_used_is_set_aside(pipe, alone, tmp_path):
    """A failure means that a damaged file ends this job in ComfyUI for ever, where nobody can pass --fresh."""
    states, messages = [tmp_path / "0.state", tmp_path / "1.state"], []
    states[0].write_bytes(b"cut")
    with pytest.raises(ReCharError):
        side_by_side(pipe, CHANGES[:2]).resume(states)
    run = side_by_side(pipe, CHANGES[:2], messages=messages)
    run.resume(states, set_aside=True)
    assert (tmp_path / "0.unusable").read_bytes() == b"cut" and "starts anew" in messages[0]
    run.train(lambda bloras: None)
    assert run.trainings[0].loss_values() == pytest.approx(alone[0].loss_values(), abs=1e-6)
    assert not any(state.exists() for state in states)


@pytest.fixture
def spares(tmp_path, monkeypatch):
    """In place of the system's folder for temporary files."""
    monkeypatch.setattr(checkpoint, "_spares", lambda: tmp_path / "spares")
    return tmp_path / "spares"


def no_folder(tmp_path) -> list[Path]:
    """States in a folder that cannot be made: there is a file of its name."""
    (tmp_path / "gone").write_bytes(b"")
    return [tmp_path / "gone" / "0.state", tmp_path / "gone" / "1.state"]


def fails(bloras) -> None:
    raise FileError("'x.safetensors' cannot be written: No space left on device.")


def test_a_result_that_cannot_be_written_costs_no_step(pipe, alone, tmp_path, spares):
    """A failure means hours lost to a full disk: the states have no room beside the result either."""
    states, messages = no_folder(tmp_path), []
    run = side_by_side(pipe, CHANGES[:2], messages=messages)
    run.resume(states)
    with pytest.raises(FileError, match=r"No space left on device. What was trained is kept in '.*spares.*'"):
        run.train(fails)
    assert len(messages) == 2 and len(list(spares.iterdir())) == 2
    again = side_by_side(pipe, CHANGES[:2])
    again.resume(states)
    assert again.done == 6
    written = []
    again.train(written.extend)
    for together, single in zip(again.trainings, alone[:2], strict=True):
        assert together.loss_values() == pytest.approx(single.loss_values(), abs=1e-6)
    assert len(written) == 2 and not list(spares.iterdir())


def test_the_later_state_is_gone_on_from_and_both_are_forgotten(pipe, tmp_path, spares):
    """A failure means that a safety copy from before the disk was full wins over all that came after it."""
    states = [tmp_path / "0.state", tmp_path / "1.state"]
    run = side_by_side(pipe, CHANGES[:2])
    run.resume(states)
    for step in run.steps():
        if step.number == 2:
            assert run.save() == states
        if step.number == 4:
            run.states = tuple(checkpoint.spare(training) for training in run.trainings)
            assert [path.parent for path in run.save()] == [spares, spares]
    for state in states:
        os.utime(state, (1, 1))
    again = side_by_side(pipe, CHANGES[:2])
    again.resume(states)
    assert again.done == 4
    again.forget(states)
    assert not list(spares.iterdir()) and not any(state.exists() for state in states)


def test_a_safety_copy_that_cannot_be_written_ends_nothing(pipe, tmp_path, spares, monkeypatch):
    """A full disk at step 250 of 1,000: the result may well have room, or go to another disk."""
    monkeypatch.setattr(training_run, "_SAVE_EVERY", 2)
    spares.write_bytes(b"")
    messages, written = [], []
    run = side_by_side(pipe, CHANGES[:1], messages=messages)
    run.resume(no_folder(tmp_path)[:1])
    run.train(written.extend)
    assert run.done == 6 and len(written) == 1
    assert len(messages) == 2 and "kept nowhere" in messages[0]
