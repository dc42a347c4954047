"""Segmenters from local folders in transformers' layout: CLIPSeg, or GroundingDINO with SAM 2.

Pictures are preprocessed here and not by transformers' processors, some of which need torchvision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FileError, ModelError, RecipeError
from ..images import IMAGENET, normalised
from .folders import WEIGHTS, WITH_WORDS, model_type, need_files, pretrained, tokenizer_of
from .segment import Segmenter

_SHORT, _LONG = 800, 1333  # pixels of the sides that GroundingDINO was trained with
_MOST_BOXES = 32
_NOT_ENGLISH = re.compile(
    "[\u0400-\u04ff\u0590-\u06ff\u0900-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
)  # Cyrillic to Hangul


def _seen(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(3, H, W) in 0..1 as (1, 3, *size), normalised with ImageNet's mean and standard deviation."""
    return normalised(F.interpolate(image[None], size, mode="bilinear", antialias=True), IMAGENET)


def _english(text: str) -> str:
    """The text in lower case. Raises RecipeError if it is in a script that these networks were not trained on."""
    if _NOT_ENGLISH.search(text):
        raise RecipeError(
            f"The segmenter reads English only, and '{text}' is not: name the object in English."
        )
    return text.lower()


@dataclass(frozen=True)
class ClipSeg:
    """CLIPSeg (Lueddecke and Ecker, CVPR 2022): soft edges; the picture is scaled to a square."""

    model: nn.Module
    tokenizer: Any

    def look(self, image: Tensor, text: str) -> Tensor:
        """Its sigmoid for each pixel; see Segmenter."""
        model: Any = self.model
        side = int(model.config.vision_config.image_size)
        tokens = self.tokenizer([_english(text)], truncation=True, return_tensors="pt").to(model.device)
        with torch.no_grad():
            logits = model(**tokens, pixel_values=_seen(image.to(model.device), (side, side))).logits
        sure = torch.sigmoid(logits.float().reshape(1, 1, *logits.shape[-2:]))
        return F.interpolate(sure, tuple(image.shape[-2:]), mode="bilinear")[0, 0].to(image.device)


@dataclass(frozen=True)
class Grounded:
    """GroundingDINO (Liu et al., ECCV 2024) draws boxes around what the text names, SAM 2 (Ravi et al., 2024) cuts out
    the thing in each along its edges.
    """

    detector: Any
    tokenizer: Any
    sam: Any

    @property
    def model(self) -> nn.Module:
        """Both networks."""
        return nn.ModuleList([self.detector, self.sam])

    def look(self, image: Tensor, text: str) -> Tensor:
        """For each pixel, the highest score of the boxes whose object includes it; see Segmenter."""
        with torch.no_grad():
            boxes, scores = self._boxes(image, text)
            things = self._things(image, boxes)
        sure = torch.zeros(image.shape[-2:])
        for thing, score in zip(things, scores.tolist(), strict=True):
            whole = F.interpolate(thing[None, None], tuple(image.shape[-2:]), mode="bilinear")[0, 0] > 0
            sure = torch.maximum(sure, whole.cpu() * score)
        return sure.to(image.device)

    def _boxes(self, image: Tensor, text: str) -> tuple[Tensor, Tensor]:
        """The boxes with the highest scores, and these scores (N,) in 0..1.

        Boxes are (N, 4): left, top, right, bottom in 0..1 of the picture.
        """
        height, width = image.shape[-2:]
        scale = min(_SHORT / min(height, width), _LONG / max(height, width))
        seen = _seen(image.to(self.detector.device), (round(height * scale), round(width * scale)))
        phrase = (
            f"{_english(text).replace('.', ' ').strip()}."  # GroundingDINO ends each phrase with a full stop
        )
        tokens = self.tokenizer([phrase], truncation=True, return_tensors="pt").to(self.detector.device)
        output = self.detector(**tokens, pixel_values=seen)
        scores, order = output.logits[0].sigmoid().amax(-1).nan_to_num().sort(descending=True)
        middle, size = output.pred_boxes[0][order[:_MOST_BOXES]].chunk(2, -1)
        return torch.cat([middle - size / 2, middle + size / 2], -1).clamp(0, 1), scores[:_MOST_BOXES]

    def _things(self, image: Tensor, boxes: Tensor) -> Tensor:
        """What SAM 2 finds in each box: (N, h, w), above 0 where the thing is."""
        side = int(self.sam.config.prompt_encoder_config.image_size)
        seen = _seen(image.to(self.sam.device), (side, side))
        boxes = boxes.to(self.sam.device)[None] * side
        masks: Tensor = self.sam(pixel_values=seen, input_boxes=boxes, multimask_output=False).pred_masks
        return masks[0, :, 0].float()


def load_segmenter(folder: Path, sam_folder: Path | None = None) -> Segmenter:
    """The segmenter in `folder`: CLIPSeg, or GroundingDINO, which needs SAM 2 from `sam_folder`.

    Raises FileError naming the folder and the missing files; ModelError if it contains another model, or if the
    installed transformers is too old for it.
    """
    need_files(
        folder,
        WITH_WORDS,
        "CLIPSeg (e.g. CIDAS/clipseg-rd64-refined) or GroundingDINO (e.g. "
        "IDEA-Research/grounding-dino-tiny), in transformers' layout,",
    )
    kind = model_type(folder)
    if kind not in LOADERS:
        raise ModelError(f"{folder} holds a '{kind}'; a segmenter is one of {', '.join(LOADERS)}.")
    return LOADERS[kind](folder, sam_folder)


def _clipseg(folder: Path, _: Path | None) -> Segmenter:
    model = pretrained("CLIPSegForImageSegmentation", folder, "a CLIPSeg")
    return ClipSeg(model.float(), tokenizer_of(folder, "a CLIPSeg"))


def _grounded(folder: Path, sam_folder: Path | None) -> Segmenter:
    if sam_folder is None:
        raise FileError(
            f"{folder} holds GroundingDINO, which only draws boxes: give a folder with SAM 2 as well."
        )
    need_files(sam_folder, WEIGHTS, "SAM 2 (transformers' layout, e.g. facebook/sam2.1-hiera-tiny)")
    sam = pretrained("Sam2Model", sam_folder, "a SAM 2")
    detector = pretrained("GroundingDinoForObjectDetection", folder, "a GroundingDINO")
    return Grounded(detector.float(), tokenizer_of(folder, "a GroundingDINO"), sam.float())


LOADERS: Mapping[str, Callable[[Path, Path | None], Segmenter]] = {
    "clipseg": _clipseg,
    "grounding-dino": _grounded,
}
SAMS = ("sam2", "sam2_video")  # what the published folders of SAM 2 call themselves
