"""What the UNet is trained on: samples from the shards, noise, times and contexts, batch by batch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import parallel
from .codes import (
    CONTENT,
    ELEMENT,
    FIRST_SLOT,
    GRID,
    POSITION,
    POSITION_SIZE,
    SLOTS,
    STYLE,
    TOKENS,
    WIDTH,
    Basis,
)
from .schedule import alphas_cumprod

NO_CONTENT = 0.1  # share of samples whose glyph is not told
BLANK = 0.04  # share of samples with an all-zero context, SDXL's unconditional
GLYPH_WEIGHT = 3.0  # a cell inside the glyph counts so much more: glyphs cover a fifth of a picture


@dataclass
class Samples:
    """All shards in memory: latents (n, 4, 32, 32), content (n, 64, 32), styles (n, 24), elements (n, 8), fp16;
    coverage (n, 1, 32, 32): how much of a latent cell the glyph covers, 0..1, fp16.
    """

    latents: Tensor
    content: Tensor
    styles: Tensor
    elements: Tensor
    coverage: Tensor
    shards: int

    @staticmethod
    def load(folder: Path) -> "Samples":
        paths = sorted((folder / "data").glob("codes_*.npz"))
        parts = [np.load(path) for path in paths]

        def join(name: str) -> Tensor:
            return torch.from_numpy(np.concatenate([part[name] for part in parts]).astype(np.float16))

        content, basis = join("content"), Basis.load(folder / "data" / "basis.npz")
        shown = torch.cat([coverage(part.float(), basis) for part in content.split(2048)])
        return Samples(join("latents"), content, join("styles"), join("elements"), shown, len(paths))


def coverage(content: Tensor, basis: Basis) -> Tensor:
    """(n, 1, 32, 32) in 0..1, fp16: the masks that content codes (n, 64, 32) describe, at the latents' size."""
    half = content[..., :31] @ torch.from_numpy(np.linalg.pinv(basis.glyph)).T
    masks = half.view(-1, GRID, GRID, 8, 8).transpose(2, 3).reshape(-1, 1, 8 * GRID, 8 * GRID)
    return nn.functional.avg_pool2d(masks, 2).clamp(0, 1).half()


def context(content: Tensor, styles: Tensor, elements: Tensor, rng: np.random.Generator) -> Tensor:
    """(batch, 77, 192): codes in their columns; style and elements are unknown to the first few tokens."""
    batch = len(content)
    ctx = torch.zeros(batch, TOKENS, WIDTH)
    ctx[:, FIRST_SLOT:, CONTENT] = content
    ctx[:, FIRST_SLOT:, POSITION] = POSITION_SIZE * torch.eye(SLOTS)
    for row in range(batch):
        known = rng.integers(2, 28)
        ctx[row, known:, STYLE] = styles[row]
        ctx[row, known:, ELEMENT] = elements[row]
    return ctx


@dataclass
class Batch:
    """Noisy latents, integer times, context, the v target, and each cell's weight (batch, 1, 32, 32)."""

    noisy: Tensor
    times: Tensor
    context: Tensor
    target: Tensor
    weight: Tensor


def offset_noise(size: int, source: torch.Generator) -> Tensor:
    """(size, 4, 32, 32): random levels and random coarse blobs, of a strength that differs from sample to sample.

    SDXL's schedule leaves 7 % of the signal at the last time, and the mean of 1024 cells shows through white noise:
    without this the UNet reads the colours there and never asks the style code (Guttenberg 2023, "offset noise").
    """
    level = 0.4 * torch.rand(size, 1, 1, 1, generator=source) * torch.randn(size, 4, 1, 1, generator=source)
    coarse = 0.2 * torch.rand(size, 1, 1, 1, generator=source) * torch.randn(size, 4, 5, 5, generator=source)
    return level + nn.functional.interpolate(coarse, (32, 32), mode="bilinear", align_corners=True)


def colour_noise(latents: Tensor, strength: float, source: torch.Generator) -> Tensor:
    """Noise in the picture's own shapes: a random 4x4 mix of its channels and a random level; latents (n, 4, 32, 32).

    While it samples, the UNet meets its own earlier errors, and those are wrong colours of ground and glyph. As noise
    in training they teach it to take the colours from the style code at every time, and so to mend them.
    """
    size = len(latents)
    share = strength * torch.rand(size, 1, 1, generator=source)
    mix = share * torch.randn(size, 4, 4, generator=source)
    level = share * torch.randn(size, 4, 1, generator=source)
    return (mix @ latents.flatten(2) + level).view_as(latents)


class Drawer:
    """Draws the batch of a (process, step)."""

    def __init__(self, folder: Path, size: int, colour_noise: float, blind: float) -> None:
        self.folder, self.size, self.colour_noise, self.blind = folder, size, colour_noise, blind
        self.samples = Samples.load(folder)
        self.alphas = alphas_cumprod()

    def refresh(self) -> None:
        """Take in shards that were rendered since."""
        if len(list((self.folder / "data").glob("codes_*.npz"))) != self.samples.shards:
            self.samples = Samples.load(self.folder)

    def __call__(self, step: int) -> Batch:
        rng = np.random.default_rng([7, parallel.RANK, step])
        noise_source = torch.Generator().manual_seed(step * parallel.WORLD + parallel.RANK)
        rows = torch.from_numpy(rng.integers(0, len(self.samples.latents), self.size))
        latents = self.samples.latents[rows].float()
        content = self.samples.content[rows].float()
        content[..., :-1] += 0.08 * torch.randn(content[..., :-1].shape, generator=noise_source)
        content[torch.from_numpy(rng.random(self.size) < NO_CONTENT)] = 0
        styles = self.samples.styles[rows].float()
        styles += 0.04 * torch.randn(styles.shape, generator=noise_source)
        ctx = context(content, styles, self.samples.elements[rows].float(), rng)
        ctx[torch.from_numpy(rng.random(self.size) < BLANK)] = 0
        stratum = (np.arange(self.size) + rng.random(self.size)) / self.size
        times = torch.from_numpy((1000 * stratum**0.6).astype(np.int64)).clamp(max=999)
        blind = torch.from_numpy(rng.random(self.size) < self.blind).view(-1, 1, 1, 1)
        late = torch.from_numpy(rng.integers(880, 1000, self.size))
        times = torch.where(blind.flatten(), late, times)
        kept = self.alphas[times].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=noise_source) + offset_noise(self.size, noise_source)
        noise += torch.where(blind, 0, colour_noise(latents, self.colour_noise, noise_source))
        noisy = torch.where(blind, noise, kept.sqrt() * latents + (1 - kept).sqrt() * noise)
        target = (kept.sqrt() * noisy - latents) / (1 - kept).sqrt()  # v, also where the input is noise alone
        ratio = (kept / (1 - kept)).view(-1, 1, 1, 1)
        cells = (6 / (ratio + 1)).clamp(max=1) * (1 + GLYPH_WEIGHT * self.samples.coverage[rows].float())
        return Batch(noisy, times, ctx, target, cells)
