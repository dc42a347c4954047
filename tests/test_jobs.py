"""`train --jobs`: a list of trainings shared between processes; nothing is trained twice, nothing is lost."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file
from two_processes import run_both

from rechar_core.cli import jobs as work
from rechar_core.cli import train
from rechar_core.cli.main import main
from rechar_core.cli.train import TrainJob
from rechar_core.lora import files

ROOT = Path(__file__).parents[1]
PICTURE = tiny.REFERENCE / "structure.png"
SMALL = ["--rank", "4", "--steps", "3", "--resolution", "64", "--learning-rate", "1e-2"]


def listed(folder: Path, *lines: dict) -> Path:
    """A jobs file; lines get a picture, a prompt and an output by their place, where they have none."""
    path = folder / "jobs.jsonl"
    defaults = [
        {"image": str(PICTURE), "prompt": "A [v]", "output": str(folder / f"{i}.safetensors")}
        for i in range(len(lines))
    ]
    texts = [json.dumps(default | line) for default, line in zip(defaults, lines, strict=True)]
    path.write_text("\n".join(texts) + "\n\n", encoding="utf-8")
    return path


def arguments(path: Path) -> list[str]:
    return ["train", "--model", str(tiny.MODEL), "--jobs", str(path), *SMALL]


def run(path: Path) -> int:
    return main(arguments(path))


def test_every_line_is_its_own_training(tmp_path, capsys):
    """A failure means that a job of a list is not the training its own command would have been."""
    path = listed(
        tmp_path,
        {"output": str(tmp_path / "0")},
        {"seed": 5},
        {"target": "style", "learning-rate": 1e-3, "mixed_precision": "no"},
    )
    assert run(path) == 0
    printed = capsys.readouterr()
    outputs = [tmp_path / f"{i}.safetensors" for i in range(3)]
    assert printed.out.split() == [str(o) for o in outputs]
    assert "[3 of 3 jobs done]" in printed.err
    assert sorted(p.name for p in tmp_path.iterdir()) == [*(o.name for o in outputs), "jobs.jsonl"]
    assert [files.read(o).recipe["seed"] for o in outputs] == [0, 5, 0]
    assert [b.name for b in files.read(outputs[2]).blocks] == ["style"]
    alone = tmp_path / "alone.safetensors"
    command = ["train", "--model", str(tiny.MODEL), "--image", str(PICTURE), "--prompt", "A [v]"]
    assert main([*command, "--output", str(alone), "--seed", "5", *SMALL]) == 0
    ours, theirs = load_file(outputs[1]), load_file(alone)
    assert all((ours[k] == theirs[k]).all() for k in theirs)


def test_what_is_done_is_not_trained_again(tmp_path, monkeypatch):
    path = listed(tmp_path, {}, {"seed": 1})
    assert run(path) == 0
    monkeypatch.setattr(work, "train_on", lambda *_: pytest.fail("trained again"))
    assert run(path) == 0
    (tmp_path / "1.safetensors").unlink()
    trained = []
    monkeypatch.setattr(
        work, "train_on", lambda _, jobs, *__: [trained.append(j.output) or j.output.touch() for j in jobs]
    )
    assert run(path) == 0
    assert trained == [tmp_path / "1.safetensors"]


@pytest.mark.parametrize(("named", "again"), [("auto", 0), ("no", 1)])
def test_machines_of_other_precisions_share_a_list(tmp_path, monkeypatch, capsys, named, again):
    """A failure means that a list stops at what another kind of card trained, or passes over what was asked for."""
    assert run(listed(tmp_path, {"mixed_precision": "bf16"})) == 0
    monkeypatch.setattr(work, "train_on", lambda *_: pytest.fail("trained again"))
    assert run(listed(tmp_path, {"mixed_precision": named})) == again
    assert ("another precision" in capsys.readouterr().err) == bool(again)


def test_a_failed_job_stops_no_other_is_named_and_is_tried_again(tmp_path, capsys):
    """A failure means that one bad picture costs a night's work."""
    path = listed(tmp_path, {"image": str(tmp_path / "gone.png")}, {})
    assert run(path) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: 1 of 2 jobs failed") and "gone.png" in error and "0.safetensors" in error
    assert (tmp_path / "1.safetensors").is_file() and not (tmp_path / "0.safetensors").exists()
    assert run(listed(tmp_path, {}, {})) == 0  # the picture is there now
    assert not list(tmp_path.glob("*.failed")) and not list(tmp_path.glob("*.claim"))


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"colour": 1}], "line 1: The recipe has unknown settings: colour"),
        ([{}, {"rank": 0}], "line 2: rank is 0"),
        ([{"recipe": "fancy"}], "choose one of b-lora"),
        (
            [{"mixed_precision": "fp8"}],
            "line 1: mixed_precision is 'fp8'; choose one of auto, no, fp16, bf16",
        ),
        ([{"recipe": ["quick"]}], "line 1: recipe is ['quick']; choose one of b-lora"),
        ([{"learning_rate": "fast"}], "line 1: learning_rate is 'fast'; it must be a number above 0."),
        ([{"learning_rate": True}], "line 1: learning_rate is True; it must be a number above 0."),
        ([{"noise_offset": None}], "line 1: noise_offset is None; it must be a number, 0 or more."),
        ([{"prompt": 5}], "line 1: prompt is 5; it must be text in quotes"),
        ([{"steps": "100", "recipe": "consislora"}], "line 1: steps is '100'; it must be a whole number"),
        ([{"betas": 0.9}], "line 1: betas are 0.9; they must be two numbers"),
        ([{"betas": [0.9, "x"]}], "line 1: betas are (0.9, 'x'); each must lie in 0..1"),
        ([{"fp8_base": "no"}], "line 1: fp8_base is 'no'; it must be true or false."),
        ([{"image": 5}], "line 1: image is 5; it must be a name in quotes."),
        ([{"model": None}], "line 1: model is None; it must be a name in quotes."),
        ([{"fresh": 1}], "line 1: fresh is 1; it must be true or false."),
        ([{"mixed_precision": "maybe"}], "line 1: mixed_precision is 'maybe'; choose one of"),
        ([{"output": "a"}, {"output": "a"}], "several jobs write"),
        ([{"log_json": "a.json"}, {"log_json": "a.json"}], "several jobs write"),
        ([{}, {"fp8_base": True, "frozen": "a"}], "line 2: A B-LoRA cannot be put into a base in fp8"),
    ],
)
def test_a_bad_list_is_refused_before_anything_is_trained(tmp_path, capsys, lines, words):
    assert run(listed(tmp_path, *lines)) == 1
    assert words in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["jobs.jsonl"]


def test_lines_that_are_no_objects_and_missing_files_are_named(tmp_path, capsys):
    path = tmp_path / "jobs.jsonl"
    for content, words in (("[1]", "not an object"), ("{", "line 1"), ("", "there is no job in it")):
        path.write_text(content, encoding="utf-8")
        assert run(path) == 1
        assert words in capsys.readouterr().err
    assert run(tmp_path / "gone.jsonl") == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main(["train", "--model", "demo", "--image", "a.png"]) == 1
    assert "train needs --prompt, --output as well" in capsys.readouterr().err


def test_an_output_of_another_recipe_is_not_taken_for_done(tmp_path, capsys):
    assert run(listed(tmp_path, {})) == 0
    assert run(listed(tmp_path, {"seed": 9})) == 1
    assert "already holds a training with another seed" in capsys.readouterr().err


def test_an_output_of_another_picture_or_model_is_not_taken_for_done(tmp_path, capsys):
    """A failure means that a picture which was drawn anew keeps its old LoRA, without a word."""
    picture, other = tmp_path / "a.png", tmp_path / "another-model"
    picture.write_bytes(PICTURE.read_bytes())
    path = listed(tmp_path, {"image": str(picture)})
    assert run(path) == 0 and run(path) == 0
    picture.write_bytes((tiny.REFERENCE / "style.png").read_bytes())
    assert run(path) == 1
    assert "already holds a training with another picture; choose another output" in capsys.readouterr().err
    picture.unlink()  # not needed any more
    assert run(path) == 0
    assert run(listed(tmp_path, {"image": str(PICTURE), "model": str(other)})) == 1
    assert "a training with another model;" in capsys.readouterr().err
    picture.write_bytes(PICTURE.read_bytes())
    (tmp_path / "frozen.safetensors").write_bytes(b"x")
    assert run(listed(tmp_path, {"frozen": str(tmp_path / "frozen.safetensors")})) == 1
    assert "a training with another frozen B-LoRA;" in capsys.readouterr().err


def test_each_jobs_peak_memory_is_its_own():
    """A failure means that a small job's log says what a large one before it took."""
    if sys.platform != "linux":
        pytest.skip("peaks are reset on Linux alone")
    cpu = torch.device("cpu")
    large = torch.ones(100_000_000)
    before = train.peak_memory(cpu)
    del large
    train.forget_peak(cpu)
    assert train.peak_memory(cpu) < before - 300_000_000


def test_the_demo_models_own_settings_are_told_once(tmp_path, monkeypatch, capsys):
    """They hold for each line of a list on its own."""
    path = listed(tmp_path, {}, {"steps": 7}, {}, {"model": str(tiny.MODEL)})
    recipes = []
    monkeypatch.setattr(work, "train_all", lambda jobs, report: recipes.extend(j.recipe for j in jobs) or [])
    assert main(["train", "--model", "demo", "--jobs", str(path)]) == 0
    assert [(r.steps, r.resolution) for r in recipes] == [(150, 256), (7, 256), (150, 256), (1000, 1024)]
    assert capsys.readouterr().err.count("The demo model's own settings") == 2


def test_what_a_job_says_of_its_memory_is_reported_by_its_own_process(tmp_path, monkeypatch, capsys):
    """A failure means that of several processes the first one alone says which memory mode it is in."""
    monkeypatch.setattr(train, "say", lambda text: pytest.fail("said by the first process only"))
    whole = train.TrainingRun

    def small(*given, tell, **settings):
        tell("Memory ran out at step 1.")
        return whole(*given, tell=tell, **settings)

    monkeypatch.setattr(train, "TrainingRun", small)
    assert run(listed(tmp_path, {})) == 0
    assert "0.safetensors: Memory ran out at step 1." in capsys.readouterr().err


def worker(folder: Path) -> tuple[work._Worker, TrainJob, Path]:
    from rechar_core.training.recipe import TrainingRecipe

    job = TrainJob("demo", PICTURE, folder / "a.safetensors", TrainingRecipe())
    return work._Worker([job], lambda text: None, None), job, folder / "a.safetensors.claim"


def test_a_claim_keeps_others_away_until_its_owner_is_gone(tmp_path):
    """A failure means that two processes train one job, or that a crash blocks it for ever."""
    first, job, claim = worker(tmp_path)
    second, _, _ = worker(tmp_path)
    assert first._claim(job) and not second._claim(job)
    first.release()
    assert second._claim(job)
    second.release()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    claim.write_text(f"{socket.gethostname()} {gone.pid}", encoding="utf-8")
    assert first._claim(job) and not second._claim(job)
    first.release()
    claim.write_text("another-machine 1", encoding="utf-8")
    assert not first._claim(job)
    os.utime(claim, (time.time() - 3600,) * 2)
    assert first._claim(job)


def test_a_claim_that_was_renewed_meanwhile_is_put_back(tmp_path):
    """A failure means that of three processes two hold the same job: one renames the other's living claim away."""
    first, job, claim = worker(tmp_path)
    second, _, _ = worker(tmp_path)
    claim.write_text("another-machine 1", encoding="utf-8")
    assert first._claim(job) is False
    os.utime(claim, (time.time() - 3600,) * 2)
    dead = work._dead(claim)
    assert first._claim(job)  # between the second one's look and its rename
    work._take_away(claim, dead)
    assert not second._claim(job)
    assert [path.name for path in tmp_path.iterdir()] == [claim.name]
    first.release()
    assert second._claim(job)
    first.held = claim
    first.release()  # not its own any more
    assert not first._claim(job)


def test_a_silent_claim_is_void_though_its_number_lives(tmp_path):
    """A failure means an endless wait where a living process has got a dead one's number."""
    first, job, claim = worker(tmp_path)
    claim.write_text(f"{socket.gethostname()} {os.getpid()}", encoding="utf-8")
    assert not first._claim(job)
    os.utime(claim, (time.time() - 3600,) * 2)
    assert first._claim(job)


def test_two_processes_share_a_list(tmp_path):
    """A failure means that `accelerate launch` trains jobs twice, or leaves some to nobody."""
    path = listed(tmp_path, *({"seed": i, "steps": 20} for i in range(4)))
    said = run_both(tmp_path / "said.txt", "rechar_core", *arguments(path))
    assert sorted(p.name for p in tmp_path.glob("*.safetensors*")) == [f"{i}.safetensors" for i in range(4)]
    for i in range(4):
        assert said.count(f"{i}.safetensors begins") == 1
        assert said.count(f"{i}.safetensors is done") == 1
    assert "[4 of 4 jobs done]" in said
