"""Decorative elements: flowers, stars, hearts, leaves and waves around the glyph, as coverage masks."""

import numpy as np
from PIL import Image, ImageDraw

from .catalog import PIXELS

Array = np.ndarray
CANVAS = 2 * PIXELS
ANCHORS = (
    (0.13, 0.13),
    (0.87, 0.13),
    (0.13, 0.87),
    (0.87, 0.87),
    (0.5, 0.09),
    (0.5, 0.91),
    (0.09, 0.5),
    (0.91, 0.5),
)


def _petals(x: float, y: float, size: float, turn: float, draw: ImageDraw.ImageDraw) -> None:
    for petal in range(5):
        angle = turn + petal * 2 * np.pi / 5
        cx, cy, r = x + 0.62 * size * np.cos(angle), y + 0.62 * size * np.sin(angle), 0.42 * size
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
    draw.ellipse((x - 0.3 * size, y - 0.3 * size, x + 0.3 * size, y + 0.3 * size), fill=0)


def _star(x: float, y: float, size: float, turn: float, draw: ImageDraw.ImageDraw) -> None:
    points = []
    for corner in range(10):
        radius = size if corner % 2 == 0 else 0.42 * size
        angle = turn - np.pi / 2 + corner * np.pi / 5
        points.append((x + radius * np.cos(angle), y + radius * np.sin(angle)))
    draw.polygon(points, fill=255)


def _heart(x: float, y: float, size: float, turn: float, draw: ImageDraw.ImageDraw) -> None:
    t = np.linspace(0, 2 * np.pi, 40)
    across = 16 * np.sin(t) ** 3
    down = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    draw.polygon([(x + a * size / 16, y + d * size / 16) for a, d in zip(across, down)], fill=255)


def _leaf(x: float, y: float, size: float, turn: float, draw: ImageDraw.ImageDraw) -> None:
    t = np.linspace(-1, 1, 16)
    bulge = 0.42 * size * (1 - t**2)
    outline = np.concatenate([np.stack([t * size, bulge], 1), np.stack([t[::-1] * size, -bulge[::-1]], 1)])
    cos, sin = np.cos(turn * 4), np.sin(turn * 4)
    draw.polygon([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in outline], fill=255)


PAINTERS = {"flowers": _petals, "stars": _star, "hearts": _heart, "leaves": _leaf}


def _waves(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    """Two wavy lines above and two below the glyph."""
    phase = rng.uniform(0, 2 * np.pi)
    x = np.arange(0, CANVAS + 4, 4)
    for height in (0.06, 0.15, 0.85, 0.94):
        y = height * CANVAS + 6 * np.sin(x / 12 + phase)
        draw.line([(float(a), float(b)) for a, b in zip(x, y)], fill=255, width=7)


def element_mask(kinds: tuple[str, ...], rng: np.random.Generator) -> Array:
    """Coverage (128, 128) in 0..1 of the named elements, spread over jittered places around the glyph."""
    image = Image.new("L", (CANVAS, CANVAS), 0)
    draw = ImageDraw.Draw(image)
    if "waves" in kinds:
        _waves(draw, rng)
    scattered = [kind for kind in kinds if kind != "waves"]
    if scattered:
        first = rng.integers(2)
        for index in range(8 if rng.random() < 0.5 else 4):
            kind = scattered[(index + first) % len(scattered)]
            x, y = (np.array(ANCHORS[index]) + rng.uniform(-0.03, 0.03, 2)) * CANVAS
            PAINTERS[kind](x, y, rng.uniform(20, 27), rng.uniform(-0.3, 0.3), draw)
    small = image.resize((PIXELS, PIXELS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def random_elements(rng: np.random.Generator, names: tuple[str, ...]) -> tuple[str, ...]:
    """None (45 %), one (40 %) or two elements."""
    count = int(rng.choice(3, p=(0.45, 0.4, 0.15)))
    return tuple(str(name) for name in rng.choice(names, count, replace=False))
