"""The next demo model's making: written parts equal their formula, held-out glyphs stay so, a stop costs nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

pytest.importorskip("scipy")

from demo.catalog import NAMED_GLYPHS
from demo.frozen import never_drawn
from demo.pictures.batches import Plan, draw
from demo.pictures.families import FAMILIES, MATERIALS
from demo.pictures.glyph_masks import trained_texts
from demo.pictures.grounds import GROUNDS
from demo.pictures.render import own_style
from demo.training.build import build_unet
from demo.training.codes import CONTENT, ELEMENT, STYLE, WIDTH, context
from demo.training.meanings import Meanings
from demo.training.roles import ROLES, initialise, trainable
from demo.training.state import Checkpoint
from demo.training.vae import averaged, decode, fixed, thin_vae, trained
from demo.training.vae_weights import SCALING, widen


@pytest.fixture(scope="module")
def meanings() -> Meanings:
    return Meanings()


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return nn.functional.interpolate(torch.rand(2, 3, 24, 24, generator=generator), (64, 64), mode="bilinear")


def test_the_written_encoder_computes_the_basis(meanings, pictures, tmp_path):
    """A failure means that the UNet is trained on other latents than the shipped VAE gives."""
    vae = averaged(tmp_path, meanings.latent, thin=False)
    with torch.no_grad():
        found = vae.encode(2 * pictures - 1).latent_dist.mean * SCALING
    assert (found - meanings.latent.latents(pictures)).abs().max() < 2e-3


def test_a_decoder_trained_thin_draws_the_same_when_widened(meanings, pictures, tmp_path):
    latents, thin = meanings.latent.latents(pictures), thin_vae(meanings.latent)
    with torch.no_grad():
        for parameter in trained(thin).values():
            parameter.add_(0.01 * torch.randn_like(parameter))
        whole = averaged(tmp_path, meanings.latent, thin=False)
        whole.load_state_dict(widen(thin.state_dict(), whole.state_dict()))
        drawn = whole.decode(latents / SCALING).sample / 2 + 0.5
        assert (drawn - decode(thin, latents)).abs().max() < 1e-3


def test_the_colour_path_is_not_trained(meanings):
    """Its large constants make a free training diverge."""
    named = trained(thin_vae(meanings.latent))
    masks = fixed(thin_vae(meanings.latent))
    assert set(masks) <= set(named)
    assert all(not masks[f"decoder.conv_norm_out.{part}"][:9].any() for part in ("weight", "bias"))


def test_training_draws_nothing_that_is_held_out():
    assert not {text for texts in trained_texts().values() for text in texts} & never_drawn()
    assert not set(NAMED_GLYPHS) & never_drawn()


def test_twenty_families_and_more_each_with_named_palettes_on_known_grounds():
    assert len(FAMILIES) >= 20
    assert set(FAMILIES) == set(MATERIALS)
    assert all(len(family.palettes) >= 3 and family.ground in GROUNDS for family in FAMILIES.values())


@pytest.mark.parametrize("family", ["lava", "embroidery", "watercolour"])
def test_a_seed_is_a_picture(family):
    """Deterministic, finite, in 0..1, and of the asked size."""
    down, across = torch.meshgrid(torch.arange(256.0), torch.arange(256.0), indexing="ij")
    distances = (60 - ((down - 128) ** 2 + (across - 128) ** 2).sqrt())[None, None]
    masks, layers, plan = (distances + 0.5).clamp(0, 1), torch.zeros(1, 4, 256, 256), Plan(own_style(family))
    first, second = (draw(masks, distances, layers, plan, 5)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, draw(masks, distances, layers, plan, 6)[0])
    assert first.shape == (1, 3, 256, 256) and first.min() >= 0 and first.max() <= 1


def test_blocks_read_their_own_columns_alone():
    """Content reaches the structure block only, style the style block, elements the third; an empty prompt is zero."""
    unet = build_unet()
    initialise(unet)
    named, masks = trainable(unet)
    assert list(ROLES.values()) == [CONTENT, STYLE, ELEMENT]
    for role, columns in ROLES.items():
        weight = named[f"{role}.transformer_blocks.0.attn2.to_v.weight"]
        outside = torch.ones(WIDTH, dtype=torch.bool)
        outside[columns] = False
        assert not weight[:, outside].any() and weight[:, columns].any()
        assert not masks[f"{role}.transformer_blocks.0.attn2.to_v.weight"][:, outside].any()
    assert not any(".attn2." in name and not name.startswith(tuple(ROLES)) for name in named)
    blank = torch.tensor([True, False])
    ctx = context(
        torch.ones(2, 64, 48), torch.ones(2, 80), torch.ones(2, 64, 32), torch.tensor([5, 5]), blank
    )
    assert not ctx[0].any() and ctx[1].any()


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path):
    """Five steps at once, and three, a new process's worth of objects, and two more: the same weights to the bit."""

    def steps(path, first: int, last: int) -> Checkpoint:
        torch.manual_seed(0)
        layer = nn.Linear(4, 4)
        state = Checkpoint(path, dict(layer.named_parameters()), 1e-2, average=0.9)
        state.since = 1000 if first else 0  # past the warming up, which a new run does again
        for step in range(first, last):
            state.since = 1000
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            (layer(x) - x.flip(1)).pow(2).mean().backward()
            state.update(1e-2)
        state.save()
        return state

    whole = steps(tmp_path / "whole.pt", 0, 5)
    steps(tmp_path / "part.pt", 0, 3)
    resumed = steps(tmp_path / "part.pt", 3, 5)
    assert resumed.step == whole.step == 5
    for a, b in zip(whole.parameters + whole.moving, resumed.parameters + resumed.moving):
        assert torch.equal(a, b)
