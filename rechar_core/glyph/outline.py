"""A glyph's outline from HarfBuzz, with its curves approximated by polygons."""

from __future__ import annotations

from itertools import pairwise
from math import ceil, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from .face import Face

Point = tuple[float, float]


def outline(face: Face, glyph: int, fineness: float) -> list[np.ndarray]:
    """The closed contours of a glyph as polygons (n, 2) in font units, y upwards.

    fineness: no polygon is further from its curve than the glyph's larger side divided by this.
    A glyph whose contours have the wrong orientation is reversed, so that overlapping glyphs add up.
    """
    import numpy as np

    pen = _Pen()
    face.font.draw_glyph_with_pen(glyph, pen)
    controls = [point for contour in pen.contours for curve in contour for point in curve]
    if not controls:
        return []
    tolerance = max(float(np.ptp(np.array(controls), axis=0).max()), 1e-6) / fineness
    polygons = [np.array(_flat(contour, tolerance)) for contour in pen.contours if len(contour) > 1]
    if sum(map(_area, polygons)) < 0:
        polygons = [polygon[::-1] for polygon in polygons]
    return polygons


class _Pen:
    """A pen (fontTools' protocol) that records contours: the start point, then curves of 1, 2 or 3 more points."""

    def __init__(self) -> None:
        self.contours: list[list[tuple[Point, ...]]] = []

    def moveTo(self, start: Point) -> None:
        self.contours.append([(start,)])

    def lineTo(self, end: Point) -> None:
        self.contours[-1].append((end,))

    def qCurveTo(self, control: Point, end: Point) -> None:
        self.contours[-1].append((control, end))

    def curveTo(self, first: Point, second: Point, end: Point) -> None:
        self.contours[-1].append((first, second, end))

    def closePath(self) -> None:
        pass

    endPath = closePath


def _flat(contour: list[tuple[Point, ...]], tolerance: float) -> list[Point]:
    """The contour as points: every curve is divided into enough chords to stay within `tolerance`."""
    points: list[Point] = [contour[0][-1]]
    for curve in contour[1:]:
        controls = (points[-1], *curve)
        chords = _chords(controls, tolerance)
        points += [_bezier(controls, i / chords) for i in range(1, chords)]
        points.append(controls[-1])
    return points


def _chords(controls: tuple[Point, ...], tolerance: float) -> int:
    """How many chords a curve needs: a chord over a step h deviates by at most h² max|B''| / 8, and
    |B''| <= d (d - 1) max|bend|.
    """
    degree = len(controls) - 1
    if degree == 1:
        return 1
    bend = max(
        abs(complex(a[0] - 2 * b[0] + c[0], a[1] - 2 * b[1] + c[1]))
        for a, b, c in zip(controls, controls[1:], controls[2:])
    )
    return max(1, ceil(sqrt(degree * (degree - 1) * bend / (8 * tolerance))))


def _bezier(controls: tuple[Point, ...], t: float) -> Point:
    """De Casteljau."""
    while len(controls) > 1:
        controls = tuple((a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])) for a, b in pairwise(controls))
    return controls[0]


def _area(polygon: np.ndarray) -> float:
    """Signed, positive anticlockwise (the shoelace formula)."""
    import numpy as np

    x, y = polygon.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
