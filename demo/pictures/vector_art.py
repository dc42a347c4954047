"""Twelve elements as small vector art: each is drawn by a `Pen`, which knows place, size and turn."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .pen import Pen, any_of, near, ring, smooth, tone, turned


def plum_blossom(pen: Pen) -> None:
    petal = any_of(pen.rng, "f4a0b8", "f6d4dc", "e0405c", "ffffff")
    for k in range(5):
        angle = 2 * np.pi * k / 5
        outline = smooth(
            [(0, -0.05), (-0.42, -0.48), (-0.26, -0.92), (0, -0.84), (0.26, -0.92), (0.42, -0.48)]
        )
        pen.fill(turned(outline * 1.06, angle), tone(petal, -0.25))
        pen.fill(turned(outline * 0.97, angle), petal)
    for k in range(10):
        angle = 2 * np.pi * k / 10 + 0.3
        pen.line(
            np.array([(0, 0), (0.36 * np.cos(angle), 0.36 * np.sin(angle))]), (200, 60, 70), 0.05 * pen.size
        )
        pen.disc(0.4 * np.cos(angle), 0.4 * np.sin(angle), 0.06, (250, 205, 70))
    pen.disc(0, 0, 0.15, (250, 205, 70))


def bamboo(pen: Pen) -> None:
    """One stalk from below to above, with leaves."""
    green = any_of(pen.rng, "4e8f3c", "6fae4a", "2f6b3a")
    tall, wide, bend = 1.15, 0.035, pen.rng.uniform(-0.07, 0.07)
    joints = np.linspace(-tall, tall, 8)
    for low, high in pairwise(joints):
        a, b = bend * low, bend * high
        gap = 0.012
        body = [(a - wide, low + gap), (a + wide, low + gap), (b + wide, high - gap), (b - wide, high - gap)]
        pen.fill(np.array(body), green)
        shine = [(a - 0.6 * wide, low + gap), (a - 0.2 * wide, low + gap)]
        pen.fill(
            np.array([*shine, (b - 0.2 * wide, high - gap), (b - 0.6 * wide, high - gap)]), tone(green, 0.35)
        )
        pen.line(
            np.array([(a - 1.3 * wide, low), (a + 1.3 * wide, low)]), tone(green, -0.35), 0.02 * pen.size
        )
    for _ in range(9):
        y, side = pen.rng.uniform(-0.95, 0.8), pen.rng.choice((-1, 1))
        leaf = smooth([(0, 0), (0.12, -0.035), (0.34, 0.0), (0.12, 0.035)])
        angle = pen.rng.uniform(0.2, 1.0)
        spot = turned(leaf * (1, 1), angle) * (side, 1) + (bend * y, y)
        pen.fill(spot, tone(green, pen.rng.uniform(-0.3, 0.15)))


def crane(pen: Pen) -> None:
    white, black, red = near((246, 244, 238), pen.rng, 5), (34, 32, 38), (208, 40, 40)
    legs = np.array([(0.32, 0.12), (0.62, 0.2), (0.98, 0.22)])
    pen.line(legs, black, 0.035 * pen.size)
    pen.line(legs + (0, 0.06), black, 0.035 * pen.size)  # noqa: RUF005
    far = smooth([(0.02, -0.02), (-0.12, -0.5), (0.1, -0.95), (0.22, -0.6), (0.26, -0.1)])
    pen.fill(far, tone(white, -0.14))
    pen.fill(
        smooth([(-0.04, -0.5), (-0.02, -0.75), (0.1, -1.0), (0.24, -0.66), (0.2, -0.5)]), tone(black, 0.25)
    )
    body = smooth([(-0.3, -0.02), (-0.1, -0.13), (0.2, -0.1), (0.45, 0.08), (0.15, 0.15), (-0.15, 0.1)])
    neck = smooth([(-0.2, -0.1), (-0.5, -0.2), (-0.78, -0.34), (-0.82, -0.28), (-0.52, -0.1), (-0.22, 0.06)])
    pen.fill(neck, white)
    pen.fill(smooth([(-0.4, -0.14), (-0.62, -0.24), (-0.74, -0.28), (-0.6, -0.15), (-0.42, -0.06)]), black)
    pen.fill(body, white)
    wing = smooth([(-0.16, -0.02), (-0.04, 0.42), (0.3, 0.86), (0.42, 0.6), (0.4, 0.3), (0.26, 0.02)])
    pen.fill(wing, tone(white, -0.04))
    pen.fill(smooth([(0.04, 0.56), (0.3, 0.92), (0.46, 0.64), (0.44, 0.36), (0.3, 0.6)]), black)
    pen.disc(-0.82, -0.33, 0.07, white)
    pen.disc(-0.83, -0.38, 0.045, red)
    pen.fill(np.array([(-0.86, -0.36), (-1.08, -0.31), (-0.86, -0.29)]), (190, 160, 80))


def cloud(pen: Pen) -> None:
    """A xiangyun: curls on a flat foot."""
    main = any_of(pen.rng, "f4f2ec", "e06058", "8fb8dc", "f0c878")
    rim = tone(main, -0.35)
    bumps = [
        (-0.62, 0.08, 0.26),
        (-0.25, -0.14, 0.34),
        (0.2, -0.2, 0.3),
        (0.56, 0.04, 0.27),
        (0.0, 0.14, 0.3),
    ]
    for grow, colour in ((0.05, rim), (0.0, main)):
        for x, y, r in bumps:
            pen.disc(x, y, r + grow, colour)
        pen.fill(
            smooth([(-1.05 - grow, 0.34), (0, 0.24 - grow), (1.05 + grow, 0.34), (0, 0.44 + grow)]), colour
        )
    for x, y, r in bumps[:4]:
        t = np.linspace(0.4, 4.6, 18)
        radius = r * (0.75 - 0.12 * t)
        pen.line(
            np.stack([x + radius * np.cos(t + 2.6), y + radius * np.sin(t + 2.6)], 1), rim, 0.045 * pen.size
        )


def wave(pen: Pen) -> None:
    """One row of curling crests."""
    blue = any_of(pen.rng, "2a5f9e", "3f8fc0", "1f4a7c", "4ab0b8")
    x = np.linspace(-1, 1, 120)
    crest = -0.13 * np.abs(np.sin(2.0 * np.pi * (x + pen.rng.uniform(0, 1)))) ** 0.8
    for level, share in ((0.0, 0.0), (0.09, 0.22), (0.18, -0.15), (0.28, 0.1)):
        shift = np.roll(crest, int(11 * (level * 20)))
        line = np.stack([x, level + shift], 1)
        pen.fill(np.concatenate([line, [(1, 1.2), (-1, 1.2)]]), tone(blue, share) if share else blue)
        pen.line(line, tone(blue, 0.75), 0.016 * pen.size)


def butterfly(pen: Pen) -> None:
    wing = any_of(pen.rng, "f0902a", "4a8ae0", "e85a9a", "f4d040", "8a5ad0")
    dark = tone(wing, -0.7)
    for side in (-1, 1):
        upper = smooth(
            [(0.04, -0.05), (0.3, -0.62), (0.78, -0.78), (0.92, -0.4), (0.6, -0.02), (0.1, 0.05)]
        ) * (side, 1)
        lower = smooth([(0.04, 0.04), (0.5, 0.06), (0.72, 0.36), (0.46, 0.76), (0.2, 0.5)]) * (side, 1)
        for outline, middle in ((upper, (0.5 * side, -0.38)), (lower, (0.4 * side, 0.36))):
            pen.fill(outline, dark)
            pen.fill((outline - middle) * 0.78 + middle, wing)
            pen.fill((outline - middle) * 0.3 + middle, tone(wing, 0.5))
        pen.line(np.array([(0, -0.25), (0.12 * side, -0.5), (0.26 * side, -0.62)]), dark, 0.035 * pen.size)
    pen.fill(smooth([(0, -0.34), (0.07, 0), (0, 0.5), (-0.07, 0)]), dark)


def moon(pen: Pen) -> None:
    pale = any_of(pen.rng, "f8f0d0", "f0c860", "e85a3c", "f2f4f8")
    pen.fill(ring(1.0, count=80), pale)
    for _ in range(6):
        angle, far = pen.rng.uniform(0, 6.3), pen.rng.uniform(0.1, 0.72)
        pen.disc(far * np.cos(angle), far * np.sin(angle), pen.rng.uniform(0.06, 0.2), tone(pale, -0.09))


def maple_leaf(pen: Pen) -> None:
    red = any_of(pen.rng, "d8331e", "f0782a", "b8221e", "f0b030")
    half = [(0, -1), (0.14, -0.62), (0.3, -0.7), (0.26, -0.36), (0.66, -0.62), (0.6, -0.42), (0.95, -0.3),
            (0.62, -0.06), (0.7, 0.12), (0.3, 0.12), (0.34, 0.36), (0.04, 0.26)]  # fmt: skip
    outline = np.array([*half, *[(-x, y) for x, y in reversed(half[1:])]])
    pen.fill(outline, red)
    pen.line(np.array([(0, -0.85), (0, 0.3), (0.06, 0.75)]), tone(red, -0.4), 0.05 * pen.size)
    for x, y in ((0.62, -0.36), (0.5, 0.04)):
        for side in (-1, 1):
            pen.line(np.array([(0, 0.2), (side * x, y)]), tone(red, -0.3), 0.035 * pen.size)


def koi(pen: Pen) -> None:
    white, red = near((246, 240, 230), pen.rng, 6), any_of(pen.rng, "e8502a", "f08a2a", "d02c2c")
    t = np.linspace(-1, 1, 40)
    bend = 0.24 * np.sin(2.2 * t + 0.4)
    wide = 0.26 * np.clip(1 - ((t + 0.35) / 0.9) ** 2, 0, 1) ** 0.6 * (t < 0.56) + 0.05
    wide[t > 0.6] = 0.05 + 0.65 * (t[t > 0.6] - 0.6)
    for side in (-1, 1):
        fin = smooth([(-0.35, 0.1), (-0.12, 0.52), (0.06, 0.48), (-0.02, 0.14)]) * (1, side)
        pen.fill(fin + (0, -0.12), tone(red, 0.45))  # noqa: RUF005
    body = np.concatenate([np.stack([t, bend + wide], 1), np.stack([t, bend - wide], 1)[::-1]])
    pen.fill(body, white)
    for low, high in ((2, 11), (16, 24), (30, 39)):
        part = slice(low, high)
        inner = wide[part] * 0.92
        spot = np.concatenate([np.stack([t[part], bend[part] + inner * 0.3], 1),
                               np.stack([t[part], bend[part] - inner], 1)[::-1]])  # fmt: skip
        pen.fill(spot, red)
    for side in (-1, 1):
        pen.disc(-0.86, bend[3] + side * 0.11, 0.045, (24, 22, 24))


def snow(pen: Pen) -> None:
    pale = any_of(pen.rng, "ffffff", "d8ecfa", "bcdcf4")
    for k in range(6):
        angle = np.pi * k / 3
        pen.line(turned(np.array([(0, 0), (0, -1)]), angle), pale, 0.12 * pen.size)
        for far, out in ((0.45, 0.34), (0.72, 0.24)):
            for side in (-1, 1):
                pen.line(turned(np.array([(0, -far), (side * out, -far - out)]), angle), pale, 0.1 * pen.size)


def star(pen: Pen) -> None:
    gold = any_of(pen.rng, "f8d040", "ffffff", "f4a030", "8fd0f0")
    radii = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
    angles = np.pi * np.arange(10) / 5 - np.pi / 2
    outline = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)
    pen.fill(outline, gold)
    for k in range(0, 10, 2):
        pen.fill(np.array([(0, 0), outline[k], outline[(k + 1) % 10]]), tone(gold, -0.2))


def lotus(pen: Pen) -> None:
    pink, leaf = any_of(pen.rng, "f07aa8", "f8c0d4", "f6f0ea", "d0509a"), any_of(pen.rng, "3f8a56", "5aa86a")
    pen.fill(smooth([(-1.15, 0.42), (0, 0.2), (1.15, 0.42), (0, 0.72)]), leaf)
    pen.line(np.array([(-0.9, 0.43), (0.9, 0.43)]), tone(leaf, -0.3), 0.03 * pen.size)
    petal = smooth([(0, 0.42), (-0.26, -0.12), (0, -0.82), (0.26, -0.12)])
    for angle, share in (
        (-1.15, -0.22),
        (1.15, -0.22),
        (-0.8, -0.1),
        (0.8, -0.1),
        (-0.4, 0.08),
        (0.4, 0.08),
        (0, 0.22),
    ):
        outline = turned(petal - (0, 0.42), angle) + (0, 0.42)  # noqa: RUF005
        pen.fill(outline, tone(pink, share - 0.25))
        middle = outline.mean(0)
        pen.fill((outline - middle) * 0.86 + middle, tone(pink, share) if share else pink)


DRAWN_BY: dict[str, Callable[[Pen], None]] = {
    "plum blossom": plum_blossom, "bamboo": bamboo, "crane": crane, "cloud": cloud, "wave": wave,
    "butterfly": butterfly, "moon": moon, "maple leaf": maple_leaf, "koi": koi, "snow": snow, "star": star,
    "lotus": lotus,
}  # fmt: skip
