"""Reads colours such as #rrggbb, and paints a mask in two colours."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import GlyphError

if TYPE_CHECKING:
    from torch import Tensor

Colour = tuple[float, float, float]


def colour(text: str) -> Colour:
    """A colour as red, green, blue in 0..1: "#rrggbb", "#rgb" (the # may be missing), or a name of CSS ("navy").

    Also what ComfyUI's colour picker gives, "#rrggbbaa", whose opacity is left out. Raises GlyphError.
    """
    from PIL import ImageColor

    word = text.strip().lower()
    digits = word.removeprefix("#")
    if re.fullmatch(r"[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8}", digits):
        word = f"#{digits}"
    try:
        red, green, blue, *_ = ImageColor.getrgb(word)
    except ValueError:
        raise GlyphError(
            f"'{text}' is not a colour; write it as #rrggbb, for example #000000, or by its English name."
        ) from None
    return red / 255, green / 255, blue / 255


def paint(mask: Tensor, ink: Colour, paper: Colour, *, transparent: bool = False) -> Tensor:
    """mask (B, H, W) in 0..1 as a picture (B, H, W, 3) in 0..1: `ink` where the mask is 1, `paper` where it is 0.

    transparent: (B, H, W, 4), the mask as alpha, pure ink wherever there is any, so that edges have no rim of paper.
    """
    import torch

    ink_, paper_, share = mask.new_tensor(ink), mask.new_tensor(paper), mask[..., None]
    if transparent:
        return torch.cat([torch.where(share > 0, ink_, paper_), share], dim=-1)
    return (paper_ + share * (ink_ - paper_)).clamp(0, 1)
