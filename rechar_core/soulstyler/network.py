"""The small U-Net that Soulstyler fits to one picture: 16-32-64-128 channels, InstanceNorm, sigmoid."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 8  # three stride-2 convolutions


class _Double(nn.Module):
    """Two normalised 3 x 3 convolutions, with a 1 x 1 convolution as residual connection."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        layers: list[nn.Module] = []
        for wide in (channels, width):
            layers += [nn.Conv2d(wide, width, 3, padding=1), nn.InstanceNorm2d(width), nn.ReLU()]
        self.main = nn.Sequential(*layers)
        self.residual = nn.Conv2d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.main(x) + self.residual(x)
        return out


class StyleNet(nn.Module):
    """Maps (B, 3, H, W) in 0..1 to the same shape and range; each side at least 16.

    0.6 million parameters, initialised from `generator`.
    """

    def __init__(self, generator: torch.Generator, width: int = 16):
        super().__init__()
        with torch.device("meta"):  # PyTorch's initialisation would use the global generator
            self.first = nn.Sequential(nn.Conv2d(3, width, 1), _Double(width, width))
            widths = [width, width, 2 * width, 4 * width]
            self.down = nn.ModuleList(_Double(a, b) for a, b in pairwise(widths))
            self.smaller = nn.ModuleList(nn.Conv2d(w, w, 4, 2, 1) for w in widths[1:])
            self.middle = _Double(4 * width, 8 * width)
            self.up = nn.ModuleList(_Double(3 * w, w) for w in (4 * width, 2 * width, width))
            self.last = _Double(2 * width, width)
            self.colour = nn.Conv2d(width, 3, 1)
        self.to_empty(device="cpu")
        _initialise(self, generator)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        start = x = self.first(x)
        skips = []
        for block, smaller in zip(self.down, self.smaller):
            skips.append(block(x))
            x = smaller(skips[-1])
        x = self.middle(x)
        for block in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear")
            x = block(torch.cat([x, skips.pop()], dim=1))
        x = self.colour(self.last(torch.cat([x, start], dim=1)))
        return torch.sigmoid(x[..., :height, :width])


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """PyTorch's own initialisation of a convolution, U(-b, b) with b = 1 / sqrt(fan in), from a given generator."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                bound = layer.weight[0].numel() ** -0.5
                for parameter in layer.parameters():
                    parameter.uniform_(-bound, bound, generator=generator)
