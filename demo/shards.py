"""Render training samples to disk: `python -m demo.shards FOLDER COUNT [FIRST]` writes COUNT shards of 2048.

A shard holds latents, codes and the pictures themselves (for the decoder); training draws from all shards there are,
so that rendering can go on beside it.
"""

import sys
from pathlib import Path

import numpy as np

from .catalog import ELEMENTS, PALETTES, PIXELS, named_styles
from .codes import Basis, element_code, fit_basis, style_code
from .elements import element_mask, random_elements
from .glyphs import random_mask
from .styles import Style, named_style, paint, random_style

Array = np.ndarray
SHARD = 2048


def draw_style(rng: np.random.Generator) -> Style:
    """Plain black on white (12 %), one of the named styles (40 %), or a random one."""
    chance = rng.random()
    if chance < 0.12:
        return named_style("plain", PALETTES["plain"][0])
    if chance < 0.52:
        named = named_styles()
        return named_style(*named[rng.integers(len(named))])
    return random_style(rng)


def render(seed: int, count: int) -> dict[str, Array]:
    """Masks (uint8), pictures (uint8), style codes and element codes of `count` samples."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, PIXELS, PIXELS), np.uint8)
    pictures = np.zeros((count, PIXELS, PIXELS, 3), np.uint8)
    styles = np.zeros((count, 24), np.float32)
    elements = np.zeros((count, 8), np.float32)
    for index in range(count):
        mask, style = random_mask(rng), draw_style(rng)
        names = random_elements(rng, ELEMENTS)
        picture = paint(mask, element_mask(names, rng), style, rng)
        masks[index], pictures[index] = 255 * mask + 0.5, 255 * picture + 0.5
        styles[index], elements[index] = style_code(style), element_code(names)
    return {"masks": masks, "pictures": pictures, "styles": styles, "elements": elements}


def write_shard(folder: Path, number: int) -> None:
    """Render shard `number` (its own seed) and store it with its codes and latents."""
    sample = render(10_000 + number, SHARD)
    masks, pictures = sample["masks"] / np.float32(255), sample["pictures"] / np.float32(255)
    path = folder / "basis.npz"
    if not path.exists():
        fit_basis(masks[:1024], pictures[:1024]).save(path)
    basis = Basis.load(path)
    sample["content"] = basis.content(masks).astype(np.float16)
    sample["latents"] = basis.latents(pictures).astype(np.float16)
    np.save(folder / f"pictures_{number:03d}.npy", sample.pop("pictures"))
    del sample["masks"]
    partial = folder / f".codes_{number:03d}.npz"
    np.savez(partial, **sample)
    partial.rename(folder / f"codes_{number:03d}.npz")


def main(arguments: list[str]) -> None:
    folder, count = Path(arguments[0]), int(arguments[1])
    first = int(arguments[2]) if len(arguments) > 2 else 0
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        write_shard(folder, number)
        print(f"shard {number}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
