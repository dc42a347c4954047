"""Elements placed around and behind the glyph, (size, size, 4) uint8 RGBA."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .fields import SIZE
from .pen import FINE, Array, Pen
from .vector_art import DRAWN_BY

ELEMENTS = tuple(DRAWN_BY)
Place = tuple[float, float, float, float]  # x, y, size (shares of the picture), turn
CORNERS = ((0.15, 0.14), (0.85, 0.14), (0.15, 0.86), (0.85, 0.86))
BORDER = (*CORNERS, (0.5, 0.08), (0.08, 0.5), (0.92, 0.5), (0.5, 0.92))


def _scattered(rng: np.random.Generator, low: float, high: float, turn: float) -> list[Place]:
    places = [BORDER[k] for k in range(8) if k < 4 or rng.random() < 0.45]
    return [
        (x + rng.normal(0, 0.025), y + rng.normal(0, 0.025), rng.uniform(low, high), rng.uniform(-turn, turn))
        for x, y in places
        if rng.random() < 0.9
    ]


def _some_corners(
    rng: np.random.Generator, choices: Sequence[int], count: int, size: tuple[float, float]
) -> list[Place]:
    picked = rng.choice(choices, min(count, len(choices)), replace=False)
    return [
        (
            CORNERS[k][0] + rng.normal(0, 0.02),
            CORNERS[k][1] + rng.normal(0, 0.02),
            rng.uniform(*size),
            rng.normal(0, 0.12),
        )
        for k in picked
    ]


def places(kind: str, rng: np.random.Generator) -> list[Place]:
    """Where elements of a kind stand."""
    if kind in ("plum blossom", "maple leaf", "snow", "star"):
        return _scattered(rng, 0.085, 0.125, 3.0)
    if kind == "butterfly":
        return _some_corners(rng, (0, 1, 2, 3), int(rng.integers(2, 5)), (0.11, 0.15))
    if kind == "bamboo":
        spots = [x for x in (0.07, 0.16, 0.85, 0.94) if rng.random() < 0.75] or [0.1]
        return [(x + rng.normal(0, 0.01), 0.5, 0.5, rng.normal(0, 0.03)) for x in spots]
    if kind == "crane":
        return _some_corners(rng, (0, 1, 3), int(rng.integers(1, 3)), (0.17, 0.21))
    if kind == "cloud":
        return _some_corners(rng, (0, 1, 2, 3), int(rng.integers(2, 5)), (0.14, 0.18))
    if kind == "wave":
        return [(0.5, rng.uniform(0.78, 0.86), 0.52, 0.0)]
    if kind == "moon":
        return [(rng.uniform(0.3, 0.75), rng.uniform(0.3, 0.55), rng.uniform(0.26, 0.36), 0.0)]
    if kind == "koi":
        return _some_corners(rng, (0, 2, 3), int(rng.integers(1, 3)), (0.17, 0.21))
    return _some_corners(rng, (2, 3), int(rng.integers(1, 3)), (0.15, 0.19))


def element_layer(kinds: Sequence[str], rng: np.random.Generator, size: int = SIZE) -> Array:
    """All elements of these kinds on a clear ground, (size, size, 4) uint8; large ones lie below."""
    image = Image.new("RGBA", (FINE * size, FINE * size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    order = {"moon": 0, "bamboo": 1, "wave": 2}
    for kind in sorted(kinds, key=lambda k: order.get(k, 3)):
        look = int(rng.integers(1 << 30))  # all of a kind are alike in one picture
        for x, y, extent, turn in places(kind, rng):
            flip = bool(rng.random() < 0.5) if kind != "crane" else x < 0.5
            pen = Pen(draw, x * size, y * size, extent * size, turn, flip, np.random.default_rng(look))
            DRAWN_BY[kind](pen)
    return np.asarray(image.resize((size, size), Image.Resampling.BOX))
