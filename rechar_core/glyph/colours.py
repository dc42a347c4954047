"""Reads colours such as #rrggbb, and paints a mask in two colours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import GlyphError

if TYPE_CHECKING:
    from torch import Tensor

Colour = tuple[float, float, float]


def colour(text: str) -> Colour:
    """ "#rrggbb" or "#rgb" (the # may be missing) as red, green, blue in 0..1. Raises GlyphError."""
    digits = text.strip().removeprefix("#")
    if not re.fullmatch(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}", digits):
        raise GlyphError(f"'{text}' is not a colour; write it as #rrggbb, for example #000000 for black.")
    wide = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
    red, green, blue = (int(wide[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def paint(mask: Tensor, ink: Colour, paper: Colour) -> Tensor:
    """mask (B, H, W) in 0..1 as a picture (B, H, W, 3) in 0..1: `ink` where the mask is 1, `paper` where it is 0."""
    ink_, paper_ = mask.new_tensor(ink), mask.new_tensor(paper)
    return (paper_ + mask[..., None] * (ink_ - paper_)).clamp(0, 1)
