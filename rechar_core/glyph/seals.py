"""A scan's paper under shadow, and its seals: ink of another colour than most of the ink."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

_LEAST_DISTANCE = (
    0.2  # of two inks' directions; black to vermilion is about 0.5, black to a faded black below 0.1
)
_LEAST_SHARE = 0.002  # of the ink; less is noise
_ROUNDS = 10
_RIM = 3  # pixels around a seal
_FITTED = 64  # the surface is fitted to about this many squared pixels


def paper_of(picture: Tensor, ink: Tensor) -> Tensor:
    """The paper's colour at every pixel, (H, W, 3): the quadratic surface nearest to what is not ink.

    picture: (H, W, 3) in 0..1. ink: (H, W) bool, not all True.
    """
    import torch

    height, width = ink.shape
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)  # (H, W, 6)
    step = (max(1, height // _FITTED), max(1, width // _FITTED))
    free = ~ink[:: step[0], :: step[1]]
    left, right = (t[:: step[0], :: step[1]][free] for t in (terms, picture))
    if len(left) < 4 * terms.shape[-1]:  # too little paper to know its shade: one colour
        return picture[~ink].mean(dim=0).expand_as(picture)
    return (terms @ torch.linalg.lstsq(left, right, driver="gelsd").solution).clamp(0.02, 1)


def seals(picture: Tensor, ink: Tensor) -> Tensor:
    """Where a seal or stamp is, (H, W) bool: of two clusters of the ink's colour (2-means), the smaller one.

    picture: (H, W, 3) in 0..1. ink: (H, W) bool, not all True. Nothing where all ink has about one colour. Blots
    whose larger part is seal are seals whole; its soft edge is included.

    An ink's colour is the direction from the paper's colour to the pixel's: it is the same at soft edges, where ink
    and paper mix, and in a shadow.
    """
    import numpy as np
    import torch
    from scipy import ndimage

    away = paper_of(picture, ink) - picture
    contrast = away.norm(dim=-1)
    directions = away / contrast[..., None].clamp_min(1e-6)
    centres = _two_means(directions[ink])
    if centres is None:
        return torch.zeros_like(ink)
    most, least = centres
    nearer = (directions - least).norm(dim=-1) < (directions - most).norm(dim=-1)
    seal = (ink & nearer).numpy()
    labels, count = ndimage.label(ink.numpy(), np.ones((3, 3)))
    share = ndimage.mean(seal, labels, np.arange(count + 1))
    seal |= np.isin(labels, np.flatnonzero(share > 0.5)) & ink.numpy()
    near = ndimage.binary_dilation(seal, np.ones((3, 3)), iterations=_RIM)
    faint = contrast < contrast[ink & ~nearer].median() / 2  # the soft edge of a seal has no sure colour
    return torch.from_numpy(seal | (near & faint.numpy()))


def _two_means(points: Tensor) -> tuple[Tensor, Tensor] | None:
    """The centres of the larger and the smaller cluster of points (N, 3), or None if there is only one cluster."""
    most = points.median(dim=0).values
    away = (points - most).norm(dim=1)
    far = away > max(_LEAST_DISTANCE, float(away.max()) / 2)
    for _ in range(_ROUNDS):
        if not _LEAST_SHARE < float(far.float().mean()) < 1 - _LEAST_SHARE:
            return None
        most, least = points[~far].mean(dim=0), points[far].mean(dim=0)
        if float((least - most).norm()) < _LEAST_DISTANCE:
            return None
        far = (points - least).norm(dim=1) < (points - most).norm(dim=1)
    return (most, least) if int(far.sum()) * 2 <= len(points) else (least, most)
