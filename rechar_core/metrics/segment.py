"""Segments the glyph in a picture, with and without knowing where it should be."""

from __future__ import annotations

from typing import Any

from ..images import grey
from .pictures import lab

Array = Any

_SEED_EROSION = 0.006  # of the diagonal
_TEXTURE_SIGMA = 0.004  # of the diagonal
_ROUNDS = 12
_LEAST_CONTRAST = 1.0  # Lab units between the classes' means; less is no glyph


def glyph_mask(picture: Array, target: Array) -> Array:
    """The glyph (H, W) of bool in a picture (H, W, 3), by its colour and texture.

    Two classes are clustered in Lab and local texture, started from the inside of the target and of its surroundings
    (k-means). The target only starts them: a picture of another glyph gives that other glyph, a blank one nothing.
    """
    import numpy as np

    features = _features(picture)
    inside, outside = _seed(target), _seed(~target)
    centres = [features[inside].mean(0), features[outside].mean(0)]
    glyph = np.zeros(target.shape, bool)
    for _ in range(_ROUNDS):
        towards = centres[0] - centres[1]
        new = features @ towards > (centres[0] + centres[1]) @ towards / 2  # nearer to the glyph's
        if not new.any() or new.all() or (new == glyph).all():
            break
        glyph = new
        centres = [features[glyph].mean(0), features[~glyph].mean(0)]
    contrast = float(np.linalg.norm(centres[0] - centres[1]))
    return glyph if contrast >= _LEAST_CONTRAST else np.zeros(target.shape, bool)


def otsu_masks(picture: Array) -> tuple[Array, Array]:
    """The dark and the light side of Otsu's threshold (H, W): the glyph without prior knowledge, in both polarities."""
    import numpy as np
    import torch

    from ..glyph.picture import otsu
    from ..images import LEAST_CONTRAST

    shade = grey(picture)
    if float(np.ptp(shade)) < LEAST_CONTRAST:
        nothing = np.zeros(shade.shape, bool)
        return nothing, nothing
    dark = shade < otsu(torch.from_numpy(np.ascontiguousarray(shade, dtype=np.float32)))
    return dark, ~dark


def _features(picture: Array) -> Array:
    """(H, W, 5): smoothed Lab, and the local spread of lightness and of colour."""
    import numpy as np
    from scipy import ndimage

    sigma = max(0.5, _TEXTURE_SIGMA * np.hypot(*picture.shape[:2]))
    colours = lab(picture).astype(np.float32)
    spatial = (sigma, sigma, 0)
    smooth = ndimage.gaussian_filter(colours, (0.5, 0.5, 0))
    mean = ndimage.gaussian_filter(colours, spatial)
    spread = np.sqrt(np.maximum(ndimage.gaussian_filter((colours - mean) ** 2, spatial), 0))
    texture = np.stack([spread[..., 0], np.hypot(spread[..., 1], spread[..., 2])], -1)
    return np.concatenate([smooth, 0.5 * texture], -1)


def _seed(mask: Array) -> Array:
    """The inside of a mask, or all of it where it is thin throughout."""
    import numpy as np
    from scipy import ndimage

    inner = ndimage.distance_transform_edt(mask) > _SEED_EROSION * np.hypot(*mask.shape)
    return inner if inner.any() else mask
