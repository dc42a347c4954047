"""The latents: principal components of 8x8 px patches, in two linear steps, so that the VAE's encoder can be written.

Step one keeps 32 of the 48 values of a 4x4 px patch, step two keeps `CHANNELS` of the 128 values of four such patches.
The coarse components (colour) have deviation 1; finer ones less, their variance to the power `WHITENING`: they are
then lost earlier in the noise than coarse ones, as in pictures themselves.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

INNER = 32
WHITENING = 0.3


@dataclass(frozen=True)
class Basis:
    """first (32, 48): components of a 4x4 px patch, row, column, colour; second (channels, 128): of a 2x2 patch of
    those, row, column, component; mean (48,) of the 4x4 px patches; pictures in -1..1.
    """

    first: Tensor
    second: Tensor
    mean: Tensor

    @property
    def channels(self) -> int:
        return len(self.second)

    def to(self, device: torch.device | str) -> "Basis":
        return Basis(self.first.to(device), self.second.to(device), self.mean.to(device))

    def latents(self, pictures: Tensor) -> Tensor:
        """Latents (n, channels, h / 8, w / 8) of pictures (n, 3, h, w) in 0..1."""
        inner = nn.functional.conv2d(
            2 * pictures - 1, patch_kernel(self.first, 4, 3), -(self.first @ self.mean), 4
        )
        return nn.functional.conv2d(inner, patch_kernel(self.second, 2, INNER), stride=2)

    def back(self) -> Tensor:
        """(channels, 3, 8, 8): what one unit of each latent adds to a patch of the picture, by the transposed maps."""
        inner = torch.linalg.pinv(self.first)  # (48, 32)
        outer = torch.linalg.pinv(self.second).view(2, 2, INNER, -1)  # row, column, component, channel
        patch = torch.einsum("pi,rcik->kprc", inner, outer)  # channel, 48, row, column
        split = patch.reshape(-1, 4, 4, 3, 2, 2).permute(0, 3, 4, 1, 5, 2)  # channel, colour, R, r, C, c
        return split.reshape(-1, 3, 8, 8)

    def pictures(self, latents: Tensor) -> Tensor:
        """Pictures (n, 3, 8h, 8w) in 0..1 by the pseudo-inverse alone: blocky, a baseline for the decoder."""
        found = nn.functional.conv_transpose2d(latents, self.back(), stride=8)
        grey = (
            self.mean.view(4, 4, 3)
            .permute(2, 0, 1)[None]
            .repeat(1, 1, found.shape[2] // 4, found.shape[3] // 4)
        )
        return (found + grey) / 2 + 0.5

    def save(self, path: Path) -> None:
        np.savez(path, first=self.first.numpy(), second=self.second.numpy(), mean=self.mean.numpy())

    @staticmethod
    def load(path: Path) -> "Basis":
        with np.load(path) as stored:
            return Basis(*(torch.from_numpy(stored[name]) for name in ("first", "second", "mean")))


def patch_kernel(rows: Tensor, size: int, channels: int) -> Tensor:
    """Rows over (row, column, channel) as a convolution's weight (n, channels, size, size)."""
    return rows.view(-1, size, size, channels).permute(0, 3, 1, 2).contiguous()


def _unfold(images: Tensor, size: int) -> Tensor:
    """(n, c, h, w) -> (patches, size * size * c), each patch as row, column, channel."""
    n, c, h, w = images.shape
    split = images.view(n, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1)
    return split.reshape(-1, size * size * c)


def _components(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first principal components (count, width) and their variances; rows are centred or nearly so."""
    values, vectors = torch.linalg.eigh((rows.T @ rows / len(rows)).double())
    order = values.argsort(descending=True)[:count]
    return vectors[:, order].T.float(), values[order].float()


def fit_basis(pictures: Tensor, channels: int) -> Basis:
    """Principal components of pictures (n, 3, 256, 256) in 0..1."""
    flat = _unfold(2 * pictures - 1, 4)
    mean = flat.mean(0)
    first, _ = _components(flat - mean, INNER)
    inner = ((flat - mean) @ first.T).view(len(pictures), 64, 64, INNER).permute(0, 3, 1, 2)
    second, variances = _components(_unfold(inner, 2), channels)
    deviation = (variances / variances[0]) ** (WHITENING / 2)
    second = second * (deviation / variances.sqrt())[:, None]
    signs = torch.sign(second @ second.new_ones(128))  # the decomposition leaves signs open: fix them
    return Basis(first, second * torch.where(signs == 0, 1.0, signs)[:, None], mean)
