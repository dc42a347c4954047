"""Makes a clean mask from a picture of a glyph: ink is separated from paper, scaled and padded, never distorted."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ImageError, check_choice
from ..images import LEAST_CONTRAST, grey, rgb
from .seals import seal_mask

if TYPE_CHECKING:
    from torch import Tensor

INVERTS = ("auto", "off", "on")
SEALS = ("remove", "keep")
_LEAST_SIDE_WITH_GRAIN = 64
_SHADOW = 0.85  # of the brightest paper; where paper is darker there is a shadow
_FITTED = 64  # the paper's surface is fitted to about this many squared pixels


def from_picture(
    image: Tensor,
    size: tuple[int, int],
    *,
    threshold: float | None = None,
    invert: str = "auto",
    margin: float = 0.1,
    seals: str = "remove",
    say: Callable[[str], object] = lambda _: None,
) -> Tensor:
    """The glyph in every picture as a mask (B, H, W) in 0..1, with its bounding box centred inside the margin.

    image: (B, h, w, 3 or 4) in 0..1, transparency over white. size: height and width in pixels.
    threshold: grey in 0..1 that separates ink from paper; None computes it (Otsu), without a shadow on light paper.
    invert: "off" takes the dark side as ink, "on" the light side, "auto" the side that touches the border less.
    margin: fraction of the shorter side, 0..0.45. seals: "remove" takes a seal (see seals.py) as paper, "keep" as ink.
    say: gets a sentence if a seal was removed. Raises ImageError.
    """
    import torch

    check_choice("way to invert", invert, INVERTS, ImageError)
    check_choice("treatment of seals", seals, SEALS, ImageError)
    if not 0 <= margin <= 0.45:
        raise ImageError(f"The margin is {margin:g}; it must be 0 to 0.45 of the shorter side.")
    if min(size) < 1 or image.ndim != 4 or 0 in image.shape:
        raise ImageError(
            f"The picture {tuple(image.shape)} or the canvas {size} is empty; each side needs a pixel."
        )
    fields = (
        _field(rgb(picture).cpu(), threshold, invert, say if seals == "remove" else None) for picture in image
    )
    return torch.stack([_placed(field, size, margin * min(size)) for field in fields])


def ink(picture: Tensor) -> Tensor:
    """Where the ink is, (H, W) bool, in a picture (H, W, C) in 0..1: the side of Otsu's grey that touches the border
    less. Nothing in a picture of one colour."""
    import torch

    shade = grey(rgb(picture)).cpu()
    if float(shade.max() - shade.min()) < LEAST_CONTRAST:
        return torch.zeros(shade.shape, dtype=torch.bool)
    dark = shade < otsu(shade)
    return ~dark if _is_paper(dark) else dark


def _field(
    picture: Tensor, threshold: float | None, invert: str, say: Callable[[str], object] | None
) -> Tensor:
    """How much darker (or lighter, for light ink) than the threshold each pixel is, (H, W): positive is ink.

    say: what tells that a seal was removed; None removes none.
    """
    shade = grey(picture)
    if float(shade.max() - shade.min()) < LEAST_CONTRAST:
        raise ImageError("The picture is of one colour; there is no glyph to find in it.")
    level = otsu(shade) if threshold is None else threshold
    if threshold is None and invert != "on":
        picture, shade, level = _lit_evenly(picture, shade, level)
    field = level - shade
    if invert == "on" or (invert == "auto" and _is_paper(field > 0)):
        field = -field
    glyph = field > 0
    if say and bool(glyph.any()) and not bool(glyph.all()):
        seal = seal_mask(picture, glyph)
        field = field.masked_fill(seal, -float(field.abs().max()))
        if share := round(float((seal & glyph).sum() / glyph.sum()) * 100):
            say(
                f"Left out as a seal, by its colour: {share} % of the ink. Set seals to keep if it belongs there."
            )
    field = _without_specks(field)
    glyph = field > 0
    if not bool(glyph.any()) or bool(glyph.all()):
        raise ImageError(
            f"At a threshold of {level:.2f} the picture is all {'ink' if bool(glyph.all()) else 'paper'}; "
            f"its greys run from {float(shade.min()):.2f} to {float(shade.max()):.2f}. Choose auto or a value between."
        )
    return field


def _lit_evenly(picture: Tensor, shade: Tensor, level: float) -> tuple[Tensor, Tensor, float]:
    """Divides out a soft shadow on light paper: the picture (H, W, 3), its greys, Otsu's grey; else what was given."""
    dark = shade < level
    if bool(dark.all()) or _is_paper(dark):
        return picture, shade, level
    paper = _paper(picture, dark)
    brightness = grey(paper)
    if float(brightness.min()) > _SHADOW * float(brightness.max()):
        return picture, shade, level
    picture = (picture / paper * float(brightness.max())).clamp(0, 1)
    shade = grey(picture)
    return picture, shade, otsu(shade)


def _paper(picture: Tensor, ink: Tensor) -> Tensor:
    """The paper's colour at every pixel, (H, W, 3): the quadratic surface nearest to what is not ink, (H, W) bool."""
    import torch

    height, width = ink.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)  # (H, W, 6)
    step = max(1, height // _FITTED), max(1, width // _FITTED)
    free = ~ink[:: step[0], :: step[1]]
    left, right = (t[:: step[0], :: step[1]][free] for t in (terms, picture))
    if len(left) < 4 * terms.shape[-1]:  # too little paper to know its shade: one colour
        return picture[~ink].mean(dim=0).expand_as(picture)
    return (terms @ torch.linalg.lstsq(left, right, driver="gelsd").solution).clamp(0.02, 1)


def otsu(shade: Tensor) -> float:
    """The grey that divides the picture into two classes with the greatest variance between them (Otsu, 1979).

    If several levels are equally good, the middle one is taken.
    """
    import torch

    low, high = float(shade.min()), float(shade.max())
    counts = torch.histc(shade, 256, low, high).double()
    share = counts.cumsum(0) / counts.sum()
    mean = (counts * torch.arange(256)).cumsum(0) / counts.sum()
    between = (mean[-1] * share - mean) ** 2 / (share * (1 - share)).clamp_min(1e-12)
    best = (between[:-1] >= between[:-1].max() * (1 - 1e-9)).nonzero().double().mean()
    return low + (high - low) * (float(best) + 1) / 256


def _is_paper(dark: Tensor) -> bool:
    """Whether the dark side is the paper: it covers more of the border or, if equal, more of the picture."""
    border = [dark[0], dark[-1], dark[:, 0], dark[:, -1]]
    share = sum(float(side.float().mean()) for side in border) / 4
    return share > 0.5 if share != 0.5 else float(dark.float().mean()) > 0.5


def _without_specks(field: Tensor) -> Tensor:
    """Removes specks and pinholes of one or two pixels, such as the grain of a scan.

    Strokes one pixel wide stay. A picture smaller than 64 pixels is not changed, because each pixel matters there.
    """
    import torch
    import torch.nn.functional as F

    if min(field.shape) < _LEAST_SIDE_WITH_GRAIN:
        return field
    for _ in ("specks", "pinholes"):
        ink = (field > 0).float()[None, None]
        crowded = (F.avg_pool2d(ink, 3, 1, 1) > 2.5 / 9).float()  # three of nine
        near = F.max_pool2d(crowded, 3, 1, 1)[0, 0] > 0
        field = -torch.where((field > 0) & ~near, -field, field)
    return field


def _placed(field: Tensor, size: tuple[int, int], margin: float) -> Tensor:
    """The mask of a field: its bounding box, scaled with its aspect ratio and centred on the canvas."""
    room = (size[0] - 2 * margin, size[1] - 2 * margin)
    (top, bottom), (left, right) = _ink_box(field > 0)
    scale = min(room[0] / (bottom - top), room[1] / (right - left))
    if scale <= 1:
        return _smaller(_soft(field)[top:bottom, left:right], size, scale)
    middle = ((top + bottom) / 2, (left + right) / 2)
    mask = _larger(field, size, scale, middle)
    box = _ink_box(
        mask >= 0.5
    )  # the box is now known more precisely than in the picture's pixels, so fit again
    y, x = ((first + last - side) / 2 / scale for (first, last), side in zip(box, size))
    middle = (middle[0] + y, middle[1] + x)
    scale *= min(space / (last - first) for space, (first, last) in zip(room, box))
    return _larger(field, size, scale, middle)


def _ink_box(ink: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first row with ink and the row after the last, and the same for columns."""
    rows, columns = (ink.any(dim=side).nonzero() for side in (1, 0))
    return (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)


def _smaller(mask: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """The mask scaled down with antialiasing, in the centre of the canvas."""
    import torch.nn.functional as F

    inner = [max(1, min(side, round(length * scale))) for side, length in zip(size, mask.shape)]
    glyph = F.interpolate(mask[None, None], inner, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    return F.pad(glyph, (left, size[1] - inner[1] - left, top, size[0] - inner[0] - top))


def _larger(field: Tensor, size: tuple[int, int], scale: float, middle: tuple[float, float]) -> Tensor:
    """The mask of the field enlarged around `middle` (y, x). The field is thresholded after scaling, for smooth edges.

    Everything outside the picture is paper.
    """
    import torch
    import torch.nn.functional as F

    field = F.pad(field, (1, 1, 1, 1), value=-float(field.abs().max()))
    axes = []
    for side, length, centre in zip(size, field.shape, middle):
        at = (torch.arange(side) + 0.5 - side / 2) / scale + centre + 1  # in the padded picture's pixels
        axes.append(at / length * 2 - 1)
    y, x = torch.meshgrid(*axes, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None]
    larger = F.grid_sample(
        field[None, None], grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return _soft(larger[0, 0])


def _soft(field: Tensor) -> Tensor:
    """A mask with an edge one pixel wide, from a field that is 0 at the edge."""
    import torch
    import torch.nn.functional as F

    padded = F.pad(field[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    across, down = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    slope = torch.sqrt(across**2 + down**2) / 2  # change of the field over one pixel
    return (field / slope.clamp_min(1e-4) + 0.5).clamp(0, 1)
