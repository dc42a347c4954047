"""Chooses crops with an integral image of the mask, and applies random perspectives to them.

The published code chooses a random window, measures how much of the object it contains, and tries again up to 2,000
times; it crashes if no window qualifies. Here all windows that qualify are computed at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Corners = Tensor  # (N, 2) int64: top and left of N windows


def coverage(mask: Tensor, side: int) -> Tensor:
    """How much of each `side` x `side` window lies in the mask (H, W): (H - side + 1, W - side + 1) in 0..1."""
    total = F.pad(mask.double(), (1, 0, 1, 0)).cumsum(0).cumsum(1)  # the integral image
    inside = total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    return (inside / side**2).clamp(0, 1).float()


def object_windows(covered: Tensor, count: int, least: float, generator: torch.Generator) -> Corners:
    """`count` windows of which at least `least` is object; if there are none, those with most of it."""
    enough = min(least, float(covered.max()))
    return _chosen(covered >= enough - 1e-6, count, generator)


def background_windows(covered: Tensor, count: int, most: float, generator: torch.Generator) -> Corners:
    """`count` windows of which less than `most` is object; none if there is no such window."""
    return _chosen(covered < most, count, generator)


def _chosen(qualified: Tensor, count: int, generator: torch.Generator) -> Corners:
    places = qualified.nonzero()
    if not len(places):
        return places
    return places[torch.randint(len(places), (count,), generator=generator)]


def cut(image: Tensor, corners: Corners, side: int) -> Tensor:
    """The windows of a picture (1, C, H, W), as (N, C, side, side)."""
    if not len(corners):
        return image.new_zeros(0, image.shape[1], side, side)
    return torch.cat([image[..., y : y + side, x : x + side] for y, x in corners.tolist()])


def homographies(count: int, distortion: float, generator: torch.Generator) -> Tensor:
    """Random perspectives (N, 3, 3) on the square -1..1, each corner drawn in by up to `distortion` of half a side.

    They map positions of the result to positions of the source, as grid_sample needs.
    """
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    bent = corners * (1 - distortion * torch.rand(count, 4, 2, generator=generator))  # where the corners go
    x, y = bent.unbind(-1)  # (N, 4)
    u, v = corners[:, 0].expand_as(x), corners[:, 1].expand_as(y)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    rows_u = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], dim=-1)
    rows_v = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], dim=-1)
    solved = torch.linalg.solve(torch.cat([rows_u, rows_v], 1), torch.cat([u, v], 1))  # (N, 8)
    return torch.cat([solved, torch.ones(count, 1)], 1).view(-1, 3, 3)


def bend(crops: Tensor, matrices: Tensor, side: int) -> Tensor:
    """The crops (N, C, h, w) in perspective and resized to `side`, black outside: (N, C, side, side)."""
    line = (torch.arange(side, device=crops.device) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1).view(1, -1, 3)  # (1, side * side, 3)
    moved = places @ matrices.to(crops.device).mT  # (N, side * side, 3)
    grid = (moved[..., :2] / moved[..., 2:]).view(-1, side, side, 2)
    return F.grid_sample(crops, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
