"""`train --seeds` and `--fp8-base` on the small reference model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image
from torch import nn

from rechar_core.cli import seeds, train
from rechar_core.cli.main import main
from rechar_core.errors import FileError
from rechar_core.lora import files
from rechar_core.training.fp8 import Fp8Linear, shrink

PICTURE = tiny.REFERENCE / "structure.png"
COMMAND = ["train", "--model", str(tiny.MODEL), "--image", str(PICTURE), "--prompt", "A [v]"]
SMALL = ["--rank", "4", "--steps", "4", "--resolution", "64", "--learning-rate", "1e-2"]


def run(output: Path, *more: str) -> int:
    return main([*COMMAND, "--output", str(output), *SMALL, *more])


def deltas(path: Path) -> torch.Tensor:
    pairs = files.read(path).pairs
    return torch.cat([pairs[name].delta().flatten() for name in sorted(pairs)])


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> Path:
    """The folder of a run with three seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    assert run(folder / "a.safetensors", "--seeds", "0,7,8") == 0
    return folder


def test_each_seed_is_what_it_is_alone(three: Path, tmp_path: Path):
    names = {f"a_seed{n}.safetensors" for n in (0, 7, 8)} | {"a_seeds.png"}
    assert {path.name for path in three.iterdir()} == names
    assert run(tmp_path / "b.safetensors", "--seed", "7", "--noise-seed", "0") == 0
    alone, together = deltas(tmp_path / "b.safetensors"), deltas(three / "a_seed7.safetensors")
    assert (alone - together).norm() / alone.norm() < 1e-4
    assert (alone - deltas(three / "a_seed8.safetensors")).norm() / alone.norm() > 0.1
    recipe = files.read(three / "a_seed7.safetensors").recipe
    assert (recipe["seed"], recipe["noise_seed"]) == (7, 0)


def test_the_sheet_shows_a_picture_of_each(three: Path):
    page = Image.open(three / "a_seeds.png").convert("RGB")
    assert page.width > 3 * 256
    cells = [page.crop((12 + i * 268, 44, 268 + i * 268, 300)) for i in range(3)]
    assert len({cell.tobytes() for cell in cells}) == 3


def test_the_memory_of_all_seeds_is_asked_for(tmp_path: Path, monkeypatch):
    """A failure means that `auto` takes a mode which has room for one LoRA's moments alone."""
    asked = []
    monkeypatch.setattr(train, "choose_mode", lambda *given: asked.append(given) or ("fast", ""))
    assert run(tmp_path / "a.safetensors", "--seeds", "0,7,8", "--steps", "1") == 0
    assert run(tmp_path / "a.safetensors", "--steps", "1") == 0
    assert [rank for _, _, _, _, rank, *_ in asked] == [12, 4]


def test_a_sheet_that_cannot_be_drawn_costs_no_training(tmp_path: Path, monkeypatch, capsys):
    """A failure means that hours of training are lost where drawing runs out of memory."""

    def draw(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(seeds, "_draw", draw)
    assert run(tmp_path / "a.safetensors", "--seeds", "0,7") == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: The memory does not suffice")
    assert {path.name for path in tmp_path.iterdir()} == {"a_seed0.safetensors", "a_seed7.safetensors"}


@pytest.mark.parametrize("seeds_of", [[], ["--seeds", "0,7"]])
def test_a_file_that_cannot_be_written_costs_no_training(tmp_path: Path, monkeypatch, capsys, seeds_of):
    """A failure means that a full disk or a locked file at the end loses all steps."""
    whole, updates = torch.optim.AdamW.step, []

    def refuse(blora, path, **_):
        raise FileError(f"'{path}' cannot be written: No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(train.files, "write", refuse)
        assert run(tmp_path / "a.safetensors", *seeds_of) == 1
    assert "No space left" in capsys.readouterr().err
    assert {path.suffix for path in tmp_path.iterdir()} == {".state"}
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *a, **k: updates.append(1) or whole(*a, **k))
    assert run(tmp_path / "a.safetensors", *seeds_of) == 0
    assert not updates and not list(tmp_path.glob("*.state")) and list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("given", "words"), [("1,x", "such as 0,1,2,3"), ("1,1", "different"), ("-1", "seed is -1")]
)
def test_bad_seeds_are_one_sentence(tmp_path: Path, capsys, given: str, words: str):
    assert run(tmp_path / "a.safetensors", f"--seeds={given}") == 1
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# A base in 8 bits


def test_a_shrunk_layer_is_its_rounded_self_with_the_right_gradient():
    torch.manual_seed(0)
    layer, x = nn.Linear(32, 24).requires_grad_(False), torch.randn(5, 32, requires_grad=True)
    model = nn.Sequential(layer)
    shrink(model)
    small = model[0]
    assert isinstance(small, Fp8Linear) and small.weight.nbytes == layer.weight.nbytes // 4
    assert (small.whole() - layer.weight).norm() / layer.weight.norm() < 0.04
    assert (small.whole().abs().amax(1) - layer.weight.abs().amax(1)).abs().max() < 1e-6
    (found,) = torch.autograd.grad(small(x).square().sum(), x)
    y = nn.functional.linear(x, small.whole(), layer.bias)
    (expected,) = torch.autograd.grad(y.square().sum(), x)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("memory", ["fast", "normal"])
def test_training_on_a_base_in_8_bits_learns_nearly_the_same(three: Path, tmp_path: Path, memory: str):
    output = tmp_path / "a.safetensors"
    assert run(output, "--fp8-base", "--memory", memory) == 0
    assert files.read(output).recipe["fp8_base"] is True
    whole, small = deltas(three / "a_seed0.safetensors"), deltas(output)
    assert 1e-4 < (whole - small).norm() / whole.norm() < 0.5


def test_a_frozen_lora_and_a_base_in_8_bits_do_not_go_together(three: Path, tmp_path: Path, capsys):
    frozen = str(three / "a_seed0.safetensors")
    assert run(tmp_path / "a.safetensors", "--fp8-base", "--frozen", frozen) == 1
    assert "leave out --frozen or --fp8-base" in capsys.readouterr().err


# Several pictures of one thing


def test_a_folder_of_pictures_is_one_training(tmp_path: Path):
    """A failure means that only one picture of the folder is learnt."""
    losses = {}
    for name, pictures in (("one", ["structure"] * 2), ("two", ["structure", "style"])):
        folder = tmp_path / name
        folder.mkdir()
        for number, picture in enumerate(pictures):
            (folder / f"{number}.png").write_bytes((tiny.REFERENCE / f"{picture}.png").read_bytes())
        log = tmp_path / f"{name}.json"
        command = ["train", "--model", str(tiny.MODEL), "--image", str(folder), "--prompt", "A [v]"]
        assert (
            main([*command, "--output", str(tmp_path / "a.safetensors"), "--log-json", str(log), *SMALL]) == 0
        )
        losses[name] = json.loads(log.read_text())["losses"]
        (tmp_path / "a.safetensors").unlink()
    assert sum(a != b for a, b in zip(losses["one"], losses["two"], strict=True)) >= 2
