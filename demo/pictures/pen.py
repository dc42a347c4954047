"""What elements are drawn with: polygons in units of the element's size round its middle, y downwards, with Pillow."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageDraw

Array = np.ndarray
Colour = tuple[int, int, int]
FINE = 2  # drawn so many times larger


@dataclass
class Pen:
    """Draws one element: its place (px of the final picture), size, turn in radians, and whether it is mirrored."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    size: float
    turn: float
    flip: bool
    rng: np.random.Generator

    def points(self, outline: Array) -> list[tuple[float, float]]:
        xy = np.asarray(outline, float) * self.size * (-1 if self.flip else 1, 1)
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        turned = xy @ np.array([[cos, sin], [-sin, cos]])
        return [(FINE * (self.x + a), FINE * (self.y + b)) for a, b in turned]

    def fill(self, outline: Array, colour: Colour) -> None:
        self.draw.polygon(self.points(outline), fill=(*colour, 255))

    def line(self, outline: Array, colour: Colour, width: float) -> None:
        self.draw.line(
            self.points(outline), fill=(*colour, 255), width=max(1, round(FINE * width)), joint="curve"
        )

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        self.fill(ring(radius, (x, y)), colour)


def ring(radius: float, centre: tuple[float, float] = (0, 0), count: int = 28, squash: float = 1.0) -> Array:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * squash * np.sin(angles)], 1)


def turned(outline: Array, angle: float) -> Array:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(outline) @ np.array([[cos, sin], [-sin, cos]])


def smooth(points: Sequence[tuple[float, float]], count: int = 6) -> Array:
    """A closed Catmull-Rom curve through the points."""
    p = np.asarray(points, float)
    t = np.linspace(0, 1, count, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(np.roll(p, 1, 0), p, np.roll(p, -1, 0), np.roll(p, -2, 0)):
        parts.append(
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3)
        )
    return np.concatenate(parts)


def near(colour: Colour, rng: np.random.Generator, amount: float = 14) -> Colour:
    """The colour, varied a little."""
    return tuple(int(v) for v in np.clip(np.array(colour) + rng.normal(0, amount, 3), 0, 255))


def tone(colour: Colour, share: float) -> Colour:
    """Towards white (share > 0) or black."""
    end = 255 if share > 0 else 0
    return tuple(int(v + (end - v) * abs(share)) for v in colour)


def any_of(rng: np.random.Generator, *codes: str) -> Colour:
    code = codes[rng.integers(len(codes))]
    return near(tuple(int(code[i : i + 2], 16) for i in (0, 2, 4)), rng)
