"""Styles: colours x texture families with continuous parameters, and how a picture is painted with them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .catalog import COLOURS, FAMILIES, PIXELS, Palette

Array = np.ndarray
ROWS, COLUMNS = np.mgrid[0:PIXELS, 0:PIXELS].astype(np.float32)


@dataclass(frozen=True)
class Style:
    """One visual style. Colours are RGB in 0..1; `period` 0..1 scales the texture, `angle` is in radians."""

    family: str
    glyph: Array
    ground: Array
    accent: Array
    period: float
    angle: float


def _rgb(name: str) -> Array:
    return np.array(COLOURS[name], np.float32) / 255


def named_style(family: str, palette: Palette) -> Style:
    """The fixed style that the text encoders know under this family and palette."""
    return Style(family, _rgb(palette.glyph), _rgb(palette.ground), _rgb(palette.accent), 0.5, np.pi / 4)


def random_style(rng: np.random.Generator) -> Style:
    """A style with random, clearly different colours and random texture parameters."""
    while True:
        glyph, ground, accent = rng.uniform(0.03, 1, (3, 3)).astype(np.float32)
        if rng.random() < 0.5:  # half of the grounds are light or dark, as in most artwork
            ground = ground * 0.25 if rng.random() < 0.5 else 1 - 0.25 * ground
        if np.linalg.norm(glyph - ground) > 0.5 and np.linalg.norm(accent - ground) > 0.45:
            break
    family = FAMILIES[rng.integers(len(FAMILIES))]
    return Style(family, glyph, ground, accent, float(rng.random()), float(rng.uniform(0, np.pi)))


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of a (128, 128) image."""
    return ndimage.gaussian_filter(image, sigma, truncate=2.5)


def _noise(rng: np.random.Generator, cell: int) -> Array:
    """Smooth unit-variance noise whose blobs are about `cell` pixels wide."""
    count = PIXELS // cell + 3
    coarse = rng.standard_normal((count, count)).astype(np.float32)
    return ndimage.zoom(coarse, cell, order=1)[:PIXELS, :PIXELS]


def _mix(below: Array, above: Array, weight: Array) -> Array:
    return below + (above - below) * weight[..., None]


def _flat(colour: Array) -> Array:
    return np.broadcast_to(colour, (PIXELS, PIXELS, 3)).astype(np.float32)


def _lit(mask: Array) -> Array:
    """A bevel: +1 on edges that face the upper left, -1 on the lower right ones."""
    soft = blur(mask, 1.5)
    slope = ndimage.sobel(soft, 0) + ndimage.sobel(soft, 1)
    return np.clip(0.9 * slope, -1, 1)


def _wave(style: Style, shortest: float, longest: float) -> Array:
    """A sine of the style's period (in pixels, between the two bounds) and angle."""
    period = shortest + (longest - shortest) * style.period
    along = COLUMNS * np.cos(style.angle) + ROWS * np.sin(style.angle)
    return np.sin(2 * np.pi * along / period)


Layers = tuple[Array, Array, Array]  # ground picture, glyph picture, coverage of the glyph


def _plain(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    return _flat(style.ground), _flat(style.glyph), mask


def _ink(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    blot = np.clip(0.72 + 0.28 * _noise(rng, 12), 0.25, 1)
    soft = np.clip(blur(mask, 1.6) * 1.25, 0, 1)
    ground = _flat(style.ground) + 0.035 * _noise(rng, 16)[..., None]
    return ground, _flat(style.glyph), soft * (1 - (0.25 + 0.45 * style.period) * (1 - blot))


def _neon(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    glow = np.clip(1.5 * blur(mask, 4 + 6 * style.period), 0, 1)
    core = np.clip(blur(mask, 1.5) * 2 - 1, 0, 1)
    ground = _mix(_flat(style.ground), _flat(style.glyph), 0.75 * glow)
    return ground, _mix(_flat(style.glyph), _flat(np.ones(3, np.float32)), 0.8 * core), mask


def _metal(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    shine = 0.22 * _wave(style, 28, 60) + 0.5 * _lit(mask)
    ground = _mix(_flat(style.ground), _flat(style.ground * 0.4), np.roll(blur(mask, 2), (3, 3), (0, 1)))
    return ground, _flat(style.glyph) + shine[..., None], mask


def _stripes(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    band = np.clip(0.5 + 1.2 * _wave(style, 9, 22), 0, 1)
    light = 0.35 * style.glyph + 0.65
    if style.glyph.mean() > 0.6:
        light = style.glyph * 0.35
    return _flat(style.ground), _mix(_flat(style.glyph), _flat(light), band), mask


def _dots(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    step = 12 + 12 * style.period
    lattice = np.cos(2 * np.pi * ROWS / step) + np.cos(2 * np.pi * COLUMNS / step)
    spot = np.clip((lattice - 0.7) * 2, 0, 1)
    other = style.ground * 0.55 if style.ground.mean() > 0.45 else 0.55 * style.ground + 0.45
    return _mix(_flat(style.ground), _flat(other), 0.7 * spot), _flat(style.glyph), mask


def _shadow(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    reach = 4 + 6 * style.period
    offset = (reach * np.sin(style.angle), reach * np.cos(style.angle))
    cast = blur(ndimage.shift(mask, offset, order=1), 1.2)
    return _mix(_flat(style.ground), _flat(style.ground * 0.35), 0.85 * cast), _flat(style.glyph), mask


def _outline(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    width = 1.6 + 1.2 * style.period
    inside = np.clip((blur(mask, width) - 0.62) * 5, 0, 1)
    fill = 0.35 * style.glyph + 0.65 * style.ground
    return (
        _flat(style.ground),
        _mix(_flat(style.glyph), _flat(fill), inside),
        np.clip(blur(mask, 1) * 1.6, 0, 1),
    )


def _gradient(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    ramp = (COLUMNS - 64) * np.cos(style.angle) + (ROWS - 64) * np.sin(style.angle)
    ramp = np.clip(0.5 + ramp / 110, 0, 1)
    ground = _mix(_flat(style.ground), _flat(style.ground * 0.6 + 0.4 * style.accent), 1 - ramp)
    return ground, _mix(_flat(style.glyph), _flat(style.glyph * 0.35 + 0.65 * style.accent), ramp), mask


def _stone(style: Style, mask: Array, rng: np.random.Generator) -> Layers:
    grain = 0.16 * _noise(rng, 5 + int(5 * style.period)) + 0.4 * _lit(mask)
    ground = _flat(style.ground) + 0.05 * _noise(rng, 12)[..., None]
    return ground, _flat(style.glyph) * (1 + grain[..., None]), mask


PAINTERS: dict[str, Callable[[Style, Array, np.random.Generator], Layers]] = {
    "plain": _plain,
    "ink": _ink,
    "neon": _neon,
    "metal": _metal,
    "stripes": _stripes,
    "dots": _dots,
    "shadow": _shadow,
    "outline": _outline,
    "gradient": _gradient,
    "stone": _stone,
}


def paint(mask: Array, elements: Array, style: Style, rng: np.random.Generator) -> Array:
    """The picture (128, 128, 3) in 0..1: ground, then elements, then the glyph. Masks are (128, 128)."""
    ground, glyph, coverage = PAINTERS[style.family](style, mask, rng)
    picture = _mix(ground, _flat(style.accent), elements)
    return np.clip(_mix(np.clip(picture, 0, 1), np.clip(glyph, 0, 1), coverage), 0, 1).astype(np.float32)
