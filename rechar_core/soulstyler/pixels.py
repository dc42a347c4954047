"""Normalises pictures for the pretrained networks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..images import CLIP_STATISTICS

CLIP = CLIP_STATISTICS
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(image: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """(N, 3, H, W) in 0..1, minus the mean and divided by the standard deviation of each colour. Differentiable."""
    mean, deviation = (
        torch.tensor(values, device=image.device, dtype=image.dtype).view(1, 3, 1, 1) for values in statistics
    )
    return (image - mean) / deviation
