"""Seals in scans of calligraphy: drawn scans whose ink is known."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("uharfbuzz")
from test_glyph import CJK, iou

from rechar_core.errors import ImageError
from rechar_core.glyph import from_picture, open_face, render

SIDE = 320
INK, PAPER, RED = (0.12, 0.1, 0.09), (0.95, 0.92, 0.84), (0.78, 0.13, 0.1)


def drawn(text, size, at):
    """The text's mask of `size`, at (y, x) of an empty page."""
    page = torch.zeros(SIDE, SIDE)
    page[at[0] : at[0] + size, at[1] : at[1] + size] = render(
        text, [open_face(CJK)], (size, size), margin=0
    ).mask
    return page


def scan(text="永", seal="square", place=(230, 235), ink=INK, colour=RED, shadow=0.0, seed=0):
    """(1, H, W, 3): fibres and grain of paper, a shadow from one corner, a seal."""
    random = torch.Generator().manual_seed(seed)
    grain = torch.randn(SIDE, SIDE, generator=random) * 0.02
    fibres = torch.nn.functional.avg_pool2d(torch.randn(1, 1, SIDE, SIDE + 24, generator=random), (1, 25), 1)[
        0, 0
    ]
    paper = torch.tensor(PAPER) + (grain + 0.05 * fibres)[..., None]
    mask = drawn(text, 190, (40, 40))
    page = torch.lerp(paper, torch.tensor(ink) + grain[..., None], mask[..., None])
    if seal:
        stamp = torch.zeros(SIDE, SIDE)
        if seal == "square":  # white characters on red
            stamp[place[0] : place[0] + 60, place[1] : place[1] + 60] = 1
            stamp -= drawn("印", 48, (place[0] + 6, place[1] + 6))
        else:  # red characters on paper
            stamp = drawn("印", 60, place)
        page = page * torch.lerp(
            torch.ones(3), torch.tensor(colour), stamp[..., None]
        )  # paste lets black through
    y, x = torch.meshgrid(torch.linspace(0, 1, SIDE), torch.linspace(0, 1, SIDE), indexing="ij")
    page = page * (1 - shadow * ((x + y) / 2).clamp(0, 1) ** 2)[..., None]
    blurred = torch.nn.functional.avg_pool2d(page.permute(2, 0, 1)[None], 3, 1, 1, count_include_pad=False)
    return blurred.permute(0, 2, 3, 1).clamp(0, 1)


def clean(text="永"):
    return render(text, [open_face(CJK)], (256, 256), margin=0.1).mask


@pytest.mark.parametrize("shadow", [0.0, 0.4])
@pytest.mark.parametrize("seal", ["square", "lines"])
@pytest.mark.parametrize(
    ("ink", "colour"),
    [(INK, RED), ((0.35, 0.3, 0.25), (0.75, 0.25, 0.15)), (INK, (0.1, 0.2, 0.7))],
    ids=["red", "faded", "blue"],
)
def test_a_seal_beside_the_character_is_no_ink(seal, shadow, ink, colour):
    found = from_picture(scan(seal=seal, ink=ink, colour=colour, shadow=shadow), (256, 256))[0]
    assert iou(found, clean()) > 0.93
    kept = from_picture(scan(seal=seal, ink=ink, colour=colour, shadow=shadow), (256, 256), seals="keep")[0]
    assert iou(kept, clean()) < 0.5  # another bounding box


@pytest.mark.parametrize("seal", ["square", "lines"])
def test_a_seal_over_a_stroke_leaves_the_stroke(seal):
    """What is black before and after is compared: the seal covers some of it."""
    picture = scan(seal=seal, place=(175, 185))
    black = picture[0].amax(dim=-1) < 0.45
    alone = torch.where(black, 0.1, 0.9)[None, ..., None].expand(1, SIDE, SIDE, 3)
    found, wanted = (from_picture(p, (256, 256))[0] for p in (picture, alone))
    assert iou(found, wanted) > 0.93


@pytest.mark.parametrize("ink", [INK, RED, (0.1, 0.2, 0.7)], ids=["black", "red", "blue"])
def test_ink_of_one_colour_stays_whatever_the_colour(ink):
    picture = scan(seal="", ink=ink, shadow=0.3)
    found = from_picture(picture, (256, 256))[0]
    assert torch.equal(found, from_picture(picture, (256, 256), seals="keep")[0])
    assert iou(found, clean()) > 0.93


def test_black_writing_stays_beside_a_larger_seal():
    """The stroke covers less than the seal."""
    picture = scan(text="一")
    assert iou(from_picture(picture, (256, 256))[0], clean("一")) > 0.85


def test_a_seal_is_told_and_one_colour_is_not():
    said = []
    from_picture(scan(), (64, 64), say=said.append)
    assert len(said) == 1 and "Left out as a seal, by its colour: " in said[0]
    from_picture(scan(seal=""), (64, 64), say=said.append)
    from_picture(scan(), (64, 64), seals="keep", say=said.append)
    assert len(said) == 1


def test_a_rubbing_and_a_manual_threshold_lose_their_seal_too():
    dark = 1 - scan(seal="", ink=INK)
    dark[:, 230:290, 235:295] = torch.tensor(RED)
    assert iou(from_picture(dark, (256, 256))[0], clean()) > 0.9
    assert iou(from_picture(scan(), (256, 256), threshold=0.5)[0], clean()) > 0.9


def test_an_unknown_treatment_is_refused():
    with pytest.raises(ImageError, match="treatment of seals"):
        from_picture(scan(), (64, 64), seals="drop")
