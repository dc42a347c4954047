"""The shipped ControlNet and adapters do what the model card says, on a held-out glyph and style picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_demo import agreement

from rechar_core.backend import pipeline as base
from rechar_core.backend.renderer import DiffusersIPAdapters, DiffusersRenderer
from rechar_core.demo import build, extras
from rechar_core.glyph.structure_map import structure_map
from rechar_core.images import fit, read
from rechar_core.lora.fusion import fuse
from rechar_core.synthesis.elements import PromptToken
from rechar_core.synthesis.passes import RenderJob


@pytest.fixture(scope="module")
def renderer() -> DiffusersRenderer:
    found = extras.load_adapters()
    ip_adapters = DiffusersIPAdapters(found["composition"], found["style"], extras.load_encoder())
    return DiffusersRenderer(
        base.load("demo", torch.float32, torch.device("cpu")), ip_adapters, extras.load_controlnet()
    )


def drawn(renderer: DiffusersRenderer, **options: object) -> np.ndarray:
    words = {"positive": (PromptToken("A [v]", "normal"),), "negative": (PromptToken("", "normal"),)}
    settings = {"size": (256, 256), "seed": 0, "steps": 16, "cfg": 1.0}
    return renderer.render(RenderJob(fuse(None, None), **words, **settings, **options))[0].double().numpy()


def sample(name: str) -> torch.Tensor:
    """IMAGE (1, 256, 256, 3) in 0..1."""
    return fit(read(build.SAMPLES[name]), 256)


def test_they_are_small():
    assert sum(path.stat().st_size for path in (extras.ADAPTERS, extras.CONTROLNET)) <= 6_000_000


def test_edges_and_structure_reference_draw_the_unseen_glyph(renderer: DiffusersRenderer):
    glyph = sample("glyph_luo")
    mask = 1 - glyph[0].mean(-1).numpy()
    edges = structure_map("canny-cv2", image=glyph)
    reference = renderer.encode_reference(glyph, "structure", None)
    control = agreement(drawn(renderer), mask)
    for options in (
        {"hint": edges, "control": 1.0},
        {"references": (reference,), "scales": {"structure": 1.0}},
    ):
        found = agreement(drawn(renderer, **options), mask)
        assert found > 0.6
        assert found > control + 0.2


def test_the_style_reference_brings_the_pictures_colours(renderer: DiffusersRenderer):
    picture = sample("style_a")
    reference = renderer.encode_reference(picture, "style", None)
    target = picture[0].mean((0, 1)).numpy()
    options = {"references": (reference,), "scales": {"style": 1.0}}
    found = np.linalg.norm(drawn(renderer, **options).mean((0, 1)) - target)
    assert found < 0.6 * np.linalg.norm(drawn(renderer).mean((0, 1)) - target)
