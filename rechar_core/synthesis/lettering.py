"""A word of single characters: each is generated in its own square, all in one style, then composed with alpha."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..device import next_seed
from ..errors import ImageError, check_choice
from ..images import LATENT_SCALE

if TYPE_CHECKING:
    from torch import Tensor

SHARED_STYLES = ("noise and statistics", "noise", "off")
MATTES = ("glyph", "drawn", "square")
_SEEDS_EACH = 3  # one for each pass
_LEAST_INK = 1e-3  # of the picture; with less ink, no statistics are computed


@dataclass(frozen=True)
class Cell:
    """A square on the word's canvas, in its pixels; it may extend beyond the canvas."""

    top: int
    left: int
    side: int


def cells(characters: Tensor, side: int, margin: float) -> tuple[Tensor, list[Cell]]:
    """Each character's mask in its own square, (N, side, side), and the positions of the squares in the word.

    characters: MASK (N, H, W), one mask per character at its place in the word. All squares have the same size, so
    that strokes keep their relative widths; the largest character fills its square except for the margin (a fraction
    of the side). Raises ImageError if a character has no ink, or if the side is not a multiple of a latent cell.
    """
    import torch
    import torch.nn.functional as F

    if side < LATENT_SCALE or side % LATENT_SCALE:
        raise ImageError(f"The side is {side} pixels; give a multiple of {LATENT_SCALE}, such as 1024.")
    boxes = [_box(mask, number) for number, mask in enumerate(characters)]
    room = 1 - 2 * margin
    edge = max(1, *(round(max(bottom - top, right - left) / room) for top, bottom, left, right in boxes))
    places = [
        Cell(round((top + bottom - edge) / 2), round((left + right - edge) / 2), edge)
        for top, bottom, left, right in boxes
    ]
    canvas = (characters.shape[1], characters.shape[2])
    cut = torch.stack(
        [F.pad(mask.float().cpu(), _margins(cell, canvas)) for mask, cell in zip(characters, places)]
    )
    return _resized(cut[:, None], side)[:, 0].clamp(0, 1), places


def _box(mask: Tensor, number: int) -> tuple[int, int, int, int]:
    """Top, bottom, left, right of the ink; bottom and right are one past it."""
    rows, columns = (mask >= 0.5).any(1).nonzero(), (mask >= 0.5).any(0).nonzero()
    if not len(rows):
        raise ImageError(
            f"Character {number + 1} has no ink; connect the output 'characters' of the Glyph node."
        )
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def composed(pictures: Tensor, mattes: Tensor, places: Sequence[Cell], size: tuple[int, int]) -> Tensor:
    """The word as (H, W, 4), colours and alpha, straight (not premultiplied).

    pictures: IMAGE (N, S, S, 3), mattes: (N, S, S), each scaled to its cell; later characters cover earlier ones.
    """
    import torch
    import torch.nn.functional as F

    page = torch.zeros(4, *size)
    for picture, matte, cell in zip(pictures, mattes, places, strict=True):
        layer = torch.cat([picture[..., :3].cpu().float() * matte[..., None], matte[..., None]], -1)
        small = _resized(layer.movedim(-1, 0)[None], cell.side)[0].clamp(0, 1)
        over = F.pad(small, [-n for n in _margins(cell, size)])
        page = over + page * (1 - over[3:])
    colour, alpha = page[:3], page[3:]
    return torch.cat([(colour / alpha.clamp_min(1e-6)).clamp(0, 1), alpha]).movedim(0, -1).contiguous()


def _margins(cell: Cell, size: tuple[int, int]) -> list[int]:
    """How far a cell reaches beyond a canvas (height, width): left, right, top and bottom, as F.pad takes them."""
    height, width = size
    return [-cell.left, cell.left + cell.side - width, -cell.top, cell.top + cell.side - height]


def mattes_of(kind: str, pictures: Tensor, masks: Tensor) -> Tensor:
    """The matte (N, S, S) of each picture (N, S, S, 3): which part of it goes into the word.

    kind: "glyph", the character's own mask; "drawn", the glyph as generated, segmented by colour and texture, so that
    strokes that became wider or narrower are complete; "square", the whole picture. Raises ImageError for another kind.
    """
    import torch

    check_choice("matte", kind, MATTES, ImageError)
    if kind == "square":
        return torch.ones_like(masks)
    if kind == "glyph":
        return masks
    return torch.stack([_drawn(picture, mask) for picture, mask in zip(pictures, masks, strict=True)])


def _drawn(picture: Tensor, mask: Tensor) -> Tensor:
    """The mask of the glyph as generated, with an edge softened over about a pixel."""
    import torch
    from scipy import ndimage

    from ..metrics.segment import glyph_mask

    segmented = glyph_mask(picture[..., :3].double().cpu().numpy(), (mask >= 0.5).cpu().numpy())
    return torch.from_numpy(ndimage.gaussian_filter(segmented.astype("float32"), 0.7)).to(mask)


def _resized(images: Tensor, side: int) -> Tensor:
    import torch.nn.functional as F

    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)


def seed_of(shared_style: str, seed: int, number: int) -> int:
    """The seed of character `number`: the same for all, unless `shared_style` is "off". Raises ImageError."""
    check_choice("shared style", shared_style, SHARED_STYLES, ImageError)
    return next_seed(seed, _SEEDS_EACH * number if shared_style == "off" else 0)


class SharedStyle:
    """Gives all characters the latent statistics of the first one, at every step, for ink and background separately.

    Adaptive instance normalisation (Huang and Belongie, 2017) of the denoised latent: inside a character's mask, each
    channel is given the mean and standard deviation that the first character had inside its mask at the same step;
    likewise outside. The two are separate because characters differ in the amount of ink, not in its colour.
    """

    def __init__(self) -> None:
        self._steps: list[list[tuple[Tensor, Tensor] | None]] = []

    def each_step(self, mask: Tensor) -> Callable[[Tensor], Tensor]:
        """A function that changes the denoised latent (1, C, h, w) of every step of a character with the mask (H, W).

        For the first character it only records the statistics.
        """
        first, step = not self._steps, -1

        def change(latent: Tensor) -> Tensor:
            nonlocal step
            step += 1
            ink = _on_grid(mask, latent)
            regions = [w if float(w.mean()) > _LEAST_INK else None for w in (ink, 1 - ink)]
            if first:
                self._steps.append([None if w is None else _statistics(latent, w) for w in regions])
                return latent
            target = self._steps[min(step, len(self._steps) - 1)]
            inside, outside = (_aligned(latent, w, t) for w, t in zip(regions, target, strict=True))
            return ink * inside + (1 - ink) * outside

        return change


def _on_grid(mask: Tensor, latent: Tensor) -> Tensor:
    import torch.nn.functional as F

    small = F.adaptive_avg_pool2d(mask.float()[None, None], (latent.shape[-2], latent.shape[-1]))
    return small.to(latent)


def _statistics(latent: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of each channel, (1, C, 1, 1) each."""
    total = weights.sum()
    mean = (latent * weights).sum((2, 3), keepdim=True) / total
    spread = (((latent - mean) ** 2 * weights).sum((2, 3), keepdim=True) / total).sqrt()
    return mean, spread


def _aligned(latent: Tensor, weights: Tensor | None, wanted: tuple[Tensor, Tensor] | None) -> Tensor:
    if weights is None or wanted is None:
        return latent
    mean, spread = _statistics(latent, weights)
    return (latent - mean) / spread.clamp_min(1e-6) * wanted[1] + wanted[0]
