"""All measures of a picture, and of control pictures that should win or lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, check_choice
from ..glyph.structure_map import edges, skeleton
from ..images import batch_of, check_same_shape, grey, rgb
from .pictures import colour_distance, ssim
from .segment import glyph_mask, otsu_masks
from .shapes import BAND, covered, dice, edge_f1, iou, outline_distances, topology

if TYPE_CHECKING:
    from torch import Tensor

Array = Any
Scores = dict[str, float]

_STYLE_SCALE = 20.0  # Lab units at which the similarity of colours is 0.5

# The measures by which pictures can be ranked; greater is better.
RANKS: Mapping[str, Callable[[Scores], float]] = {
    "structure": lambda s: (s["iou"] + s["skeleton_recall"] + s["edge_f1"]) / 3,
    "style": lambda s: _STYLE_SCALE / (_STYLE_SCALE + s["colour_distance"]),
    "both": lambda s: (RANKS["structure"](s) + RANKS["style"](s)) / 2,
}


class GlyphTarget:
    """A glyph (H, W) of bool and what is computed of it once: its skeleton, itself in black on white, its edges."""

    def __init__(self, mask: Array):
        self.mask = mask
        self.bones = skeleton(mask)
        self.drawn = black_on_white(mask)
        self.edges = edges(self.drawn)


def score(picture: Array, glyph: GlyphTarget, style: Array | None = None) -> Scores:
    """The measures of a picture (H, W, 3) in 0..1 against a glyph and, for its colours, a style picture (h, w, 3)."""
    target, actual, lines = glyph.mask, glyph_mask(picture, glyph.mask), edges(picture)
    chamfer, hd95 = outline_distances(target, actual)
    scores = {
        "iou": iou(target, actual),
        "dice": dice(target, actual),
        "iou_otsu": max(iou(target, side) for side in otsu_masks(picture)),
        "skeleton_recall": covered(glyph.bones, actual),
        "edge_f1": edge_f1(glyph.edges, lines, band=BAND),
        "edge_f1_everywhere": edge_f1(glyph.edges, lines),
        "chamfer": chamfer,
        "hd95": hd95,
        "topology": float(topology(target, actual)),
        "ssim_grey": ssim(grey(picture), grey(glyph.drawn)),
        "ssim_edges": ssim(lines.astype(float), glyph.edges.astype(float)),
        "ssim_masks": ssim(actual.astype(float), target.astype(float)),
    }
    if style is not None:
        scores["colour_distance"] = colour_distance(picture, style)
    return scores


def leak(style: Array, target: Array) -> float:
    """How much of the glyph is already in the style picture: intersection over union of the glyph segmented in it.

    The style picture is stretched to the target's shape, as the eye would compare them.
    """
    return iou(target, glyph_mask(_resized(style, target.shape), target))


def controls(target: Array) -> dict[str, Array]:
    """Control pictures (H, W, 3) to compare scores with: the glyph itself, and three that must lose.

    A blank, the glyph turned by 180 degrees (a wrong glyph of the same ink), the glyph shifted by a 32nd of the side.
    """
    import numpy as np

    step = max(1, round(max(target.shape) / 32))
    shapes = {
        "itself": target,
        "blank": np.zeros_like(target),
        "turned": target[::-1, ::-1],
        "shifted": np.roll(target, step, (0, 1)),
    }
    return {name: black_on_white(shape) for name, shape in shapes.items()}


def black_on_white(mask: Array) -> Array:
    """A picture (H, W, 3) of a mask (H, W)."""
    import numpy as np

    return np.repeat(np.where(mask, 0.0, 1.0)[..., None], 3, -1)


def score_batch(
    images: Tensor,
    mask: Tensor,
    style: Tensor | None = None,
    done: Callable[[int], None] = lambda number: None,
) -> dict[str, Any]:
    """{"pictures": scores of each of IMAGE (B, H, W, C), "controls": scores by the control's name, "leak"}.

    mask: MASK (h, w) or (B, h, w), its first taken, scaled to the pictures. done: called with the number of pictures
    that are scored, after each. Raises ImageError on an empty glyph.
    """
    glyph, like, scores = _scored(images, mask, style, done)
    result = {
        "pictures": scores,
        "controls": {name: score(picture, glyph, like) for name, picture in controls(glyph.mask).items()},
    }
    return result if like is None else {**result, "leak": leak(like, glyph.mask)}


def best_of(
    images: Tensor,
    mask: Tensor,
    style: Tensor | None,
    by: str,
    count: int,
    done: Callable[[int], None] = lambda number: None,
) -> tuple[Tensor, dict[str, Any]]:
    """The `count` best of IMAGE (B, H, W, C), best first, and the scores of all with their ranks.

    Raises ImageError on an empty glyph, an unknown measure, or one of the style without a style picture.
    """
    check_choice("measure", by, RANKS, ImageError)
    if by != "structure" and style is None:
        raise ImageError(f"To rank by {by}, connect the style picture; or rank by structure.")
    _, _, scores = _scored(images, mask, style, done)
    values = [RANKS[by](s) for s in scores]
    order = sorted(range(len(values)), key=lambda i: -values[i])
    return images[order[:count]], {"rank_by": by, "best_first": order, "values": values, "pictures": scores}


def _scored(
    images: Tensor, mask: Tensor, style: Tensor | None, done: Callable[[int], None]
) -> tuple[GlyphTarget, Array | None, list[Scores]]:
    """The glyph, the style picture (h, w, 3) and each picture's scores; transparency counts as white."""
    glyph = GlyphTarget(target_of(mask, (images.shape[1], images.shape[2])))
    like = None if style is None else _pixels(style[0])
    scores = []
    for image in images:
        scores.append(score(_pixels(image), glyph, like))
        done(len(scores))
    return glyph, like, scores


def _pixels(image: Tensor) -> Array:
    return rgb(image).double().cpu().numpy()


def target_of(mask: Tensor, size: tuple[int, int]) -> Array:
    """The glyph (H, W) of bool. Raises ImageError if nothing or all is ink, or if the mask has another aspect ratio."""
    import torch.nn.functional as F

    mask = batch_of(mask)[0]
    if tuple(mask.shape) != size:
        check_same_shape(mask, size)
        mask = F.interpolate(mask.float()[None, None], size, mode="bilinear", antialias=True)[0, 0]
    target = (mask >= 0.5).cpu().numpy()
    if min(size) < 16 or not target.any() or target.all():
        raise ImageError("The glyph's mask is empty, full or tiny; connect the mask of the Glyph node.")
    return target


def _resized(picture: Array, size: tuple[int, int]) -> Array:
    import torch
    import torch.nn.functional as F

    tensor = torch.from_numpy(picture).movedim(-1, 0)[None]
    return F.interpolate(tensor, size, mode="bilinear", antialias=True)[0].movedim(0, -1).numpy()
