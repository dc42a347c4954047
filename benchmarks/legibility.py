"""Legibility of a character in a picture: its rank among the characters that look most like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rechar_core.metrics.shapes import iou

Array = Any

_SIDE = 64  # cells that masks are compared at: shapes, not pixels


def rivals(target: Array, candidates: Mapping[str, Array], count: int = 20) -> list[str]:
    """The `count` candidates that look most like the target (H, W), the most alike first.

    Masks are compared by their overlap on a coarse grid; a candidate equal to the target is none.
    """
    small = coarse(target)
    likeness = {name: _overlap(small, coarse(mask)) for name, mask in candidates.items()}
    others = [name for name, value in likeness.items() if value < 1]
    return sorted(others, key=lambda name: -likeness[name])[:count]


def rank(found: Array, target: Array, others: Sequence[Array]) -> int:
    """The place of the target among the others by overlap with what was found; 1 is the best, ties count against it."""
    if not found.any():
        return len(others) + 1
    own = iou(target, found)
    return 1 + sum(iou(other, found) >= own for other in others)


def coarse(mask: Array) -> Array:
    """A mask scaled down to at most 64 x 64 cells: the fraction of ink in each."""
    import torch
    import torch.nn.functional as F

    size = (min(_SIDE, mask.shape[0]), min(_SIDE, mask.shape[1]))
    return F.adaptive_avg_pool2d(torch.from_numpy(mask.astype("float32"))[None, None], size)[0, 0].numpy()


def _overlap(one: Array, other: Array) -> float:
    """Intersection over union of fractions of ink."""
    import numpy as np

    return float(np.minimum(one, other).sum() / max(np.maximum(one, other).sum(), 1e-12))
