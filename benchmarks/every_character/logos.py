"""Logos drawn at random: shapes that no font holds. A logo is its number; the same number is the same shape for ever.

A logo is a base (a disc, a ring, a polygon, a star, a flower) with figures repeated around its middle, cut out of it or
standing outside it, and sometimes one figure in the middle. Numbers 0 to 499 are the benchmark's.
"""

import hashlib
import math
from collections.abc import Iterator

Point = tuple[float, float]
Layer = tuple[tuple[Point, ...], bool]  # a closed outline in -1..1, y downwards; painted or cut out


def _uniform(number: int) -> Iterator[float]:
    """Endless numbers in 0..1 from SHA-256: the same in every Python."""
    block = 0
    while True:
        digest = hashlib.sha256(f"every-character:logo:{number}:{block}".encode()).digest()
        yield from (int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in range(0, 32, 4))
        block += 1


def _around(radii: list[float], turn: float, centre: Point = (0, 0)) -> tuple[Point, ...]:
    """The closed outline with these distances from the centre, at equal angles."""
    angles = [turn + 2 * math.pi * k / len(radii) for k in range(len(radii))]
    return tuple((centre[0] + r * math.sin(a), centre[1] - r * math.cos(a)) for r, a in zip(radii, angles))


def _disc(radius: float, centre: Point = (0, 0)) -> tuple[Point, ...]:
    return _around([radius] * 48, 0, centre)


def _base(kind: int, corners: int, turn: float, depth: float) -> tuple[Point, ...]:
    if kind == 0:
        return _disc(0.8)
    if kind == 1:  # polygon
        return _around([0.9] * corners, turn)
    if kind == 2:  # star
        return _around([0.95, 0.95 * (0.45 + 0.3 * depth)] * corners, turn)
    waves = [0.78 + (0.08 + 0.12 * depth) * math.cos(corners * 2 * math.pi * k / 120) for k in range(120)]
    return _around(waves, turn)


def _figure(kind: int, size: float, reach: float, angle: float) -> tuple[Point, ...]:
    """A small figure at a distance from the middle, turned with its place."""
    centre = (reach * math.sin(angle), -reach * math.cos(angle))
    if kind == 0:
        return _disc(size, centre)
    if kind == 1:
        return _around([size] * 4, angle, centre)
    if kind == 2:
        return _around([1.2 * size] * 3, angle, centre)
    if kind == 3:  # a leaf that points outwards
        radii = [size * (0.45 + 1.1 * abs(math.cos(math.pi * k / 24)) ** 3) for k in range(24)]
        return _around(radii, angle, centre)
    bar = ((0.35, 1.5), (-0.35, 1.5), (-0.35, -1.5), (0.35, -1.5))
    cos, sin = math.cos(angle), math.sin(angle)
    return tuple(
        (centre[0] + size * (x * cos - y * sin), centre[1] + size * (x * sin + y * cos)) for x, y in bar
    )


def logo(number: int) -> list[Layer]:
    """The layers of a logo, to be painted in order."""
    draw = _uniform(number)

    def below(limit: int) -> int:
        return int(next(draw) * limit)

    corners, turn = 3 + below(6), math.pi * below(2) / 8
    layers: list[Layer] = [(_base(below(4), corners, turn, next(draw)), True)]
    hollow = bool(below(2))
    if hollow:
        layers.append((_disc(0.35 + 0.2 * next(draw)), False))
    for _ in range(1 + below(2)):
        kind, repeats, painted = below(5), (corners, 2 * corners, 2, 3, 4)[below(5)], below(3) == 0
        size, reach = 0.09 + 0.13 * next(draw), 0.3 + 0.42 * next(draw)
        start = math.pi / repeats * below(2)
        for k in range(repeats):
            layers.append((_figure(kind, size, reach, start + 2 * math.pi * k / repeats), painted))
    if below(2):
        layers.append((_figure(below(5), 0.14 + 0.12 * next(draw), 0.0, turn), hollow))
    if below(3) == 0:  # a half taken away: no longer round
        edge = 0.1 + 0.3 * next(draw)
        layers.append((((edge, -1.0), (1.0, -1.0), (1.0, 1.0), (edge + 0.1, 1.0)), False))
    return layers
