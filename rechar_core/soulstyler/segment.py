"""Where the named object is: a text and a picture become a mask.

Whatever answers `look` can be asked; segmenters.py has two that do. An object that is not found is never a silent full
mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from ..errors import ImageError, RecipeError
from .compositing import shaped

OnEmpty = Literal["error", "empty", "full"]
ON_EMPTY: tuple[str, ...] = get_args(OnEmpty)


class Segmenter(Protocol):
    """Anything that finds a thing by its name."""

    def look(self, image: Tensor, text: str) -> Tensor:
        """How sure it is, for each pixel of (3, H, W) in 0..1, that it shows `text`: (H, W) in 0..1."""


@dataclass(frozen=True)
class Detection:
    """mask: (B, H, W) in 0..1; found: in every picture; score: the surest pixel of the least sure picture, 0..1."""

    mask: Tensor
    found: bool
    score: float


@dataclass(frozen=True)
class Search:
    """What to look for, and what to make of the answer. grow, feather: pixels, as compose.shaped takes them.

    on_empty: what an unfound object gives: an error, an empty mask, or a full one.
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
        if self.on_empty not in ON_EMPTY:
            raise RecipeError(f"There is no '{self.on_empty}'; choose one of {', '.join(ON_EMPTY)}.")


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
