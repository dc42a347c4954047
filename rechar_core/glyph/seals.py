"""Finds the seals of a scan: ink of another colour than the writing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# of two inks' directions; black to vermilion is about 0.5, black to a faded black below 0.1
_LEAST_DISTANCE = 0.2
_NEUTRAL = 0.15  # from the direction of black
_WRITING = 0.25  # of the ink; so much of it in black is the writing, even if a coloured seal covers more
_RIM = 3  # pixels around a seal
_MOST_POINTS = 100_000  # for finding the two colours


def seal_mask(picture: Tensor, ink: Tensor) -> Tensor:
    """Where a seal or stamp is, (H, W) bool, with its soft edge: of the ink's two colours, the one that covers less.

    picture: (H, W, 3) in 0..1, evenly lit. ink: (H, W) bool, neither all True nor all False. Nothing where all ink
    has about one colour. Black of which there is a quarter at least is always the writing.

    An ink's colour is the direction from the paper's colour to the pixel's, which is the same at soft edges, where
    ink and paper mix.
    """
    import torch

    paper = picture[~ink].median(dim=0).values
    directions = _unit(paper - picture[ink])
    colours = _two_colours(directions, _unit(paper))
    if colours is None:
        return torch.zeros_like(ink)
    writing, other = colours
    seal = torch.zeros_like(ink)
    seal[ink] = (directions - other).norm(dim=-1) < (directions - writing).norm(dim=-1)
    contrast = (paper - picture[ink & ~seal]).norm(dim=-1).median()
    rows, columns = (seal.any(dim=side).nonzero() for side in (1, 0))
    around = tuple(slice(max(0, int(at[0]) - _RIM), int(at[-1]) + 1 + _RIM) for at in (rows, columns))
    faint = (paper - picture[around]).norm(dim=-1) < contrast / 2
    seal[around] |= _rim(seal[around], ink[around], faint)
    return seal


def _rim(seal: Tensor, ink: Tensor, faint: Tensor) -> Tensor:
    """The soft edge of a seal, (H, W) bool: what is near it and no ink, too faint to have a sure colour, or alone."""
    import numpy as np
    import torch
    from scipy import ndimage

    near = ndimage.binary_dilation(seal.numpy(), np.ones((3, 3)), iterations=_RIM)
    specks, count = ndimage.label((ink & ~seal).numpy())
    alone = np.isin(specks, 1 + np.flatnonzero(ndimage.minimum(near, specks, np.arange(1, count + 1))))
    return torch.from_numpy(near) & (~ink | faint | torch.from_numpy(alone))


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def _two_colours(directions: Tensor, black: Tensor) -> tuple[Tensor, Tensor] | None:
    """The colours of the writing and of the seal among directions (N, 3), by 2-means; None if there is only one."""
    points = directions[:: max(1, len(directions) // _MOST_POINTS)]
    far = (points - points.median(dim=0).values).norm(dim=1) > _LEAST_DISTANCE
    if not bool(far.any()) or bool(far.all()):
        return None
    first, second = points[~far].mean(dim=0), points[far].mean(dim=0)
    if float((first - second).norm()) < _LEAST_DISTANCE:
        return None
    share = float(((points - first).norm(dim=1) < (points - second).norm(dim=1)).float().mean())
    for colour, other, covered in ((first, second, share), (second, first, 1 - share)):
        if float((colour - black).norm()) < _NEUTRAL and covered >= _WRITING:
            return colour, other
    return (first, second) if share >= 0.5 else (second, first)
