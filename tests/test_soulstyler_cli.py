"""`python -m rechar_core restyle` with both engines on small models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soulstyler_tiny as weights
import tiny
import torch
from PIL import Image

from rechar_core.cli import restyle as work
from rechar_core.cli.main import main
from rechar_core.cli.restyle import RestyleJob
from rechar_core.device import float_named
from rechar_core.images import read
from rechar_core.soulstyler.compositing import ObjectRegion, padded
from rechar_core.soulstyler.grammar import Pair

RED = (220, 40, 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """scene.png, 60 x 76 with a red square, and its mask.png."""
    folder = tmp_path_factory.mktemp("restyle")
    scene = np.random.default_rng(0).integers(0, 255, (60, 76, 3), dtype=np.uint8)
    scene[12:44, 20:60] = RED
    Image.fromarray(scene).save(folder / "scene.png")
    mask = (scene == RED).all(-1)
    Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)).save(folder / "mask.png")
    return folder


def restyle(folder: Path, *options: str, instruction: str = "Turn the red square into a mosaic") -> int:
    base = ["restyle", "--image", str(folder / "scene.png"), "--instruction", instruction, "--seed", "1"]
    return main([*base, "--output", str(folder / "new" / "out.png"), *options])


def check(folder: Path) -> np.ndarray:
    """Outside bit-equal, inside changed."""
    out, scene = (np.asarray(Image.open(folder / name)) for name in ("new/out.png", "scene.png"))
    mask = np.asarray(Image.open(folder / "mask.png")) > 0
    assert out.shape == scene.shape and np.array_equal(out[~mask], scene[~mask])
    assert (out[mask] != scene[mask]).any(-1).mean() > 0.9
    return out


def test_sdxl_restyles_the_object_alone_and_a_seed_is_a_picture(folder: Path):
    options = [
        "--model",
        str(tiny.MODEL),
        "--mask",
        str(folder / "mask.png"),
        "--steps",
        "4",
        "--guidance",
        "2",
    ]
    assert restyle(folder, *options) == 0
    first = check(folder)
    assert restyle(folder, *options) == 0
    assert np.array_equal(check(folder), first)
    assert restyle(folder, *options, "--strength", "1") == 0
    assert not np.array_equal(check(folder), first)


def engine(precision: str) -> Any:
    job = RestyleJob(
        *(Path("unused"), "unused", Path("unused")),
        model=str(tiny.MODEL),
        strength=0.6,
        steps=4,
        guidance=2.0,
        seed=1,
        precision=precision,
    )
    return work._Sdxl(job)


def target(folder: Path, mask: str | None = "mask.png") -> ObjectRegion:
    image = read(folder / "scene.png")
    return ObjectRegion.of(image, read(folder / mask).mean(-1) if mask else torch.ones(image.shape[:3]))


def test_without_a_mask_it_is_diffusers_own_img2img(folder: Path):
    """Bit for bit in fp32, from the same latent. A failure means other noise or timesteps than the method's."""
    from diffusers import StableDiffusionXLImg2ImgPipeline

    from rechar_core.backend.pipeline import decode_latent, encode_picture

    ours = engine("fp32")
    whole = target(folder, None)
    found = ours(whole, Pair("mosaic", "square", "square"))
    theirs = StableDiffusionXLImg2ImgPipeline.from_pipe(ours.pipeline)
    latent = theirs(
        "square, mosaic style",
        image=encode_picture(theirs, padded(whole.image)).mean,
        strength=0.6,
        num_inference_steps=4,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(1),
        output_type="latent",
    ).images
    assert torch.equal(found, whole.finish(decode_latent(theirs, latent)))


@pytest.mark.bounds
@pytest.mark.parametrize(
    ("precision", "most"), [("fp16", 4), ("bf16", 16)]
)  # bf16 rounds 8 times as coarsely
def test_half_precision_base_restyles_almost_the_same(folder: Path, precision: str, most: int):
    """A failure means other noise, a base in fp32 all the same, or a rounded VAE, which overflows in fp16."""
    engines = [engine(name) for name in ("fp32", precision)]
    whole, half = (one(target(folder), Pair("mosaic", "square", "square")) * 255 for one in engines)
    off = (whole - half).abs()
    assert off.max() < most and off.mean() < 1 and whole.std() > 50
    plain, mixed = (one.pipeline for one in engines)
    assert mixed.unet.dtype == mixed.text_encoder.dtype == float_named(precision)
    for part, dtype in ((mixed.unet, float_named(precision)), (mixed.vae, torch.float32)):
        assert {weight.dtype for weight in part.parameters()} == {dtype}
    theirs = plain.vae.state_dict()
    assert all(torch.equal(weight, theirs[name]) for name, weight in mixed.vae.state_dict().items())


def test_the_clip_engine_does_too(folder: Path):
    clip, vgg = weights.clip_folder(folder / "clip"), weights.vgg_file(folder / "vgg19.safetensors")
    options = ["--engine", "clip", "--clip", str(clip), "--vgg", str(vgg), "--steps", "2"]
    assert restyle(folder, *options, "--mask", str(folder / "mask.png")) == 0
    check(folder)


@pytest.mark.parametrize("kind", ["clipseg", "dino"])
def test_a_segmenter_finds_the_object_and_says_when_not(folder: Path, kind: str, capsys):
    make = {"clipseg": weights.clipseg_folder, "dino": weights.grounding_dino_folder}[kind]
    sam = ["--sam", str(weights.sam_folder(folder / "sam"))] if kind == "dino" else []
    options = ["--model", str(tiny.MODEL), "--steps", "2", "--segmenter", str(make(folder / kind)), *sam]
    assert restyle(folder, *options, "--threshold", "0.01") == 0
    assert restyle(folder, *options, "--threshold", "0.99") == 1
    assert "'red square' is not found" in capsys.readouterr().err
    assert restyle(folder, *options, instruction="把红色方块变成马赛克") == 1
    assert "reads English only, and '红色方块' is not" in capsys.readouterr().err
    named = ["--object", "red square", "--threshold", "0.01"]
    assert restyle(folder, *options, *named, instruction="把红色方块变成马赛克") == 0
    if kind == "dino":
        assert restyle(folder, *options[:-2]) == 1
        assert "give a folder with SAM 2" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--style", "--structure"])
def test_a_lora_changes_the_object(folder: Path, option: str):
    """Each as the published trainer wrote it for this model."""
    lora = tiny.REFERENCE / f"{option.strip('-')}_lora.safetensors"
    options = ["--model", str(tiny.MODEL), "--mask", str(folder / "mask.png"), "--steps", "4"]
    assert restyle(folder, *options) == 0
    plain = check(folder)
    assert restyle(folder, *options, option, str(lora)) == 0
    assert not np.array_equal(check(folder), plain)


@pytest.mark.parametrize(
    "instruction", ["把红色方块变成马赛克风格", "赤い四角をモザイク風にしてください"], ids=["zh", "ja"]
)
def test_instructions_in_chinese_and_japanese(folder: Path, instruction: str):
    options = ["--model", str(tiny.MODEL), "--mask", str(folder / "mask.png"), "--steps", "2"]
    assert restyle(folder, *options, instruction=instruction) == 0
    check(folder)


def test_the_output_is_a_png_file_whatever_it_is_called(folder: Path, tmp_path: Path, capsys):
    """A failure means that a folder is noticed after the work, or that a JPEG's name stands on a PNG."""
    options = ["--model", str(tiny.MODEL), "--mask", str(folder / "mask.png"), "--steps", "2"]
    assert restyle(folder, *options, "--output", str(tmp_path / "out.jpg")) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "out.jpg.png")]
    assert [path.name for path in tmp_path.iterdir()] == ["out.jpg.png"]
    assert restyle(folder, "--model", "none", "--output", str(tmp_path)) == 1
    assert "is a folder; give the name of the file" in capsys.readouterr().err


def test_a_picture_that_is_no_picture_is_an_error(folder: Path, tmp_path: Path, capsys):
    lora = ["--style", str(tiny.REFERENCE / "style_lora.safetensors"), "--style-alpha", "1e38"]
    options = ["--model", str(tiny.MODEL), "--mask", str(folder / "mask.png"), "--steps", "2", *lora]
    assert restyle(folder, *options, "--output", str(tmp_path / "out.png")) == 1
    assert "became NaN or infinite" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "instruction", "words"),
    [
        ([], "what a nice day", "names no style"),
        ([], "turn the cat into lace", "Nothing says where the object is"),
        (["--segmenter", "seg"], "turn everything into lace", "names no object"),
        (
            ["--mask", "mask.png"],
            "turn the cat into lace and the dog into clay",
            "One mask or name cannot serve several",
        ),
        (["--mask", "mask.png"], "turn the cat into lace", "needs --model"),
        (["--mask", "mask.png", "--engine", "clip"], "turn the cat into lace", "needs --clip FOLDER"),
        (
            ["--mask", "mask.png", "--model", "demo", "--strength", "0"],
            "turn it into lace",
            "strength is 0.0",
        ),
        (["--mask", "mask.png", "--model", "demo", "--seed", "-1"], "turn it into lace", "seed is -1"),
        (["--mask", "mask.png", "--model", "demo", "--steps", "0"], "turn it into lace", "steps is 0"),
        (
            ["--mask", "mask.png", "--model", "demo", "--guidance", "nan"],
            "turn it into lace",
            "guidance is nan",
        ),
        (["--segmenter", "none", "--model", str(tiny.MODEL)], "turn the cat into lace", "lacks config.json"),
    ],
)
def test_bad_input_is_one_clear_sentence(folder: Path, options: list, instruction: str, words: str, capsys):
    options = [str(folder / option) if option == "mask.png" else option for option in options]
    assert restyle(folder, *options, instruction=instruction) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1]
