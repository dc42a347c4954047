"""Where the named object is: a text and a picture become a mask. CLIPSeg (Lüddecke and Ecker, CVPR 2022) is built in.

Whatever answers `look` can take its place. An object that is not found is never a silent full mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError, RecipeError
from .compose import shaped
from .folders import need_files, reading

OnEmpty = Literal["error", "empty", "full"]
ON_EMPTY: tuple[str, ...] = get_args(OnEmpty)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILES = ("config.json", "model.safetensors", "tokenizer_config.json")


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


@dataclass(frozen=True)
class ClipSeg:
    """CLIPSeg with its tokenizer; it looks at the picture squeezed into its own square, as it was trained."""

    model: Any
    tokenizer: Any

    def look(self, image: Tensor, text: str) -> Tensor:
        device = next(self.model.parameters()).device
        side = int(self.model.config.vision_config.image_size)
        seen = F.interpolate(image[None].to(device), (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (_MEAN, _STD))
        tokens = self.tokenizer([text], truncation=True, return_tensors="pt")
        with torch.no_grad():
            logits = self.model(
                input_ids=tokens["input_ids"].to(device),
                attention_mask=tokens["attention_mask"].to(device),
                pixel_values=(seen - mean) / std,
            ).logits
        sure = torch.sigmoid(logits.float().reshape(1, 1, *logits.shape[-2:]))
        return F.interpolate(sure, tuple(image.shape[-2:]), mode="bilinear")[0, 0].to(image.device)


def load_clipseg(folder: Path) -> ClipSeg:
    """CLIPSeg from a local folder in transformers' layout; nothing is downloaded.

    Raises FileError naming the folder and the missing files, ModelError if it holds something else.
    """
    need_files(folder, _FILES, "CLIPSeg (transformers' layout, e.g. CIDAS/clipseg-rd64-refined)")
    from transformers import AutoTokenizer, CLIPSegForImageSegmentation

    with reading(folder, "a CLIPSeg"):
        model = CLIPSegForImageSegmentation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return ClipSeg(model.float().eval().requires_grad_(False), tokenizer)
