"""Compares two masks (H, W) of bool: the wanted glyph (target) and the one in the picture (actual)."""

from __future__ import annotations

from typing import Any

Array = Any

TOLERANCE = 0.005  # of the diagonal: how far an edge may lie from the target's and still count
BAND = 0.05  # of the diagonal: around the target's edge
_SPECK = 1e-4  # of the picture: smaller components and holes are grain


def iou(target: Array, actual: Array) -> float:
    """Intersection over union; 1 for two empty masks."""
    union = (target | actual).sum()
    return float((target & actual).sum() / union) if union else 1.0


def dice(target: Array, actual: Array) -> float:
    """Twice the intersection over the sum of areas; 1 for two empty masks."""
    total = target.sum() + actual.sum()
    return float(2 * (target & actual).sum() / total) if total else 1.0


def covered(part: Array, actual: Array) -> float:
    """The fraction of a mask that another covers; 1 for an empty one.

    Of a skeleton it is the skeleton recall: broken strokes count by their length, not their width.
    """
    return float((part & actual).sum() / part.sum()) if part.any() else 1.0


def boundary(mask: Array) -> Array:
    """The mask's cells next to a cell outside it; the picture's border does not count as outside."""
    from scipy import ndimage

    return mask & ~ndimage.binary_erosion(mask, border_value=1)


def edge_f1(target: Array, actual: Array, tolerance: float = TOLERANCE, band: float | None = None) -> float:
    """Harmonic mean of precision and recall of edge cells, each counting within `tolerance` diagonals of the other.

    band: only actual cells within so many diagonals of the target's edge count for the precision: what is drawn
    elsewhere decorates. 0 if either has no edge, 1 if neither has.
    """
    if not target.any() or not actual.any():
        return float(target.any() == actual.any())
    reach, to_target, to_actual = tolerance * _diagonal(target), _away(target), _away(actual)
    counted = actual if band is None else actual & (to_target <= band * _diagonal(target))
    precision = float((to_target[counted] <= reach).mean()) if counted.any() else 0.0
    recall = float((to_actual[target] <= reach).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def outline_distances(target: Array, actual: Array) -> tuple[float, float]:
    """Chamfer distance (the mean, both ways) and hd95 (95th percentile, the worse way) of the outlines, in diagonals.

    Both are 0 for two empty masks, and 1 if only one has an outline; a mask that fills the picture has none.
    """
    import numpy as np

    if not target.any() and not actual.any():
        return 0.0, 0.0
    one, other = boundary(target), boundary(actual)
    if not one.any() or not other.any():
        return 1.0, 1.0
    ways = [_away(one)[other] / _diagonal(target), _away(other)[one] / _diagonal(target)]
    return float(sum(way.mean() for way in ways) / 2), float(max(np.percentile(way, 95) for way in ways))


def topology(target: Array, actual: Array) -> int:
    """Difference of the numbers of components and holes; grain is not counted."""
    (parts, holes), (other_parts, other_holes) = _counts(target), _counts(actual)
    return abs(parts - other_parts) + abs(holes - other_holes)


def _away(mask: Array) -> Array:
    """Each cell's distance to the nearest cell of the mask."""
    from scipy import ndimage

    return ndimage.distance_transform_edt(~mask)


def _diagonal(mask: Array) -> float:
    return float((mask.shape[0] ** 2 + mask.shape[1] ** 2) ** 0.5)


def _counts(mask: Array) -> tuple[int, int]:
    """Components (over eight neighbours) and holes (over four)."""
    import numpy as np

    padded = np.pad(mask, 1)
    outside_and_holes = _components(~padded, np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]]))
    return _components(padded, np.ones((3, 3))), outside_and_holes - 1


def _components(mask: Array, neighbours: Array) -> int:
    import numpy as np
    from scipy import ndimage

    labels, _ = ndimage.label(mask, neighbours)
    sizes = np.bincount(labels.ravel())[1:]
    return int((sizes > _SPECK * mask.size).sum())
