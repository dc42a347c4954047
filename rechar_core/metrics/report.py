"""Scores as JSON and as a contact sheet."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..images import rgb, sheet, to_pil, to_tensor
from .score import Scores, controls, target_of

if TYPE_CHECKING:
    from torch import Tensor

_COLUMNS = 4


def to_json(result: dict[str, Any]) -> str:
    """The result of `score_batch` or `best_of` as JSON, rounded to four digits."""
    rounded = json.loads(json.dumps(result), parse_float=lambda number: round(float(number), 4))
    return json.dumps(rounded, indent=1)


def chart(result: dict[str, Any], images: Tensor, mask: Tensor) -> Tensor:
    """IMAGE (1, H, W, 3): every picture with its scores, the controls in the last row.

    images: (B, H, W, C) in 0..1. mask: MASK of the glyph.
    """
    import torch

    target = target_of(mask, (images.shape[1], images.shape[2]))
    pictures = [
        (f"{number}  {_label(scores)}", to_pil(rgb(image)))
        for number, (image, scores) in enumerate(zip(images, result["pictures"]))
    ]
    compared = [
        (f"{name}  {_label(result['controls'][name])}", to_pil(torch.from_numpy(picture)))
        for name, picture in controls(target).items()
    ]
    rows = [pictures[i : i + _COLUMNS] for i in range(0, len(pictures), _COLUMNS)]
    return to_tensor(sheet([*rows, compared], "Scores; the last row are controls", 256))


def _label(scores: Scores) -> str:
    style = f"  colours {scores['colour_distance']:.1f}" if "colour_distance" in scores else ""
    return (
        f"IoU {scores['iou']:.2f}  skeleton {scores['skeleton_recall']:.2f}\n"
        f"edges {scores['edge_f1']:.2f}  SSIM {scores['ssim_edges']:.2f}{style}"
    )
