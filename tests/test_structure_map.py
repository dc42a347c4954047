"""Structure maps: edges equal to OpenCV's, skeletons, distances, filled outlines.

data/canny/cv2.npz holds pictures and what cv2.Canny(picture, 100, 200) of OpenCV 5.0.0 made of them, packed bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from rechar_core.errors import ImageError
from rechar_core.glyph.picture import from_picture, ink
from rechar_core.glyph.structure_map import (
    KINDS,
    canny,
    distance,
    distance_falloff,
    filled,
    skeleton,
    structure_map,
)

CV2 = np.load(Path(__file__).parent / "data" / "canny" / "cv2.npz")
PICTURES = [name for name in CV2.files if not name.endswith(".edges")]


def disc(size: int = 64, radius: float = 20, middle: tuple[float, float] | None = None) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    cy, cx = middle or ((size - 1) / 2, (size - 1) / 2)
    return (y - cy) ** 2 + (x - cx) ** 2 <= radius**2


def outline(mask: np.ndarray) -> np.ndarray:
    return mask & ~ndimage.binary_erosion(mask)


@pytest.mark.parametrize("name", PICTURES)
def test_edges_are_those_of_opencv(name: str):
    """Shapes, noise, smooth greys, colours, a ramp that wraps, nested steps for the hysteresis."""
    found = canny(CV2[name])
    expected = np.unpackbits(CV2[f"{name}.edges"], count=found.size).reshape(found.shape).astype(bool)
    assert expected.any() and np.array_equal(found, expected)


def test_edges_of_an_image_are_those_of_its_bytes():
    picture = torch.from_numpy(CV2["colour"]).float()[None] / 255
    found = structure_map("canny-cv2", picture)
    assert found.shape == (1, 64, 64, 3) and set(found.unique().tolist()) == {0.0, 1.0}
    assert np.array_equal(found[0, ..., 0].numpy() > 0, canny(CV2["colour"]))


def test_edges_at_exactly_the_thresholds():
    """OpenCV keeps what is above 100 and starts at what is above 200. A failure means >= in place of >."""
    step = np.zeros((32, 32), np.uint8)
    step[:, 16:] = 50  # |dx| = 4 * 50 = 200
    assert not canny(step).any()
    step[:, 16:] = 51
    assert canny(step).any()
    weak = np.zeros((64, 32), np.uint8)
    weak[:, 16:], weak[:20, 16:] = 25, 60  # below: |dx| = 100
    assert canny(weak)[:18].any() and not canny(weak)[26:].any()


def test_a_skeleton_is_thin_inside_and_keeps_the_topology():
    shape = disc(radius=26) & ~disc(radius=14)
    bones = skeleton(shape)
    assert not (bones & ~shape).any()
    assert ndimage.label(bones, np.ones((3, 3)))[1] == 1 and ndimage.label(~bones)[1] == 2
    assert not ndimage.binary_erosion(bones, np.ones((2, 2))).any()
    assert 2 * np.pi * 18 * 0.8 < bones.sum() < 2 * np.pi * 22
    assert np.array_equal(skeleton(bones), bones)


def test_a_bar_has_its_middle_line():
    bar = np.zeros((21, 60), bool)
    bar[8:13, 5:55] = True
    bones = skeleton(bar)
    assert set(np.nonzero(bones)[0]) == {10} and bones.sum() > 44
    assert not skeleton(np.zeros((8, 8), bool)).any()


def test_nothing_vanishes_and_nothing_breaks():
    """Dots, even squares and two-cell diagonals are where thinning rules (Zhang and Suen's) lose whole strokes."""
    square, diagonal = np.zeros((12, 12), bool), np.zeros((40, 40), bool)
    square[4:6, 4:6] = True
    diagonal[np.arange(38), np.arange(38)] = diagonal[np.arange(38), np.arange(38) + 1] = True
    assert 1 <= skeleton(square).sum() <= 2 and skeleton(disc()).any()
    assert skeleton(diagonal).sum() > 30 and ndimage.label(skeleton(diagonal), np.ones((3, 3)))[1] == 1


def test_distance_is_one_in_the_middle_and_counts_from_the_edge():
    strip = np.zeros((9, 40), bool)
    strip[2:7] = True
    assert distance(strip)[:, 20].tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0, 0])
    assert not distance(np.zeros((8, 8), bool)).any()


def test_filling_undoes_an_outline_hole_included():
    """The even-odd rule: a ring drawn by two lines is a ring, an island in its hole is ink again."""
    ring = disc(96, 40) & ~disc(96, 25)
    shape = ring | disc(96, 8)
    assert np.array_equal(filled(outline(shape)), shape)
    two = disc(96, 15, (30, 30)) | disc(96, 15, (65, 65))
    assert np.array_equal(filled(outline(two)), two)


def test_a_solid_shape_is_not_filled():
    ring = disc(96, 40) & ~disc(96, 25)
    assert np.array_equal(filled(ring), ring)
    assert not filled(np.zeros((8, 8), bool)).any()


def test_an_open_line_encloses_nothing():
    line = outline(disc())
    line[:, 32:34] = False
    assert np.array_equal(filled(line), line)


def test_the_falloff_is_straight():
    mask = torch.zeros(64, 64)
    mask[:, :10] = 1
    assert distance_falloff(mask)[0, 8:16].tolist() == [1, 1, 0.75, 0.5, 0.25, 0, 0, 0]
    assert not distance_falloff(torch.zeros(64, 64)).any()


@pytest.mark.parametrize("inverted", [False, True])
def test_ink_is_found_in_either_polarity(inverted: bool):
    glyph = torch.from_numpy(disc())
    picture = torch.where(glyph == inverted, 0.9, 0.2)[..., None].expand(-1, -1, 3)
    assert torch.equal(ink(picture), glyph)
    assert not ink(torch.full((8, 8, 3), 0.5)).any()


def test_ink_is_found_by_its_brightness_as_the_eye_sees_it():
    """Yellow on cyan: the mean of their channels is one. A failure means that one node sees a glyph, another none."""
    glyph = torch.from_numpy(disc())
    yellow, cyan = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.0, 1.0, 1.0])
    picture = torch.where(glyph[..., None], yellow, cyan)
    assert torch.equal(ink(picture), glyph)
    masks = [from_picture(p[None], (64, 64)) for p in (picture, glyph.float()[..., None])]
    assert torch.equal(masks[0] >= 0.5, masks[1] >= 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_mask_and_picture_of_a_glyph_give_the_same_map(kind: str):
    glyph = torch.from_numpy(disc()).float()
    picture = (1 - glyph)[None, ..., None].expand(-1, -1, -1, 3)
    from_mask = structure_map(kind, None, torch.stack([glyph, glyph]))
    assert from_mask.shape == (2, 64, 64, 3) and 0 < from_mask.mean() < 1 and from_mask.max() == 1
    assert torch.equal(from_mask[:1], structure_map(kind, picture)) or kind == "canny-cv2"


def test_transparency_is_white_paper():
    """A failure means that a cut-out glyph, black under its alpha, is a black square."""
    glyph = torch.from_numpy(disc()).float()
    page = torch.cat([torch.zeros(1, 64, 64, 3), glyph[None, ..., None]], -1)
    picture = (1 - glyph)[None, ..., None].expand(-1, -1, -1, 3)
    for kind in KINDS:
        assert torch.equal(structure_map(kind, page), structure_map(kind, picture))


def test_nonsense_is_refused():
    with pytest.raises(ImageError, match="connect a MASK or an IMAGE"):
        structure_map("fill")
    with pytest.raises(ImageError, match="no structure map 'sobel'"):
        structure_map("sobel", torch.zeros(1, 8, 8, 3))
