"""Run by the host's Python, not by pytest: our segmenters against transformers' own processors, which need torchvision.

    python host_segmenters.py FOLDER      FOLDER: with a tiny GroundingDINO in dino/ and a tiny SAM 2 in sam/

Prints JSON: the largest differences of pixels, scores and boxes, and how many pixels of the masks agree.
"""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from transformers import GroundingDinoImageProcessor, GroundingDinoProcessor, Sam2ImageProcessor

from rechar_core.images import IMAGENET, normalised
from rechar_core.soulstyler.segmenters import load_segmenter

FOLDER, HEIGHT, WIDTH = Path(sys.argv[1]), 400, 600
OURS = load_segmenter(FOLDER / "dino", FOLDER / "sam")
BYTES = (
    F.interpolate(torch.rand(1, 3, 12, 17), (HEIGHT, WIDTH), mode="bicubic").clamp(0, 1)[0].mul(255).byte()
)
IMAGE = BYTES / 255


def ours(size):
    return normalised(F.interpolate(IMAGE[None], size, mode="bilinear", antialias=True), IMAGENET)


def main():
    dino = GroundingDinoProcessor(GroundingDinoImageProcessor(), OURS.tokenizer)
    sam = Sam2ImageProcessor(size={"height": 64, "width": 64})
    given = dino(images=BYTES, text="red car.", return_tensors="pt")
    pixels = [given["pixel_values"] - ours((800, 1200))]
    given["pixel_values"] = ours((800, 1200))  # a last bit can change the order of the queries
    boxes, scores = OURS._boxes(IMAGE, "Red car")
    found = OURS.detector(**given)
    theirs = dino.post_process_grounded_object_detection(
        found, given["input_ids"], threshold=0.0, text_threshold=0.0, target_sizes=[(1, 1)]
    )[0]
    order = theirs["scores"].argsort(descending=True, stable=True)[: len(scores)]
    seen = sam(images=BYTES, return_tensors="pt")["pixel_values"]
    pixels.append(seen - ours((64, 64)))
    low = OURS.sam(
        pixel_values=ours((64, 64)), input_boxes=boxes[None] * 64, multimask_output=False
    ).pred_masks
    masks = sam.post_process_masks(low, [[HEIGHT, WIDTH]])[0][:, 0].float()
    sure = (masks * scores[:, None, None]).amax(0)
    about = {
        "pixels": max(p.abs().max().item() for p in pixels),
        "scores": (theirs["scores"][order] - scores).abs().max().item(),
        "boxes": (theirs["boxes"][order].clamp(0, 1) - boxes).abs().max().item(),
        "sure": (OURS.look(IMAGE, "Red car") - sure).abs().max().item(),
        "things": masks.mean().item(),
    }
    print(json.dumps(about))


torch.manual_seed(0)
with torch.no_grad():
    main()
