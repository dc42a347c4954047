"""The unseen pictures: held-out glyphs, black on white, and style pictures with random palettes of their own seeds."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from rechar_core.demo.build import FOLDER

from .catalog import HELD_OUT_GLYPHS, PALETTES, PIXELS
from .glyphs import canonical_mask
from .styles import named_style, paint, random_style

Array = np.ndarray
STYLE_SEED = 77_000  # training draws from seeds 10,000 onwards, by shard
SAMPLES = {"glyph_luo": 0, "glyph_ain": 8, "glyph_han": 11, "glyph_ka": 14}


def glyph_mask(number: int) -> Array:
    """Mask (128, 128) of a held-out glyph; numbers wrap around."""
    script, character = HELD_OUT_GLYPHS[number % len(HELD_OUT_GLYPHS)]
    return canonical_mask(character, script)


def glyph_picture(number: int) -> Array:
    """The glyph in the plain style, (128, 128, 3)."""
    blank = np.zeros((PIXELS, PIXELS), np.float32)
    return paint(
        glyph_mask(number), blank, named_style("plain", PALETTES["plain"][0]), np.random.default_rng(0)
    )


def style_picture(number: int) -> Array:
    """A held-out glyph in a random style that training never drew, (128, 128, 3)."""
    rng = np.random.default_rng(STYLE_SEED + number)
    blank = np.zeros((PIXELS, PIXELS), np.float32)
    return paint(glyph_mask(number + 7), blank, random_style(rng), rng)


def enlarge(picture: Array) -> Array:
    """128 px -> 256 px, bilinear, still float32 in 0..1."""
    channels = [
        np.asarray(Image.fromarray(picture[..., c]).resize((256, 256), Image.Resampling.BILINEAR))
        for c in range(3)
    ]
    return np.stack(channels, -1).clip(0, 1)


def _write(picture: Array, path: Path) -> None:
    Image.fromarray((enlarge(picture) * 255).round().astype(np.uint8)).save(path, optimize=True)


def main() -> None:
    """`python -m demo.held_out [STYLE NUMBERS]`: write the sample pictures that ship with the model."""
    folder = FOLDER / "samples"
    folder.mkdir(exist_ok=True)
    for name, number in SAMPLES.items():
        _write(glyph_picture(number), folder / f"{name}.png")
    for index, number in enumerate(sys.argv[1:] or ["0", "1", "2", "3"]):
        _write(style_picture(int(number)), folder / f"style_{'abcdefgh'[index]}.png")


if __name__ == "__main__":
    main()
