"""The table of modes against the published inference, and what it says of itself."""

from __future__ import annotations

import json

import pytest

from rechar_core.errors import RecipeError
from rechar_core.synthesis.elements import KEEP_MODES
from rechar_core.synthesis.modes import MODES, mode_named
from rechar_core.synthesis.references.layout import MASK_MODES, OPERATORS


def test_official_is_the_published_code():
    """Every number of the published inference; a failure means that `official` is nothing to compare with."""
    mode = MODES["official"]
    assert (mode.steps, mode.cfg, mode.control) == (50, (5.0, 5.0, 17.5), (0.5, 0.5, 0.5))
    assert (mode.structure_scale, mode.style_scale) == (1.5, 0.8)
    assert mode.structure_stays is False
    assert (mode.mask, mode.mask_mode, mode.operator, mode.drop, mode.keep) == (
        "edges",
        "official",
        "off",
        False,
        "all",
    )
    assert mode.negative == (
        "text, watermark, lowres, low quality, worst quality, deformed, glitch, low contrast, noisy, saturation, blurry"
    )


def test_tuned_has_none_of_its_faults():
    mode = MODES["tuned"]
    assert "text" not in mode.negative and mode.control[1] == 0
    assert mode.cfg[2] <= 7 and mode.mask == "glyph" and 0.6 <= mode.control[2] <= 0.8


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_a_mode_names_what_exists_and_survives_json(mode):
    assert mode.operator in OPERATORS and mode.mask_mode in MASK_MODES and mode.keep in KEEP_MODES
    kept = json.loads(mode.settings(seed=3))
    assert kept["seed"] == 3 and kept["name"] == mode.name and tuple(kept["cfg"]) == mode.cfg


def test_steps_replace_the_modes_own():
    assert mode_named("tuned", 4).steps == 4 and mode_named("tuned").steps == MODES["tuned"].steps == 30
    with pytest.raises(RecipeError, match="no mode 'best'"):
        mode_named("best")


def test_one_guidance_replaces_that_of_all_passes():
    assert mode_named("official", 0, 1.0).cfg == (1.0, 1.0, 1.0)
    assert mode_named("official", 0, 0.0).cfg == MODES["official"].cfg
