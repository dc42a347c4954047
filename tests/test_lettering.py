"""Cells, composition and the shared look of a word, in closed form."""

from __future__ import annotations

import pytest
import torch

from rechar_core.errors import ImageError
from rechar_core.synthesis.lettering import Cell, SharedStyle, cells, composed, mattes_of, seed_of


def characters() -> torch.Tensor:
    """A wide bar left and a small square right on a canvas of 40 x 100."""
    masks = torch.zeros(2, 40, 100)
    masks[0, 10:20, 4:44] = 1
    masks[1, 15:25, 70:80] = 1
    return masks


def test_all_cells_are_as_large_as_the_largest_character_needs():
    masks, places = cells(characters(), 80, 0.1)
    assert places == [Cell(-10, -1, 50), Cell(-5, 50, 50)]
    assert masks.shape == (2, 80, 80)
    areas = masks.mean((1, 2)) * 50 * 50  # in pixels of the canvas
    assert areas.tolist() == pytest.approx([400, 100], rel=0.02)
    assert masks[0, 34:46, 10:70].min() > 0.99 and masks[1, :30].max() == 0


def test_cells_put_back_are_the_word():
    """Cut, scaled up, and composed again: the same masks at the same places, in their own colours."""
    masks, places = cells(characters(), 200, 0.1)
    colours = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.8, 0.3]])
    pictures = colours[:, None, None].expand(-1, 200, 200, -1)
    page = composed(pictures, masks, places, (40, 100))
    assert page.shape == (40, 100, 4)
    missed = (page[..., 3] - characters().amax(0)).abs()
    assert missed.mean() < 0.02 and missed[12:18, 6:42].max() < 0.01  # edges soften over a pixel
    assert torch.allclose(page[15, 20, :3], colours[0], atol=1e-3)
    assert torch.allclose(page[20, 75, :3], colours[1], atol=1e-3)


def test_of_a_cell_over_the_edge_the_part_on_the_canvas_is_drawn():
    page = composed(torch.ones(1, 8, 8, 3), torch.ones(1, 8, 8), [Cell(37, -2, 8)], (40, 40))
    assert page[37:, :6].min() == 1 and page.sum() == page[37:, :6].numel()


def test_later_characters_lie_over_earlier_ones():
    pictures = torch.stack([torch.full((8, 8, 3), 0.2), torch.full((8, 8, 3), 1.0)])
    half = torch.full((2, 8, 8), 0.5)
    page = composed(pictures, half, [Cell(0, 0, 8)] * 2, (8, 8))
    assert page[4, 4].tolist() == pytest.approx([0.55 / 0.75] * 3 + [0.75])


def test_mattes():
    mask = torch.zeros(1, 64, 64)
    mask[:, 20:44, 20:44] = 1
    grown = torch.full((1, 64, 64, 3), 0.9)
    grown[:, 16:48, 16:48] = torch.tensor([0.8, 0.1, 0.1])
    assert torch.equal(mattes_of("glyph", grown, mask), mask)
    assert mattes_of("square", grown, mask).min() == 1
    drawn = mattes_of("drawn", grown, mask)[0]
    assert drawn[16:48, 16:48].mean() > 0.95 and drawn[:12].max() < 0.01
    with pytest.raises(ImageError, match="no matte 'alpha'"):
        mattes_of("alpha", grown, mask)


@pytest.mark.parametrize("side", [100, 0, -8])
def test_a_side_of_half_latent_cells_is_refused(side: int):
    """A failure means that the word cannot be put together after hours of drawing."""
    with pytest.raises(ImageError, match=f"side is {side} pixels; give a multiple of 8"):
        cells(characters(), side, 0.1)


def test_a_character_without_ink_is_named():
    masks = characters()
    masks[1] = 0
    with pytest.raises(ImageError, match="Character 2 has no ink"):
        cells(masks, 80, 0.1)


def test_seeds():
    assert [seed_of("noise", 5, n) for n in range(3)] == [5, 5, 5]
    assert [seed_of("off", 5, n) for n in range(3)] == [5, 8, 11]
    assert [seed_of("off", 2**64 - 4, n) for n in range(3)] == [2**64 - 4, 2**64 - 1, 2]
    with pytest.raises(ImageError, match="no shared style 'all'"):
        seed_of("all", 0, 0)


def latents(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed)) * (1 + seed) + seed


def test_ink_and_ground_get_the_first_characters_statistics_step_by_step():
    """Whatever their areas; the first one itself is untouched."""
    first, second = torch.zeros(2, 64, 64)
    first[:, :32] = 1
    second[:8] = 1
    look = SharedStyle()
    change = look.each_step(first)
    steps = [latents(0), latents(1)]
    assert all(torch.equal(change(x), x) for x in steps)
    change = look.each_step(second)
    for step, own in zip(steps, (latents(5), latents(6)), strict=True):
        made = change(own)
        for mine, theirs in ((made[0, :, :1], step[0, :, :, :4]), (made[0, :, 1:], step[0, :, :, 4:])):
            assert torch.allclose(mine.mean((1, 2)), theirs.mean((1, 2)), atol=1e-4)
            spreads = [x.std((1, 2), correction=0) for x in (mine, theirs)]
            assert torch.allclose(*spreads, atol=1e-3)
        assert (made - own).abs().max() > 1


def test_the_pattern_stays_the_characters_own():
    """Only means and spreads are shared: within a region the latent is the same up to scale and shift."""
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    look = SharedStyle()
    look.each_step(mask)(latents(0))
    own = latents(3)
    made = look.each_step(mask)(own)
    for region in (slice(0, 4), slice(4, 8)):
        both = torch.stack([own[0, 0, :, region].flatten(), made[0, 0, :, region].flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.9999


def test_a_region_that_is_not_there_is_left_alone():
    full = torch.ones(64, 64)
    look = SharedStyle()
    look.each_step(full)(latents(0))
    empty = look.each_step(torch.zeros(64, 64))(latents(1))
    assert torch.equal(empty, latents(1))
