"""The language between text encoders and UNet: a 77-token context with a fixed meaning for every column.

Real SDXL learns such a language from a billion pictures; a model of ten minutes is given one.

    columns   0..31   text encoder 1   content: 31 principal components of a 16x16 px glyph patch, and a flag
    columns  32..63   text encoder 1   free (work space of the encoder; no block reads it)
    columns  64..87   text encoder 2   style: colours, texture family, period, angle, and a flag
    columns  88..95   text encoder 2   elements: one column each, and a flag
    columns  96..159  text encoder 2   position: one column per slot
    columns 160..191  text encoder 2   free

Tokens 13..76 are the 64 slots: slot 8 * row + column speaks of that 16x16 px patch of the 128 px picture, which
is one token of up_blocks.0. A prompt of up to 13 tokens is read before the first slot.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .catalog import ELEMENTS, FAMILIES, PIXELS
from .styles import Style

Array = np.ndarray

TOKENS = 77
SLOTS = 64
FIRST_SLOT = 13
GRID = 8  # slots a side
LATENT = 32  # latent cells a side

CONTENT = slice(0, 32)
STYLE = slice(64, 88)
ELEMENT = slice(88, 96)
POSITION = slice(96, 160)
WIDTH_1, WIDTH_2 = 64, 128
WIDTH = WIDTH_1 + WIDTH_2
POSITION_SIZE = 4.0  # value of a slot's own position column


def style_code(style: Style) -> Array:
    """(24,): glyph, ground and accent colour in -1.5..1.5, family, period, angle, flag."""
    code = np.zeros(24, np.float32)
    code[0:9] = 3 * (np.concatenate([style.glyph, style.ground, style.accent]) - 0.5)
    code[9 + FAMILIES.index(style.family)] = 2
    code[19] = 2 * (style.period - 0.5)
    code[20:22] = np.cos(2 * style.angle), np.sin(2 * style.angle)
    code[22] = 1
    return code


def element_code(elements: tuple[str, ...]) -> Array:
    """(8,): 2 for each element present, and a flag."""
    code = np.zeros(8, np.float32)
    for name in elements:
        code[ELEMENTS.index(name)] = 2
    code[7] = 1
    return code


def patches(images: Array, size: int) -> Array:
    """(n, 128, 128[, c]) -> (n, rows, columns, size * size * c): non-overlapping patches, row by row."""
    count, side = len(images), PIXELS // size
    split = images.reshape(count, side, size, side, size, -1)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(count, side, side, -1)


def _half(masks: Array) -> Array:
    """Halve masks (n, 128, 128) by averaging."""
    return masks.reshape(len(masks), PIXELS // 2, 2, PIXELS // 2, 2).mean((2, 4))


@dataclass(frozen=True)
class Basis:
    """Linear maps fixed before any training.

    glyph (31, 64): content components of an 8x8 patch of the half-size mask.
    latent (4, 48), mean (48,): latent components of a 4x4 RGB patch in -1..1.
    """

    glyph: Array
    latent: Array
    mean: Array

    def content(self, masks: Array) -> Array:
        """Content codes (n, 64, 32) of masks (n, 128, 128); blank patches are zero but for the flag."""
        half = _half(masks)
        cut = (
            half.reshape(len(masks), GRID, 8, GRID, 8).transpose(0, 1, 3, 2, 4).reshape(len(masks), SLOTS, 64)
        )
        code = np.ones((len(masks), SLOTS, 32), np.float32)
        code[..., :31] = cut @ self.glyph.T
        return code

    def latents(self, pictures: Array) -> Array:
        """Latents (n, 4, 32, 32) of pictures (n, 128, 128, 3) in 0..1."""
        flat = patches(2 * pictures - 1, 4)
        return ((flat - self.mean) @ self.latent.T).transpose(0, 3, 1, 2).astype(np.float32)

    def save(self, path: Path) -> None:
        np.savez(path, glyph=self.glyph, latent=self.latent, mean=self.mean)

    @staticmethod
    def load(path: Path) -> "Basis":
        with np.load(path) as stored:
            return Basis(stored["glyph"], stored["latent"], stored["mean"])


def fit_basis(masks: Array, pictures: Array) -> Basis:
    """Principal components of glyph patches (not centred: blank stays zero) and of picture patches (centred)."""
    half = _half(masks)
    cut = half.reshape(len(masks), GRID, 8, GRID, 8).transpose(0, 1, 3, 2, 4).reshape(-1, 64)
    values, vectors = np.linalg.eigh(cut.T @ cut / len(cut))
    keep = np.argsort(values)[::-1][:31]
    glyph = vectors[:, keep].T * (2 / values[keep][:, None] ** 0.25)  # half-whitened
    flat = patches(2 * pictures - 1, 4).reshape(-1, 48)
    mean = flat.mean(0)
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    keep = np.argsort(values)[::-1][:4]
    latent = vectors[:, keep].T / np.sqrt(values[keep])[:, None]
    return Basis(glyph.astype(np.float32), latent.astype(np.float32), mean.astype(np.float32))
