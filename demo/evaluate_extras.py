"""Measure what stands beside the demo model: `python -m demo.evaluate_extras OUT [SAMPLES]`.

The same held-out glyphs and style pictures as evaluate.py, on the neutral prompt, with controls: none, and another
number's edges or reference. Nothing is chosen by its result.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rechar_core.backend import pipeline as base
from rechar_core.backend.renderer import DiffusersIPAdapters, DiffusersRenderer
from rechar_core.demo.build import read_config
from rechar_core.demo.extras import load_adapters, load_controlnet, load_encoder
from rechar_core.lora.fusion import fuse
from rechar_core.synthesis.elements import PromptToken
from rechar_core.synthesis.passes import RenderJob

from .held_out import enlarge, glyph_mask, glyph_picture, style_picture
from .metrics import foreground, gram_distance, halve, histogram_distance, iou
from .train_control import edges

NEUTRAL = "A [v]"
Row = dict[str, float]


class Extras:
    """The demo pipeline with its encoder, adapters and ControlNet."""

    def __init__(self) -> None:
        found = load_adapters()
        readers = DiffusersIPAdapters(found["composition"], found["style"], load_encoder())
        pipeline = base.load("demo", torch.float32, torch.device("cpu"))
        self.renderer = DiffusersRenderer(pipeline, readers, load_controlnet())

    def draw(self, number: int, **options: object) -> np.ndarray:
        """A picture at 128 px, its seed counted from the sample's number."""
        recipe = read_config()["recipe"]
        fixed = {
            "positive": (PromptToken(NEUTRAL, "normal"),),
            "negative": (PromptToken("", "normal"),),
            "size": (256, 256),
        }
        fixed |= {"steps": recipe["sampler_steps"], "cfg": recipe["guidance"], "seed": 100 * number}
        return halve(self.renderer.render(RenderJob(fuse(None, None), **fixed, **options))[0].numpy())

    def encode_reference(self, picture: np.ndarray, role: str) -> dict[str, object]:
        pixels = torch.from_numpy(np.ascontiguousarray(enlarge(picture)))[None]
        return {"references": (self.renderer.encode_reference(pixels, role, None),), "scales": {role: 1.0}}

    def row(self, number: int, other: int) -> Row:
        """IoU with the glyph (edges, structure reference) and distances to the style picture (style reference)."""
        target, picture = glyph_mask(number) > 0.5, style_picture(number)
        plain = self.draw(number)
        row = {"iou_none": iou(foreground(plain), target), **_distances(plain, picture, "none")}
        for name, source in (("own", number), ("other", other)):
            drawn = self.draw(number, hint=_hint(glyph_mask(source)), control=1.0)
            row[f"control_{name}"] = iou(foreground(drawn), target)
            drawn = self.draw(number, **self.encode_reference(glyph_picture(source), "structure"))
            row[f"structure_{name}"] = iou(foreground(drawn), target)
            drawn = self.draw(number, **self.encode_reference(style_picture(source), "style"))
            row |= _distances(drawn, picture, name)
        return row


def _hint(mask: np.ndarray) -> Tensor:
    return edges(mask).movedim(0, -1)[None]


def _distances(drawn: np.ndarray, picture: np.ndarray, name: str) -> Row:
    return {
        f"gram_{name}": gram_distance(drawn, picture),
        f"histogram_{name}": histogram_distance(drawn, picture),
    }


def report(rows: list[Row]) -> str:
    """Markdown: means under each condition."""
    mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    lines = [f"n = {len(rows)}.", "", "| what | own | another's | none |", "|---|---:|---:|---:|"]
    for title, own, other, none in (
        ("Edge ControlNet: IoU with the unseen glyph", "control_own", "control_other", "iou_none"),
        ("Structure reference: IoU with the unseen glyph", "structure_own", "structure_other", "iou_none"),
        ("Style reference: Gram distance", "gram_own", "gram_other", "gram_none"),
        ("Style reference: Lab histogram distance", "histogram_own", "histogram_other", "histogram_none"),
    ):
        lines.append(f"| {title} | {mean[own]:.3g} | {mean[other]:.3g} | {mean[none]:.3g} |")
    return "\n".join(lines)


def main() -> None:
    out, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 16
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    extras = Extras()
    rows = [extras.row(number, (number + 1) % count) for number in range(count)]
    (out / "extras.json").write_text(json.dumps(rows))
    (out / "extras.md").write_text(report(rows) + "\n", encoding="utf-8")
    print(report(rows))


if __name__ == "__main__":
    main()
