"""Compares two pictures: structural similarity and colours."""

from __future__ import annotations

from typing import Any

Array = Any

_RGB_TO_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.089)  # D65
_DIRECTIONS, _QUANTILES = 32, 256
_MOST = 200_000  # numbers of a picture that the colours are sampled from


def ssim(first: Array, second: Array) -> float:
    """Mean structural similarity of (H, W) in 0..1 (Wang et al., 2004): Gaussian window of 11, sigma 1.5."""
    from scipy import ndimage

    def blur(x: Array) -> Array:
        return ndimage.gaussian_filter(x.astype("float64"), 1.5, truncate=3.5)[5:-5, 5:-5]

    one, two = blur(first), blur(second)
    variance = blur(first**2) - one**2, blur(second**2) - two**2
    covariance = blur(first * second) - one * two
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * one * two + c1) * (2 * covariance + c2)
    return float((likeness / ((one**2 + two**2 + c1) * (variance[0] + variance[1] + c2))).mean())


def lab(picture: Array) -> Array:
    """CIE L*a*b* (D65) of sRGB (..., 3) in 0..1."""
    import numpy as np

    linear = np.where(picture <= 0.04045, picture / 12.92, ((picture + 0.055) / 1.055) ** 2.4)
    xyz = linear @ np.array(_RGB_TO_XYZ).T / np.array(_WHITE)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def colour_distance(first: Array, second: Array) -> float:
    """Earth mover's distance of the colours of two pictures (H, W, 3), in Lab units; positions do not matter.

    Sliced: the mean over 32 directions of the exact distance along each (Rabin et al., 2011), times 2, so that two
    pictures of one colour each are as far apart as these colours.
    """
    import numpy as np

    turn = np.arange(_DIRECTIONS) + 0.5
    height, angle = 1 - turn / _DIRECTIONS, turn * np.pi * (1 + 5**0.5)  # evenly over the half sphere
    flat = np.sqrt(1 - height**2)
    directions = np.stack([flat * np.cos(angle), flat * np.sin(angle), height])  # (3, directions)
    steps = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    seen = [lab(p.reshape(-1, 3)[:: max(1, p.size // _MOST)]) for p in (first, second)]
    one, two = (np.quantile(colours @ directions, steps, axis=0) for colours in seen)
    return float(2 * np.abs(one - two).mean())
