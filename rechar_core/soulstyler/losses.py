"""The losses of Soulstyler as in its code (yisuanwang/Soulstyler, after CLIPstyler, Kwon and Ye, CVPR 2022)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_loss(crops: Tensor, source: Tensor, direction: Tensor, threshold: float) -> Tensor:
    """1 - cosine between the crops' change in CLIP space and `direction`; values below `threshold` count as 0; mean.

    crops: CLIP features of N crops (N, D); source: of the whole source (1, D); both of length 1.
    direction: style minus photo (1, D).
    """
    distance = 1 - F.cosine_similarity(crops - source, direction.expand_as(crops), dim=1)
    return torch.where(distance < threshold, torch.zeros_like(distance), distance).mean()


def content_loss(features: Iterable[Tensor], source: Iterable[Tensor]) -> Tensor:
    """The mean squared errors of VGG features, added up over the layers."""
    return torch.stack([F.mse_loss(a, b) for a, b in zip(features, source, strict=True)]).sum()


def smoothness_loss(image: Tensor) -> Tensor:
    """Total variation: the norms of the differences along rows, columns and both diagonals of (1, 3, H, W)."""
    differences = (
        image[..., :, :-1] - image[..., :, 1:],
        image[..., :-1, :] - image[..., 1:, :],
        image[..., 1:, :-1] - image[..., :-1, 1:],
        image[..., :-1, :-1] - image[..., 1:, 1:],
    )
    return torch.stack([torch.linalg.vector_norm(d) for d in differences]).sum()


def background_loss(crops: Tensor, source: Tensor) -> Tensor:
    """The crops' mean squared errors, (N, 3, h, w) each, added up over the crops; 0 without crops."""
    return (crops - source).square().flatten(1).mean(1).sum()
