"""The language between text encoders and UNet: a 77-token context with a fixed meaning for every column.

    columns   0..47   text encoder 1   content: 47 principal components of a 32x32 px patch of the mask, and a flag
    columns  48..95   text encoder 1   free (work space of the encoder; no block reads it)
    columns  96..175  text encoder 2   style: the family's own column, what was measured on the picture, and a flag
    columns 176..207  text encoder 2   elements: a column each, 16 components of their mask's patch, and a flag
    columns 208..271  text encoder 2   position: one column per slot
    columns 272..319  text encoder 2   free

Tokens 13..76 are the 64 slots: slot 8 * row + column speaks of that 32x32 px patch, one token of up_blocks.0. A prompt
of up to 13 tokens is read before the first slot.

The style is *measured*, not only named: colours, how they vary, how strong the texture is in four octaves, which way it
runs, what the edge looks like. A photograph has such a code as well as any family.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..pictures.batches import FAMILY_NAMES
from ..pictures.elements import ELEMENTS
from ..pictures.fields import blur, slopes

TOKENS, SLOTS, FIRST_SLOT, GRID = 77, 64, 13, 8
CONTENT, STYLE, ELEMENT, POSITION = slice(0, 48), slice(96, 176), slice(176, 208), slice(208, 272)
WIDTH_1, WIDTH_2 = 96, 224
WIDTH = WIDTH_1 + WIDTH_2
POSITION_SIZE = 4.0  # value of a slot's own position column
FAMILY_COLUMNS = 36
MEASURED = slice(FAMILY_COLUMNS, 79)  # within the style's columns; 79 is the flag
ELEMENT_PATCH = slice(12, 28)  # within the elements' columns; 31 is the flag
assert len(FAMILY_NAMES) <= FAMILY_COLUMNS and len(ELEMENTS) == 12


def slot_patches(masks: Tensor) -> Tensor:
    """(n, 128, 128) -> (n, 64, 256): the 16x16 patches, row by row."""
    return masks.view(len(masks), GRID, 16, GRID, 16).transpose(2, 3).reshape(len(masks), SLOTS, 256)


@dataclass(frozen=True)
class CodeBasis:
    """Components of 16x16 patches at 128 px, not centred (a blank patch is zero).

    glyph (47, 256), element (16, 256).
    """

    glyph: Tensor
    element: Tensor

    def content(self, masks: Tensor) -> Tensor:
        """(n, 64, 48) of masks (n, 128, 128) in 0..1."""
        code = torch.ones(len(masks), SLOTS, 48, device=masks.device)
        code[..., :47] = slot_patches(masks) @ self.glyph.T
        return code

    def elements(self, masks: Tensor, kinds: Tensor) -> Tensor:
        """(n, 64, 32) of the elements' coverage (n, 128, 128) and kinds (n, 12) of 0 and 1."""
        code = torch.zeros(len(masks), SLOTS, 32, device=masks.device)
        code[..., :12] = 2 * kinds[:, None]
        code[..., ELEMENT_PATCH] = slot_patches(masks) @ self.element.T
        code[..., 31] = 1
        return code

    def masks(self, content: Tensor) -> Tensor:
        """The masks (n, 128, 128) that content codes (n, 64, 48) describe."""
        patches = content[..., :47] @ torch.linalg.pinv(self.glyph).T
        return patches.view(-1, GRID, GRID, 16, 16).transpose(2, 3).reshape(-1, 128, 128)

    def to(self, device: torch.device | str) -> "CodeBasis":
        return CodeBasis(self.glyph.to(device), self.element.to(device))

    def save(self, path: Path) -> None:
        np.savez(path, glyph=self.glyph.numpy(), element=self.element.numpy())

    @staticmethod
    def load(path: Path) -> "CodeBasis":
        with np.load(path) as stored:
            return CodeBasis(*(torch.from_numpy(stored[name]) for name in ("glyph", "element")))


def _components(masks: Tensor, count: int) -> Tensor:
    patches = slot_patches(masks).reshape(-1, 256)
    patches = patches[patches.sum(1) > 0.5]
    values, vectors = torch.linalg.eigh((patches.T @ patches / len(patches)).double())
    order = values.argsort(descending=True)[:count]
    rows = vectors[:, order].T.float()
    signs = torch.sign(rows.sum(1, keepdim=True))
    return rows * torch.where(signs == 0, 1.0, signs) * (1.6 / values[order].float()[:, None] ** 0.25)


def fit_codes(masks: Tensor, elements: Tensor) -> CodeBasis:
    """Half-whitened components, as the first demo model's were."""
    return CodeBasis(_components(masks, 47), _components(elements, 16))


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    """(n, c): weighted mean over the picture."""
    return (values * weight).sum((2, 3)) / (weight.sum((2, 3)) + 1e-3)


def _spread(pictures: Tensor, weight: Tensor, mean: Tensor) -> Tensor:
    """(n, 6): the colours' covariance, each entry to the power 1/2 with its sign."""
    rest = pictures - mean[..., None, None]
    pairs = [(0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)]
    entries = torch.cat([_mean(rest[:, a : a + 1] * rest[:, b : b + 1], weight) for a, b in pairs], 1)
    return entries.sign() * (entries.abs() + 1e-6).sqrt()


def _octaves(grey: Tensor) -> list[Tensor]:
    smooth = [grey, *(blur(grey, sigma) for sigma in (0.8, 1.6, 3.2, 6.4))]
    return [fine - coarse for fine, coarse in pairwise(smooth)]


def _region(pictures: Tensor, weight: Tensor, octaves: list[Tensor], tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Mean colour (n, 3), and texture (n, 13) of one region."""
    mean = _mean(pictures, weight)
    strength = torch.cat([(_mean(band**2, weight) + 1e-6).sqrt() for band in octaves], 1)
    sparks = _mean(octaves[1] ** 3, weight) / (strength[:, 1:2] ** 3 + 1e-4)
    run = _mean(tensor[:, :2], weight) / (_mean(tensor[:, 2:], weight) + 1e-4)
    return mean, torch.cat([5 * _spread(pictures, weight, mean), 12 * strength, 0.5 * sparks, 2 * run], 1)


def measure(pictures: Tensor, masks: Tensor, distances: Tensor, elements: Tensor) -> Tensor:
    """(n, 43): what a picture's style looks like, about -2..2.

    pictures (n, 3, 128, 128), masks, elements (n, 1, 128, 128) in 0..1; distances (n, 1, 128, 128) in px of 128.
    Glyph and ground: mean colour, its covariance, the strength of four octaves of luminance, skewness, direction; the
    edge: colour of a rim inside and a halo outside, less the means, and on which side the halo is darker.
    """
    clear = 1 - elements
    core = (distances > 0.7).float() * clear + 1e-4 * masks
    far = (distances < -5.0).float() * clear + 1e-4 * (1 - masks)
    grey = pictures.mean(1, keepdim=True)
    octaves = _octaves(grey)
    across, down = slopes(blur(grey, 0.8))
    tensor = torch.cat([across**2 - down**2, 2 * across * down, across**2 + down**2], 1)
    ink, ink_texture = _region(pictures, core, octaves, tensor)
    ground, ground_texture = _region(pictures, far, octaves, tensor)
    rim = ((distances > 0) & (distances < 1.6)).float() * clear
    halo = ((distances < -0.7) & (distances > -5)).float() * clear
    gx, gy = slopes(blur(distances.clamp(-8, 8), 1.0))
    side = torch.cat([_mean(grey * gx, halo), _mean(grey * gy, halo)], 1)
    has_halo = (halo.sum((2, 3)) > 20).float()
    edge = torch.cat(
        [3 * (_mean(pictures, rim) - ink), 3 * (_mean(pictures, halo) - ground) * has_halo, 6 * side], 1
    )
    found = torch.cat([3 * (ink - 0.5), 3 * (ground - 0.5), ink_texture, ground_texture, edge], 1)
    return nn.functional.pad(found, (0, MEASURED.stop - MEASURED.start - found.shape[1])).clamp(-4, 4)


def style_code(family: Tensor, measured: Tensor) -> Tensor:
    """(n, 80) from family numbers (n,), -1 for none, and what `measure` gives."""
    code = torch.zeros(len(measured), 80, device=measured.device)
    known = family >= 0
    code[known, family[known]] = 2.0
    code[:, MEASURED] = measured
    code[:, 79] = 1
    return code


def context(
    content: Tensor, styles: Tensor, elements: Tensor, known_from: Tensor, blank: Tensor | None = None
) -> Tensor:
    """(n, 77, 320). content (n, 64, 48), styles (n, 80), elements (n, 64, 32); known_from (n,): the first token that
    has read the style; blank (n,): true where nothing at all is said, as by an empty prompt.
    """
    ctx = torch.zeros(len(content), TOKENS, WIDTH, device=content.device)
    ctx[:, FIRST_SLOT:, CONTENT] = content
    ctx[:, FIRST_SLOT:, ELEMENT] = elements
    ctx[:, FIRST_SLOT:, POSITION] = POSITION_SIZE * torch.eye(SLOTS, device=content.device)
    told = torch.arange(TOKENS, device=content.device)[None] >= known_from[:, None]
    ctx[..., STYLE] = styles[:, None] * told[..., None]
    if blank is not None:
        ctx[blank] = 0
    return ctx
