"""`generate --mode` as people use it: the passes from files, on the small reference SDXL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import adapters
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import save_file
from test_renderer import control_net, encoder, pipe, states  # noqa: F401

from rechar_core.cli.decorate import job_of
from rechar_core.cli.main import main, parser

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Everything that leads a drawing, saved as its own library saves it."""
    made = tmp_path_factory.mktemp("leads")
    request.getfixturevalue("encoder").save_pretrained(made / "encoder")
    request.getfixturevalue("control_net").save_pretrained(made / "canny")
    for name, state in zip(("plus", "plain"), request.getfixturevalue("states"), strict=True):
        save_file(state, made / f"{name}.safetensors")
    glyph = np.full((80, 120, 3), 255, np.uint8)
    glyph[20:60, 30:90] = 0
    Image.fromarray(glyph).save(made / "glyph.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(made / "style.png")
    return made


def draw(folder: Path, output: Path, *options: str, mode: str = "references-only") -> list[Path]:
    base = ["generate", "--model", str(tiny.MODEL), "--mode", mode, "--glyph", str(folder / "glyph.png")]
    base += ["--style-image", str(folder / "style.png"), "--output", str(output), "--width", str(SIDE)]
    assert main([*base, "--steps", "2", "--images", "1", *options]) == 0
    return sorted(output.glob("*.png"))


def leads(folder: Path) -> list[str]:
    return [
        *("--composition-adapter", str(folder / "plus.safetensors")),
        *("--style-adapter", str(folder / "plain.safetensors")),
        *("--image-encoder", str(folder / "encoder"), "--control-net", str(folder / "canny")),
    ]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_references_only_from_the_command_line(folder: Path, tmp_path: Path):
    """Three pictures of the glyph's aspect, the settings in them; every option moves the result."""
    made = draw(folder, tmp_path / "a", *leads(folder), "--elements", "two cranes")
    assert [p.name for p in made] == ["seed_00000.png", "seed_00000_structure.png", "seed_00000_style.png"]
    assert pixels(made[0]).shape == (64, 96, 3)
    about = json.loads(Image.open(made[0]).info["rechar"])
    assert (about["name"], about["steps"], about["seed"]) == ("references-only", 2, 0)
    assert about["elements"] == "two cranes" and about["glyph"] == "glyph.png"
    assert {p.suffix for p in (tmp_path / "a").iterdir()} == {".png"}
    changes: list[list[str]] = [
        ["--style-scale", "2"],
        ["--structure-scale", "0"],
        ["--operator", "softmax", "--temperature", "0.5"],
        ["--mask-mode", "distance"],
        ["--guidance", "1"],
        ["--seed", "4"],
        ["--prompt", "A house"],
    ]
    pictures = [pixels(made[0])]
    for number, change in enumerate(changes):
        found = draw(folder, tmp_path / str(number), *leads(folder), "--elements", "two cranes", *change)
        pictures.append(pixels(found[0]))
    for i, one in enumerate(pictures):
        assert not any(np.array_equal(one, other) for other in pictures[:i]), (i, changes[i - 1])


def test_the_same_command_draws_the_same(folder: Path, tmp_path: Path):
    one, two = (draw(folder, tmp_path / n, *leads(folder), mode="tuned")[0] for n in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_modes_with_b_loras_draw_their_own_references(folder: Path, tmp_path: Path):
    """Trained here for a few steps; official draws both references first, at the mode's own settings."""
    small = ["--rank", "4", "--steps", "3", "--resolution", "64", "--learning-rate", "1e-2"]
    for name in ("glyph", "style"):
        train = ["train", "--model", str(tiny.MODEL), "--image", str(folder / f"{name}.png")]
        assert (
            main([*train, "--prompt", "A [v]", "--output", str(tmp_path / f"{name}.safetensors"), *small])
            == 0
        )
    loras = [
        "--structure",
        str(tmp_path / "glyph.safetensors"),
        "--style",
        str(tmp_path / "style.safetensors"),
    ]
    drawn = {
        mode: draw(folder, tmp_path / mode, *leads(folder), *loras, mode=mode)
        for mode in ("official", "paper", "tuned")
    }
    glyph = pixels(draw(folder, tmp_path / "none", *leads(folder))[1])
    assert all(not np.array_equal(pixels(d[1]), glyph) for d in drawn.values())
    results = [pixels(d[0]) for d in drawn.values()]
    assert not any(np.array_equal(results[i], results[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mode", "official", "--glyph", "G"], "There is no style"),
        (["--mode", "tuned"], "needs --glyph"),
        ([], "needs --prompt, or --mode"),
        (["--mode", "tuned", "--glyph", "G", "--style-adapter", "A"], "Adapters need --image-encoder"),
        (
            ["--mode", "tuned", "--glyph", "G", "--style-adapter", "A", "--image-encoder", "nowhere"],
            "There is no image encoder in nowhere: it needs config.json and model.safetensors",
        ),
        (
            ["--mode", "tuned", "--glyph", "G", "--control-net", "nowhere"],
            "There is no ControlNet in nowhere: it needs config.json and diffusion_pytorch_model.safetensors",
        ),
        (["--mode", "tuned", "--glyph", "G", "--style-alpha", "0.5"], "--style-alpha is not for --mode"),
        (["--mode", "tuned", "--glyph", "G", "--width", "100"], "width is 100; it must be a multiple of 8"),
        (["--mode", "tuned", "--glyph", "G", "--style-image", "S"], "Nothing carries the glyph"),
        (["--mode", "tuned", "--glyph", "G", "--negative", "x"], "not for --mode"),
        (["--mode", "tuned", "--glyph", "G", "--steps", "-1"], "steps is -1"),
        (["--mode", "tuned", "--glyph", "G", "--seed", "-1"], "seed is -1; it must be from 0"),
        (["--mode", "tuned", "--glyph", "G", "--output", "x.png"], "'x.png' is named as a picture"),
        (["--mode", "tuned", "--glyph", "G", "--output", "F"], "cannot be a folder to write into"),
        (["--mode", "tuned", "--glyph", "S", "--style-image", "S", "--temperature", "0"], "must be above 0"),
    ],
)
def test_mistakes_are_one_sentence(
    folder: Path, tmp_path: Path, capsys: Any, options: list[str], message: str
):
    names = {"G": "glyph.png", "A": "plain.safetensors", "S": "glyph.png", "F": "plain.safetensors/x"}
    given = [str(folder / names[o]) if o in names else o for o in options]
    base = ["generate", "--model", str(tiny.MODEL), "--output", str(tmp_path / "out")]
    assert main([*base, *given]) == 1
    assert message in capsys.readouterr().err


def test_a_picture_that_is_no_picture_is_an_error(folder: Path, tmp_path: Path, capsys: Any):
    """A failure means that a black picture is saved as if all were well."""
    base = ["generate", "--model", str(tiny.MODEL), "--mode", "references-only", "--steps", "1"]
    base += ["--glyph", str(folder / "glyph.png"), "--style-image", str(folder / "style.png")]
    base += ["--output", str(tmp_path), "--width", str(SIDE), "--images", "1", *leads(folder)]
    assert main([*base, "--style-scale", "1e38"]) == 1
    assert "became NaN or infinite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_demo_model_draws_its_passes_with_its_own_settings(folder: Path, tmp_path: Path, capsys: Any):
    base = ["generate", "--model", "demo", "--mode", "references-only", "--glyph", str(folder / "glyph.png")]
    base += ["--style-image", str(folder / "style.png"), "--output", str(tmp_path), "--images", "1"]
    leads = [
        "--composition-adapter",
        "demo",
        "--style-adapter",
        "demo",
        "--image-encoder",
        "demo",
        "--steps",
        "2",
    ]
    assert main([*base, *leads]) == 0
    assert capsys.readouterr().err.splitlines()[0].endswith("where none is given: --guidance 1")
    about = json.loads(Image.open(tmp_path / "seed_00000.png").info["rechar"])
    assert (about["steps"], about["cfg"]) == (2, [1.0, 1.0, 1.0])


def test_the_demo_models_own_files_are_named_when_they_are_missing(
    folder: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    from rechar_core.demo import extras

    for name in ("ADAPTERS", "CONTROLNET"):
        monkeypatch.setattr(extras, name, tmp_path / f"{name.lower()}.safetensors")
    base = ["generate", "--model", "demo", "--mode", "tuned", "--glyph", str(folder / "glyph.png")]
    base += ["--output", str(tmp_path), "--style-image", str(folder / "style.png")]
    for options, file in (
        (["--style-adapter", "demo", "--image-encoder", "demo"], "adapters.safetensors"),
        (["--control-net", "demo"], "controlnet.safetensors"),
    ):
        assert main([*base, *options]) == 1
        assert str(tmp_path / file) in capsys.readouterr().err


def test_a_control_net_of_another_base_is_refused(folder: Path, tmp_path: Path, capsys: Any):
    from diffusers import ControlNetModel

    torch.manual_seed(0)
    sizes = {"block_out_channels": (32, 32, 32, 32), "cross_attention_dim": 32, "norm_num_groups": 16}
    ControlNetModel(**sizes).save_pretrained(tmp_path / "sd15")
    base = ["generate", "--model", str(tiny.MODEL), "--mode", "tuned", "--glyph", str(folder / "glyph.png")]
    assert main([*base, "--output", str(tmp_path), "--control-net", str(tmp_path / "sd15")]) == 1
    assert "no ControlNet for SDXL" in capsys.readouterr().err


def test_a_random_adapter_of_another_size_is_refused(folder: Path, tmp_path: Path, capsys: Any):
    save_file(adapters.plain([8] * 16, 80), tmp_path / "sd15.safetensors")
    base = ["generate", "--model", str(tiny.MODEL), "--mode", "tuned", "--glyph", str(folder / "glyph.png")]
    base += ["--style-image", str(folder / "style.png"), "--output", str(tmp_path / "out"), "--steps", "1"]
    given = [
        "--style-adapter",
        str(tmp_path / "sd15.safetensors"),
        "--image-encoder",
        str(folder / "encoder"),
        *("--control-net", str(folder / "canny")),
    ]
    assert main([*base, *given]) == 1
    assert "SD 1.5" in capsys.readouterr().err


def test_a_style_scale_that_is_given_is_taken_as_it_is(tmp_path: Path):
    """A failure means that `--mode tuned --style-scale 0.8` draws with half of it."""
    command = [
        "generate",
        "--model",
        "demo",
        "--mode",
        "tuned",
        "--glyph",
        "g.png",
        "--output",
        str(tmp_path),
    ]
    for options, taken in ((["--style-scale", "0.8"], (0.8, 1.0)), ([], (0.8, 0.5))):
        mode = job_of(parser().parse_args([*command, *options])).mode
        assert (mode.style_scale, mode.style_beside_lora) == taken
