"""The measures in closed form, against controls, and against the traps that SSIM alone falls into."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from benchmarks import legibility
from rechar_core.errors import ImageError
from rechar_core.glyph import find, known, open_face, render
from rechar_core.glyph.structure_map import canny, skeleton
from rechar_core.metrics import pictures, segment, shapes
from rechar_core.metrics.report import chart, to_json
from rechar_core.metrics.score import GlyphTarget, best_of, black_on_white, controls, leak, score, score_batch

PUBLISHED_SSIM = 0.8690


def glyph(text: str, side: int) -> np.ndarray:
    fonts = known()
    drawing = render(text, [open_face(find("ReChar CJK", fonts))], (side, side), fonts=fonts)
    return (drawing.mask >= 0.5).numpy()


@pytest.fixture(scope="module")
def luo() -> np.ndarray:
    return glyph("羅", 160)


def box(top: int, left: int, height: int, width: int, side: int = 64) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def textured(mask: np.ndarray, ink: tuple[float, ...], paper: tuple[float, ...], seed: int = 0) -> np.ndarray:
    """A glyph in one grainy colour on another."""
    draw, size = np.random.default_rng(seed), (*mask.shape, 3)
    fine = ndimage.gaussian_filter(draw.standard_normal(size), (1, 1, 0))
    coarse = ndimage.gaussian_filter(draw.standard_normal(size), (2, 2, 0)) * 2
    colours = np.where(mask[..., None], np.array(ink) + 0.15 * fine, np.array(paper) + 0.15 * coarse)
    return np.clip(colours, 0, 1)


WOOD, GRASS = (0.5, 0.25, 0.1), (0.75, 0.85, 0.6)


# Shapes in closed form


def test_overlap_of_two_boxes():
    one, two = box(0, 0, 10, 20), box(0, 10, 10, 20)
    assert shapes.iou(one, two) == pytest.approx(1 / 3)
    assert shapes.dice(one, two) == pytest.approx(1 / 2)
    nothing = box(0, 0, 0, 0)
    assert shapes.iou(nothing, nothing) == shapes.dice(nothing, nothing) == 1
    assert shapes.iou(one, nothing) == shapes.dice(one, nothing) == 0


def test_a_broken_stroke_loses_its_length_and_a_thin_one_nothing():
    stroke = box(28, 4, 9, 56)
    thin, broken = box(31, 4, 3, 56), stroke & ~box(0, 20, 64, 14)
    bones = skeleton(stroke)
    assert shapes.covered(bones, thin) == 1
    assert shapes.covered(bones, broken) == pytest.approx(1 - 14 / 48, abs=0.03)
    assert shapes.iou(stroke, thin) == pytest.approx(1 / 3)


def test_edges_count_within_the_tolerance_and_decoration_outside_the_band_does_not():
    line = box(10, 0, 1, 64)
    diagonal = 64 * math.sqrt(2)
    assert shapes.edge_f1(line, box(12, 0, 1, 64), tolerance=2.01 / diagonal) == 1
    assert shapes.edge_f1(line, box(13, 0, 1, 64), tolerance=2.01 / diagonal) == 0
    decorated = line | box(50, 0, 3, 64)
    assert shapes.edge_f1(line, decorated, tolerance=0.01) == pytest.approx(2 * 0.25 / 1.25)
    assert shapes.edge_f1(line, decorated, tolerance=0.01, band=0.1) == 1
    assert shapes.edge_f1(line, box(0, 0, 0, 0)) == 0


def test_outline_distances_of_a_shift():
    one, two = box(10, 10, 30, 1), box(10, 14, 30, 1)
    diagonal = 64 * math.sqrt(2)
    nothing, everything = box(0, 0, 0, 0), box(0, 0, 64, 64)
    assert shapes.outline_distances(one, two) == pytest.approx([4 / diagonal] * 2)
    assert shapes.outline_distances(one, one) == shapes.outline_distances(nothing, nothing) == (0, 0)
    for other in (nothing, everything):
        assert shapes.outline_distances(one, other) == shapes.outline_distances(other, one) == (1, 1)


def test_topology_counts_parts_and_holes_without_grain():
    ring = box(8, 8, 48, 48) & ~box(20, 20, 24, 24)
    assert shapes.topology(ring, box(8, 8, 48, 48)) == 1
    assert shapes.topology(ring, ring | box(30, 30, 4, 4)) == 1
    assert shapes.topology(ring, box(8, 8, 4, 4) | box(30, 30, 4, 4)) == 2
    big = np.kron(ring, np.ones((4, 4), bool))
    grainy = big.copy()
    grainy[0, 0] = True
    assert shapes.topology(big, grainy) == 0


# Pictures in closed form


def test_ssim_of_flat_pictures_is_the_likeness_of_their_means():
    one, two = np.full((32, 32), 0.25), np.full((32, 32), 0.75)
    c1 = 0.01**2
    expected = (2 * 0.25 * 0.75 + c1) / (0.25**2 + 0.75**2 + c1)
    assert pictures.ssim(one, two) == pytest.approx(expected)
    noise = np.random.default_rng(0).random((32, 32))
    assert pictures.ssim(noise, noise) == pytest.approx(1)
    assert pictures.ssim(noise, 1 - noise) < 0


def test_ssim_has_the_published_window():
    """Eleven cells of a Gaussian of sigma 1.5: an impulse six cells away does not reach."""
    one, two = np.zeros((32, 32)), np.zeros((32, 32))
    two[16, 16] = 1
    weights = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    kernel = np.outer(weights, weights) / weights.sum() ** 2
    c1, c2 = 0.01**2, 0.03**2
    cells = [c1 / (k**2 + c1) * c2 / (k - k**2 + c2) for k in kernel.ravel()]
    expected = (sum(cells) + 22 * 22 - 121) / 22**2
    assert pictures.ssim(one, two) == pytest.approx(expected, abs=1e-6)


def test_lab_of_known_colours():
    colours = np.array([[1, 1, 1], [0, 0, 0], [1, 0, 0]], float)
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20]]
    assert np.abs(pictures.lab(colours) - expected).max() < 0.1


def test_colour_distance_is_that_of_two_plain_colours_and_blind_to_place():
    draw = np.random.default_rng(0)
    red, grey = np.full((40, 40, 3), (0.8, 0.2, 0.2)), np.full((30, 50, 3), 0.5)
    apart = np.linalg.norm(pictures.lab(red[0, 0]) - pictures.lab(grey[0, 0]))
    assert pictures.colour_distance(red, grey) == pytest.approx(apart, rel=0.02)
    picture = draw.random((40, 40, 3))
    mixed = draw.permutation(picture.reshape(-1, 3)).reshape(40, 40, 3)
    assert pictures.colour_distance(picture, mixed) == pytest.approx(0, abs=1e-9)


# Finding the glyph


@pytest.mark.parametrize(("ink", "paper"), [(WOOD, GRASS), ((0.9, 0.8, 0.3), (0.1, 0.15, 0.3))])
def test_a_textured_glyph_is_found_in_either_polarity(luo: np.ndarray, ink: tuple, paper: tuple):
    picture = textured(luo, ink, paper)
    assert shapes.iou(luo, segment.glyph_mask(picture, luo)) > 0.95
    assert max(shapes.iou(luo, side) for side in segment.otsu_masks(picture)) > 0.9


def test_the_prior_does_not_paint_the_glyph_into_a_picture_without_it(luo: np.ndarray):
    """A failure means that the measure sees what it wishes to see."""
    blank = np.ones((*luo.shape, 3))
    assert not segment.glyph_mask(blank, luo).any()
    wrong = luo[::-1, ::-1]
    assert shapes.iou(wrong, segment.glyph_mask(textured(wrong, WOOD, GRASS), luo)) > 0.95
    noise = np.random.default_rng(0).random((*luo.shape, 3))
    assert shapes.iou(luo, segment.glyph_mask(noise, luo)) < 0.35


# The traps


def test_a_blank_picture_beats_the_published_ssim():
    """Edge maps of 1024 x 1024: the reason why SSIM never stands alone here."""
    target = glyph("羅", 1024)
    edges = canny((black_on_white(target) * 255).astype(np.uint8)).astype(float)
    assert pictures.ssim(edges, np.zeros_like(edges)) > PUBLISHED_SSIM
    turned = canny((black_on_white(target[::-1, ::-1]) * 255).astype(np.uint8)).astype(float)
    assert pictures.ssim(edges, turned) > 0.75


def test_the_measures_that_rank_are_won_by_the_glyph_alone(luo: np.ndarray):
    target = GlyphTarget(luo)
    found = {name: score(picture, target) for name, picture in controls(luo).items()}
    kept = score(textured(luo, WOOD, GRASS), target)
    for measure in ("iou", "dice", "iou_otsu", "skeleton_recall", "edge_f1"):
        assert found["itself"][measure] == 1
        assert found["blank"][measure] == 0
        worst = max(found[name][measure] for name in ("turned", "shifted"))
        assert worst < 0.7 < kept[measure], measure
    assert found["itself"]["chamfer"] == found["itself"]["hd95"] == found["itself"]["topology"] == 0
    assert found["blank"]["ssim_edges"] > found["turned"]["ssim_edges"]  # the trap, in the same table


def test_grey_ssim_punishes_a_noisy_copy_and_the_glyphs_shape_does_not(luo: np.ndarray):
    draw = np.random.default_rng(0)
    copy = np.clip(black_on_white(luo) * 0.6 + 0.2 + 0.2 * draw.standard_normal((*luo.shape, 3)), 0, 1)
    found = score(copy, GlyphTarget(luo))
    assert found["ssim_grey"] < 0.4 and found["iou"] > 0.95 and found["skeleton_recall"] > 0.95


def test_a_leaking_style_picture_is_seen(luo: np.ndarray):
    assert leak(textured(luo, WOOD, GRASS), luo) > 0.9
    assert leak(np.ones((50, 70, 3)), luo) == 0


def test_a_picture_is_ranked_among_the_characters_that_look_most_alike():
    """大 and 犬 differ by a dot, 中 is far; the picture of 犬 reads as 犬, a blank as nothing."""
    masks = {text: glyph(text, 96) for text in "大犬天夫中口日目"}
    dog = masks["犬"]
    near = legibility.rivals(dog, masks, 4)
    assert "犬" not in near and {"大", "天"} <= set(near) and "口" not in near
    others = [masks[name] for name in near]
    found = segment.glyph_mask(textured(dog, WOOD, GRASS), dog)
    assert legibility.rank(found, dog, others) == 1
    assert legibility.rank(masks["大"], dog, others) == 2
    blank = segment.glyph_mask(np.ones((96, 96, 3)), dog)
    assert legibility.rank(blank, dog, others) == 5


# Batches


def test_scores_of_a_batch_and_the_best_of_it(luo: np.ndarray):
    wood, wrong = textured(luo, WOOD, GRASS), textured(luo[::-1, ::-1], WOOD, GRASS)
    blank = np.ones((*luo.shape, 3))
    images = torch.from_numpy(np.stack([blank, wrong, wood])).float()
    mask, style = torch.from_numpy(luo).float(), torch.from_numpy(wrong).float()[None]
    found = json.loads(to_json(score_batch(images, mask, style)))
    assert [s["colour_distance"] < 5 for s in found["pictures"]] == [False, True, True]
    assert set(found["controls"]) == {"itself", "blank", "turned", "shifted"} and found["leak"] < 0.6
    assert chart(found, images, mask).shape[-1] == 3
    best, ranks = best_of(images, mask[None], None, "structure", 2)
    assert ranks["best_first"] == [2, 1, 0] and torch.equal(best, images[[2, 1]])
    assert best_of(images, mask, style, "style", 1)[1]["best_first"][-1] == 0
    assert best_of(images, mask, style, "both", 9)[0].shape[0] == 3


def test_transparency_counts_as_white(luo: np.ndarray):
    """ReChar Word's page: ink on nothing, which is black underneath. A failure means it is scored on black."""
    mask = torch.from_numpy(luo).float()
    page = torch.cat([torch.zeros(1, *luo.shape, 3), mask[None, ..., None]], -1)
    (scores,) = score_batch(page, mask, page)["pictures"]
    assert scores["iou"] > 0.99 and scores["ssim_grey"] > 0.99 and scores["colour_distance"] == 0
    assert chart(score_batch(page, mask), page, mask).shape[-1] == 3
    assert torch.equal(best_of(page, mask, None, "structure", 1)[0], page)


def test_each_picture_is_told_when_it_is_done(luo: np.ndarray):
    """A failure means no progress and no cancel within a batch."""
    images, mask, seen = torch.ones(2, *luo.shape, 3), torch.from_numpy(luo).float(), []
    score_batch(images, mask, None, seen.append)
    best_of(images, mask, None, "structure", 1, seen.append)
    assert seen == [1, 2, 1, 2]


def test_nonsense_is_refused(luo: np.ndarray):
    images, mask = torch.ones(1, 64, 64, 3), torch.from_numpy(luo).float()
    with pytest.raises(ImageError, match="connect the style picture"):
        best_of(images, mask, None, "style", 1)
    with pytest.raises(ImageError, match="mask is empty"):
        score_batch(images, torch.zeros(64, 64))
    with pytest.raises(ImageError, match="no measure 'beauty'"):
        best_of(images, mask, None, "beauty", 1)
