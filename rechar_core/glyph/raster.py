"""Anti-aliased coverage of polygons, by the non-zero winding rule, so that overlapping contours make no holes.

Every pixel row is sampled with SCANLINES lines; the covered length along a line is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

SCANLINES = 16
_CAP_ERROR = 0.02  # pixels by which a polygonal round cap may miss the circle


def coverage(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The covered fraction of every pixel, (H, W) float32 in 0..1.

    polygons: arrays (n, 2) or stacks (k, n, 2) of x, y in pixels, y downwards, closed from last to first point.
    Anything outside the canvas is cut off.
    """
    import numpy as np

    height, width = size
    rows, x, signs = _crossings(polygons, height * SCANLINES)
    order = np.lexsort((x, rows))
    rows, x = rows[order], np.clip(x[order], 0, width)
    inside = np.cumsum(signs[order]) != 0  # the winding of a closed line is 0 again at the end of its row
    change = np.diff(inside.astype(np.int8), prepend=np.int8(0))
    edge = change != 0
    weights, x, column = change[edge] / SCANLINES, x[edge], np.floor(x[edge]).astype(np.int64)
    at = rows[edge] // SCANLINES * (width + 2) + column
    part = x - column
    length = height * (width + 2)
    steps = np.bincount(at, weights * (1 - part), length) + np.bincount(at + 1, weights * part, length)
    filled = np.cumsum(steps.reshape(height, width + 2), axis=1)[:, :width]
    return np.clip(np.round(filled, 6), 0, 1).astype(np.float32)


def _crossings(polygons: Sequence[np.ndarray], lines: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where edges cross the scan lines: line number, x, and +1 downwards or -1 upwards."""
    import numpy as np

    starts = [polygon.reshape(-1, 2) for polygon in polygons]
    ends = [np.roll(polygon, -1, axis=-2).reshape(-1, 2) for polygon in polygons]
    if not starts:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64)
    first, last = np.concatenate(starts), np.concatenate(ends)
    down = last[:, 1] >= first[:, 1]
    top, bottom = np.where(down[:, None], first, last), np.where(down[:, None], last, first)
    from_line = np.clip(np.ceil(top[:, 1] * SCANLINES - 0.5), 0, lines).astype(np.int64)
    to_line = np.clip(np.ceil(bottom[:, 1] * SCANLINES - 0.5), 0, lines).astype(np.int64)
    counts = to_line - from_line
    edge = np.repeat(np.arange(len(counts)), counts)
    rows = from_line[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts)
    span = bottom - top
    slope = span[:, 0] / np.where(span[:, 1] == 0, 1, span[:, 1])
    x = top[edge, 0] + ((rows + 0.5) / SCANLINES - top[edge, 1]) * slope[edge]
    return rows, x, np.where(down, 1, -1)[edge]


def band(polygons: Sequence[np.ndarray], radius: float) -> list[np.ndarray]:
    """Everything within `radius` pixels of the polygons' edges: one round-capped bar an edge, (k, n, 2)."""
    import numpy as np

    starts = np.concatenate(list(polygons))
    ends = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons])
    steps = max(4, ceil(pi / np.sqrt(8 * _CAP_ERROR / max(radius, 0.1))))
    half = np.linspace(-pi / 2, pi / 2, steps + 1)
    along = np.arctan2(ends[:, 1] - starts[:, 1], ends[:, 0] - starts[:, 0])[:, None]
    caps = []
    for centre, angle in ((ends, along + half), (starts, along + half + pi)):
        caps.append(centre[:, None] + radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1))
    return [np.concatenate(caps, axis=1)]
