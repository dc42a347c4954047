"""Several LoRAs of one picture side by side: each what it is alone, the prefix computed once."""

from __future__ import annotations

import pytest
import tiny
import torch

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.errors import ReCharError, RecipeError, TrainingError
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


def side_by_side(pipe, changes, mode="fast", fails=(), told=None) -> TrainingRun:
    denoiser = Counting(pipe.unet, pipe.scheduler.config)
    denoiser.fails = fails
    first = tiny.training(pipe, {"steps": 6, **changes[0]}, denoiser=denoiser)
    shared = denoiser, first.pictures, first.conditioning
    trainings = [Training(*shared, tiny.recipe(**{"steps": 6, **c})) for c in changes]
    return TrainingRun(trainings, mode, (told if told is not None else []).append)


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
    told: list[str] = []
    run = side_by_side(pipe, CHANGES[:2], fails=(("fast", 4),), told=told)
    assert len(list(run.steps())) == 6
    assert told == ["Memory ran out at step 2: going on in memory mode normal instead of fast."]
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
    states, told = [tmp_path / "0.state", tmp_path / "1.state"], []
    states[0].write_bytes(b"cut")
    with pytest.raises(ReCharError):
        side_by_side(pipe, CHANGES[:2]).resume(states)
    run = side_by_side(pipe, CHANGES[:2], told=told)
    run.resume(states, set_aside=True)
    assert (tmp_path / "0.unusable").read_bytes() == b"cut" and "starts anew" in told[0]
    run.train(lambda bloras: None)
    assert run.trainings[0].loss_values() == pytest.approx(alone[0].loss_values(), abs=1e-6)
    assert not any(state.exists() for state in states)
