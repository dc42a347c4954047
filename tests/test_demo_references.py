"""What stands beside the demo model, with the shipped files where they are and random ones where they are not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import adapters
import pytest
import torch

from rechar_core.backend import pipeline as base
from rechar_core.backend.ip_adapters import control_net, ip_adapters
from rechar_core.backend.renderer import DiffusersIPAdapters, DiffusersRenderer
from rechar_core.demo import build, extras
from rechar_core.errors import FileError, RecipeError
from rechar_core.synthesis.modes import MODES, mode_named
from rechar_core.synthesis.passes import Passes

CPU = (torch.float32, torch.device("cpu"))
DEMO = Path(base.DEMO)


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """As generate --mode makes it with "demo" for all files."""
    pack = tmp_path_factory.mktemp("pack")
    folder = pack / "rechar_core" / "demo"
    folder.mkdir(parents=True)
    for path in (extras.ADAPTERS, extras.CONTROLNET):
        if path.is_file():
            shutil.copy(path, folder)
    adapters.stock(pack, pack / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extras, "ADAPTERS", folder / extras.ADAPTERS.name)
        patch.setattr(extras, "CONTROLNET", folder / extras.CONTROLNET.name)
        found = ip_adapters(DEMO, DEMO, DEMO, *CPU)
        yield DiffusersRenderer(base.load("demo", *CPU), found, control_net(DEMO, *CPU))


@pytest.mark.parametrize("given", [(Path("a"), None), (None, Path("a"))])
def test_adapters_need_an_encoder_and_none_needs_none(given: tuple[Path | None, Path | None]):
    with pytest.raises(RecipeError, match="--image-encoder"):
        ip_adapters(*given, None, *CPU)
    assert ip_adapters(None, None, None, *CPU) == DiffusersIPAdapters()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_draws_on_the_demo_model(renderer: DiffusersRenderer, mode: str):
    """One step a pass: the adapters fit the UNet, the ControlNet its residuals; each changes the picture."""
    picture = base_picture("glyph_luo")
    mask = (picture.mean(-1) < 0.5).float()
    style = {"style_image": base_picture("style_a"), "elements": "flowers"}
    result, *_ = Passes(renderer, picture, mask, mode_named(mode, 1, 1.0), 0, **style).run()
    assert result.shape == (1, 256, 256, 3) and result.std() > 0.001
    without = Passes(
        DiffusersRenderer(renderer.pipeline), picture, mask, mode_named("tuned", 1, 1.0), 0, **style
    )
    assert not torch.equal(without.result(picture, style["style_image"]), result)


def test_the_demos_own_files_draw_in_half_precision(renderer: DiffusersRenderer):
    """As on a GPU, in bf16, which a CPU can compute. A failure means that fp32 weights meet half-precision latents."""
    where = (torch.bfloat16, torch.device("cpu"))
    half = DiffusersRenderer(
        base.load("demo", *where), ip_adapters(DEMO, DEMO, DEMO, *where), control_net(DEMO, *where)
    )
    picture = base_picture("glyph_luo")
    mask, style = (picture.mean(-1) < 0.5).float(), {"style_image": base_picture("style_a")}
    one, two = (
        Passes(p, picture, mask, mode_named("tuned", 1, 1.0), 0, **style).run()[0] for p in (renderer, half)
    )
    assert (one - two).abs().mean() < 0.05


def base_picture(name: str) -> torch.Tensor:
    from rechar_core.images import read

    return read(build.SAMPLES[name])


@pytest.mark.parametrize("name", ["ADAPTERS", "CONTROLNET"])
def test_a_missing_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    gone = tmp_path / f"{name.lower()}.safetensors"
    monkeypatch.setattr(extras, name, gone)
    with pytest.raises(FileError, match=str(gone)):
        _ = ip_adapters(DEMO, DEMO, DEMO, *CPU) if name == "ADAPTERS" else control_net(DEMO, *CPU)
