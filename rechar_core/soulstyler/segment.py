"""Finds a named object: makes a mask from a picture and a text.

Any object with a method `look` is a segmenter; segmenters.py has two. If nothing is found, the result is never silently
a full mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from ..errors import ImageError, RecipeError, check_choice
from .compositing import shaped

OnEmpty = Literal["error", "empty", "full"]
ON_EMPTY: tuple[str, ...] = get_args(OnEmpty)


class Segmenter(Protocol):
    """Any model that finds an object by its name."""

    def look(self, image: Tensor, text: str) -> Tensor:
        """The score, for each pixel of a picture (3, H, W) in 0..1, that it shows `text`: (H, W) in 0..1."""


@dataclass(frozen=True)
class Detection:
    """The result of a search. mask: (B, H, W) in 0..1. found: whether the object is in every picture.

    score: the highest pixel score of each picture, of these the lowest, 0..1.
    """

    mask: Tensor
    found: bool
    score: float


@dataclass(frozen=True)
class Search:
    """The object to look for, and how to make the mask. grow, feather: pixels, as in compositing.shaped.

    on_empty: what to do if the object is not found: "error", "empty" mask or "full" mask.
    """

    text: str
    threshold: float = 0.4
    grow: int = 4
    feather: int = 4
    on_empty: OnEmpty = "error"

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RecipeError("There is no text to look for; name the object.")
        if not 0 < self.threshold < 1:
            raise RecipeError(f"The threshold is {self.threshold}; it must lie between 0 and 1.")
        check_choice("on_empty", self.on_empty, ON_EMPTY, RecipeError)


def find(segmenter: Segmenter, images: Tensor, search: Search) -> Detection:
    """The mask of the object in every picture of IMAGE (B, H, W, C).

    Raises ImageError if it is not found in one of them and `on_empty` is "error".
    """
    masks, scores = [], []
    for number, image in enumerate(images, start=1):
        sure = segmenter.look(image[..., :3].movedim(-1, 0).float(), search.text.strip()).nan_to_num()
        mask, score = (sure > search.threshold).float(), float(sure.max())
        scores.append(score)
        if not mask.any() and search.on_empty == "error":
            raise ImageError(
                f"'{search.text.strip()}' is not found in picture {number}: the surest pixel has {score:.2f}, the "
                f"threshold is {search.threshold:g}. Lower it, use a simpler name, or give a mask of your own."
            )
        if mask.any():
            mask = shaped(mask[None], search.grow, search.feather)[0]
        masks.append(mask if mask.any() or search.on_empty != "full" else torch.ones_like(mask))
    return Detection(torch.stack(masks), all(s > search.threshold for s in scores), min(scores))
