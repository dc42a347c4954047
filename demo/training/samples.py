"""What the UNet is trained on: latents and codes of the pictures, noise, times and contexts, batch by batch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..pictures.elements import ELEMENTS
from ..pictures.glyph_masks import signed_distance
from .codes import CodeBasis, context, measure, style_code
from .latents import Basis
from .shards import EXACT, NATURAL

NO_CONTENT, NO_STYLE, NO_ELEMENTS, BLANK = 0.12, 0.08, 0.08, 0.1  # shares of samples that are not told this
NO_FAMILY = 0.4  # share of samples in which the style is known by its measurements alone
GLYPH_WEIGHT = 2.0  # a cell inside the glyph counts so much more: glyphs cover a fifth of a picture
FIELDS = ("latents", "masks", "elements", "measured", "kinds", "family", "flags")


@torch.no_grad()
def encode_shard(
    shard: dict[str, np.ndarray], basis: Basis, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """A shard's rows of `FIELDS`: latents fp16 (n, c, 32, 32); masks, elements uint8 (n, 128, 128); measured fp16
    (n, 43); kinds uint8 (n, 12); family int64 (n,); flags uint8 (n,). Pictures themselves are not kept.
    """
    found: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
    for first in range(0, len(shard["flags"]), 64):
        part = {
            name: torch.from_numpy(values[first : first + 64]).to(device) for name, values in shard.items()
        }
        pictures = part["pictures"].float() / 255
        masks, elements = part["masks"][:, None].float() / 255, part["elements"][:, None].float() / 255
        far = np.stack([signed_distance(mask) for mask in shard["masks"][first : first + 64]])
        small = nn.functional.avg_pool2d(pictures, 2)
        measured = measure(small, masks, torch.from_numpy(far)[:, None].to(device), elements)
        bits = part["kinds"].long()[:, None] >> torch.arange(len(ELEMENTS), device=device) & 1
        row = {
            "latents": basis.latents(pictures).half(),
            "measured": measured.half(),
            "kinds": bits.to(torch.uint8),
            "family": part["family"].long(),
        }
        for name in FIELDS:
            found[name].append(row.get(name, part.get(name)))
    return {name: torch.cat(parts) for name, parts in found.items()}


class Samples:
    """All encoded samples in memory (about 50 kB each), from FOLDER/data by way of FOLDER/codes."""

    def __init__(
        self,
        folder: Path,
        basis: Basis,
        device: torch.device | str = "cpu",
        limit: int = 40_000,
        encoded: bool = False,
    ) -> None:
        self.folder, self.basis, self.device, self.limit = folder, basis, device, limit
        self.pattern = "codes/[0-9]*.pt" if encoded else "data/[0-9]*.npz"
        self.parts: list[dict[str, Tensor]] = []
        self.seen: set[str] = set()
        self.starts = np.zeros(1, np.int64)

    def refresh(self, most: int = 1000) -> None:
        """Take in up to `most` shards that were rendered since; beyond `limit` samples the oldest make room."""
        for path in sorted(self.folder.glob(self.pattern)):
            if path.name in self.seen or most <= 0:
                continue
            self.parts.append(self._encoded(path))
            self.seen.add(path.name)
            most -= 1
        while self.parts and sum(len(part["flags"]) for part in self.parts) > self.limit:
            self.parts.pop(0)
        self.starts = np.cumsum([0, *(len(part["flags"]) for part in self.parts)])

    def _encoded(self, path: Path) -> dict[str, Tensor]:
        stored = self.folder / "codes" / f"{path.stem}.pt"
        if stored.exists():
            return torch.load(stored, weights_only=True, map_location=self.device)
        with np.load(path) as shard:
            found = encode_shard(dict(shard), self.basis, self.device)
        stored.parent.mkdir(parents=True, exist_ok=True)
        partial = stored.with_suffix(".partial")
        torch.save({name: tensor.cpu() for name, tensor in found.items()}, partial)
        partial.rename(stored)
        return found

    def __len__(self) -> int:
        return int(self.starts[-1])

    def draw(self, count: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """`count` random rows."""
        picked = np.sort(rng.integers(0, len(self), count))
        owner = np.searchsorted(self.starts, picked, side="right") - 1
        found: dict[str, list[Tensor]] = {name: [] for name in FIELDS}
        for part in np.unique(owner):
            rows = torch.from_numpy(picked[owner == part] - self.starts[part]).to(self.device)
            for name in FIELDS:
                found[name].append(self.parts[part][name][rows])
        return {name: torch.cat(parts) for name, parts in found.items()}


@dataclass
class Batch:
    """Noisy latents (n, c, 32, 32), integer times (n,), context (n, 77, 320), the v target, each cell's weight
    (n, 1, 32, 32), and 1 where glyph slots and element slots are told (n,).
    """

    noisy: Tensor
    times: Tensor
    context: Tensor
    target: Tensor
    weight: Tensor
    told: Tensor


def alphas_cumprod(device: torch.device | str = "cpu") -> Tensor:
    """(1000,): the share of signal power at each time of SDXL's schedule."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float().to(device)


class Drawer:
    """Draws the batch of a step; everything random is a function of the step."""

    def __init__(
        self, samples: Samples, codes: CodeBasis, size: int, blind: float = 0.2, colour_noise: float = 0.2
    ):
        self.samples, self.codes, self.size = samples, codes.to(samples.device), size
        self.blind, self.colour_noise, self.device = blind, colour_noise, torch.device(samples.device)
        self.alphas = alphas_cumprod(self.device)

    def __call__(self, step: int) -> Batch:
        rows = self.samples.draw(self.size, np.random.default_rng([7, step]))
        source = torch.Generator(self.device).manual_seed(step)
        ctx, told = self.context(rows, source)
        latents = rows["latents"].float()
        times, blind = self.times(source)
        kept = self.alphas[times].view(-1, 1, 1, 1)
        noise = self.noise(latents, blind, source)
        noisy = torch.where(blind, noise, kept.sqrt() * latents + (1 - kept).sqrt() * noise)
        target = (kept.sqrt() * noisy - latents) / (1 - kept).sqrt()  # v, also where the input is noise alone
        shown = nn.functional.avg_pool2d(rows["masks"][:, None].float() / 255, 4)
        weight = (6 * (1 - kept)).clamp(max=1) * (1 + GLYPH_WEIGHT * shown)
        return Batch(noisy, times, ctx, target, weight, told)

    def _rand(self, source: torch.Generator, *shape: int) -> Tensor:
        return torch.rand(shape or (self.size,), generator=source, device=self.device)

    def _randn(self, source: torch.Generator, *shape: int) -> Tensor:
        return torch.randn(shape, generator=source, device=self.device)

    def context(self, rows: dict[str, Tensor], source: torch.Generator) -> tuple[Tensor, Tensor]:
        """What is said of the samples, a little noisy and with parts left out; and whether glyphs are told."""
        content = self.codes.content(rows["masks"].float() / 255)
        content[..., :-1] += 0.06 * self._randn(source, *content[..., :-1].shape)
        untold = (self._rand(source) < NO_CONTENT) | (rows["flags"] & NATURAL > 0)
        content[untold] = 0
        plain = rows["flags"] & EXACT > 0
        family = torch.where((self._rand(source) < NO_FAMILY) & ~plain, -1, rows["family"])
        styles = style_code(family, rows["measured"].float())
        styles[:, :-1] += 0.05 * self._randn(source, *styles[:, :-1].shape)
        styles[self._rand(source) < NO_STYLE] = 0
        elements = self.codes.elements(rows["elements"].float() / 255, rows["kinds"].float())
        elements[self._rand(source) < NO_ELEMENTS] = 0
        known = torch.randint(2, 30, (self.size,), generator=source, device=self.device)
        blank = self._rand(source) < BLANK
        return context(content, styles, elements, known, blank), (~blank).float()

    def times(self, source: torch.Generator) -> tuple[Tensor, Tensor]:
        """Times drawn towards the noisy end, and which samples are blind: noise alone as input, at late times."""
        stratum = (torch.arange(self.size, device=self.device) + self._rand(source)) / self.size
        blind = self._rand(source) < self.blind
        late = 880 + 119 * self._rand(source)
        times = torch.where(blind, late, 999 * stratum**0.65).long()
        return times, blind.view(-1, 1, 1, 1)

    def noise(self, latents: Tensor, blind: Tensor, source: torch.Generator) -> Tensor:
        """White noise, random levels and coarse blobs (offset noise: without it the UNet reads the colours from the
        7 % of signal that SDXL's last time leaves), and noise in the picture's own shapes: wrong colours, as the
        sampler's earlier steps make them, to be mended from the style code.
        """
        n, c, h, w = latents.shape
        level = 0.3 * self._rand(source, n, 1, 1, 1) * self._randn(source, n, c, 1, 1)
        coarse = 0.15 * self._rand(source, n, 1, 1, 1) * self._randn(source, n, c, 5, 5)
        blobs = nn.functional.interpolate(coarse, (h, w), mode="bilinear", align_corners=True)
        share = self.colour_noise * self._rand(source, n, 1, 1)
        mixed = share * self._randn(source, n, c, 3) @ latents[:, :3].flatten(2)
        own = (mixed + share * self._randn(source, n, c, 1)).view_as(latents)
        return self._randn(source, n, c, h, w) + level + blobs + torch.where(blind, 0, own)
