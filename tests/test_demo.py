"""The shipped demo model and the `demo` command, whole, as README promises them."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rechar_core.cli import demo
from rechar_core.cli.main import main
from rechar_core.demo import build
from rechar_core.errors import ReCharError
from rechar_core.images import fit, read
from rechar_core.lora import files


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """What `python -m rechar_core demo` leaves behind; what it said meanwhile is in said.txt beside the folder.

    With two thirds of the style's training steps, one text a row, the ends of the alphas alone and half the sampler's
    steps, which is less than half the time.
    """
    folder = tmp_path_factory.mktemp("demo")
    said = io.StringIO()
    half, train = {**demo.drawing(demo.DEMO, {}), "steps": 8}, demo._train
    fewer: dict[str, dict[str, int]] = {"structure": {}, "style": {"steps": 100}}
    with pytest.MonkeyPatch.context() as patch, redirect_stderr(said):
        patch.setattr(demo, "ALPHAS", (0.0, 1.0))
        patch.setattr(demo, "TEXT_STYLES", demo.TEXT_STYLES[:1])
        patch.setattr(demo, "TEXT_CONTENTS", demo.TEXT_CONTENTS[:1])
        patch.setattr(demo, "drawing", lambda *_: half)
        patch.setattr(
            demo, "_train", lambda p, kind, given, *more: train(p, kind, given | fewer[kind], *more)
        )
        assert main(["demo", "--output", str(folder)]) == 0
    folder.with_name("said.txt").write_text(said.getvalue(), encoding="utf-8")
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=float) / 255


def agreement(picture: np.ndarray, mask: np.ndarray) -> float:
    """How well a picture's contrast with its own border follows a glyph's mask: correlation, -1..1."""
    edge = np.median(np.concatenate([picture[:12].reshape(-1, 3), picture[-12:].reshape(-1, 3)]), 0)
    contrast = np.linalg.norm(picture - edge, axis=-1)
    return float(np.corrcoef(contrast.ravel(), mask.ravel())[0, 1])


def test_the_demo_writes_all_it_promises(made: Path):
    names = {p.name for p in made.iterdir()}
    pictures = {f"{row}{column}.png" for row in "123456" for column in "ab"}
    assert names == pictures | {"sheet.png", "log.json", "structure.safetensors", "style.safetensors"}
    assert json.loads((made / "log.json").read_text(encoding="utf-8"))["seconds"]["all"] > 0
    assert [b.name for b in files.read(made / "structure.safetensors").blocks] == ["structure"]


def test_it_says_on_the_way_what_it_does(made: Path):
    """A failure means minutes of silence."""
    said = made.with_name("said.txt").read_text(encoding="utf-8")
    assert said.isascii()
    steps = ("Loading the model demo", "Training structure: 100%", "Training style: 100%", "Drawing: 100%")
    assert sorted(steps, key=said.index) == list(steps)
    assert said.count("Drawing:") >= 10


def test_the_structure_lora_draws_the_unseen_glyph(made: Path):
    """A failure means that the demo no longer shows what it claims: without a LoRA, the glyph is unknown to it."""
    mask = 1 - pixels(build.SAMPLES[demo.PICTURES["structure"]]).mean(-1)
    control, drawn = (agreement(pixels(made / name), mask) for name in ("2a.png", "2b.png"))
    assert drawn > 0.6
    assert drawn > control + 0.2


def test_the_style_lora_brings_the_pictures_colours(made: Path):
    """Mean colour of the style picture: nearer with the style LoRA than without."""
    target = pixels(build.SAMPLES[demo.PICTURES["style"]]).mean((0, 1))
    control, drawn = (np.linalg.norm(pixels(made / n).mean((0, 1)) - target) for n in ("3a.png", "3b.png"))
    assert drawn < 0.6 * control


def test_alphas_at_their_ends_are_the_controls(made: Path):
    """Row 4 ends where row 5 ends: both alphas 1."""
    assert np.array_equal(pixels(made / "4b.png"), pixels(made / "5b.png"))
    assert not np.array_equal(pixels(made / "4a.png"), pixels(made / "4b.png"))


def test_the_model_is_small_and_has_sdxls_topology():
    assert build.WEIGHTS.stat().st_size <= 20_000_000
    unet = build.read_config()["unet"]
    assert unet["down_block_types"] == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
    assert unet["up_block_types"] == ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]
    assert (unet["addition_embed_type"], unet["norm_num_groups"]) == ("text_time", 32)
    assert build.read_config()["text_encoder_2"]["num_hidden_layers"] >= 3


def test_the_vae_keeps_the_sample_pictures():
    """PSNR over the samples, with the mode of the posterior, as for issue F's bar of 26 dB."""
    vae = build.load_demo().vae
    found = []
    for path in build.SAMPLES.values():
        x = fit(read(path), 256).movedim(-1, 1) * 2 - 1
        with torch.no_grad():
            y = vae.decode(vae.encode(x).latent_dist.mode()).sample.clamp(-1, 1)
        found.append(-10 * torch.log10(((x - y) / 2).pow(2).mean()).item())
    assert min(found) > 26


@pytest.mark.parametrize("content", [None, b"cut", b""])
def test_missing_or_damaged_weights_are_one_sentence(tmp_path: Path, monkeypatch, content):
    path = tmp_path / "model.safetensors"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(build, "WEIGHTS", path)
    with pytest.raises(
        ReCharError, match=r"model.safetensors are missing or damaged .* Install ReChar again"
    ):
        build.demo_state()
