"""The ways to run ReChar's three passes: structure picture, style picture, and the decorated glyph from both.

`official` repeats the published inference (01yzzyu/ReChar) with its faults where they change the picture, `paper`
adds what only the framework figure shows, `tuned` mends what hurts (benchmarks/quality.py decides; so far on the demo
model alone), `references-only` trains nothing: glyph and style picture are the references themselves.
docs/official_faults.md says which fault is where.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ..errors import RecipeError

_NEGATIVE = (
    "watermark, lowres, low quality, worst quality, deformed, glitch, low contrast, noisy, saturation, blurry"
)


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of the passes. Triples are for (structure picture, style picture, result).

    renders_references: whether the first two passes are drawn where a B-LoRA is given; else glyph and style picture
    are used.
    control: strengths of a ControlNet on the glyph's edges. mask: "edges" of the structure picture, or the "glyph".
    drop: image tokens outside the glyph are dropped. keep: which words of the prompt stay (elements.KEEP_MODES).
    style_beside_lora: factor of style_scale where a style B-LoRA is in the UNet too; both together overdo the colours.
    structure_stays: a structure B-LoRA is in the UNet in the last pass as well, not in the first alone.
    """

    name: str
    renders_references: bool = True
    steps: int = 30
    cfg: tuple[float, float, float] = (5.0, 5.0, 6.0)
    control: tuple[float, float, float] = (0.7, 0.0, 0.7)
    structure_scale: float = 1.0
    style_scale: float = 0.8
    style_beside_lora: float = 1.0
    mask: str = "glyph"
    mask_mode: str = "area"
    operator: str = "off"
    temperature: float = 1.0
    drop: bool = True
    keep: str = "all"
    structure_stays: bool = True
    negative: str = _NEGATIVE

    def settings(self, **more: object) -> str:
        """All of it as JSON, to be kept with a picture."""
        return json.dumps(asdict(self) | more, ensure_ascii=False, indent=1)


_OFFICIAL = PipelineConfig(
    "official",
    steps=50,
    cfg=(5.0, 5.0, 17.5),
    control=(0.5, 0.5, 0.5),
    structure_scale=1.5,
    mask="edges",
    mask_mode="official",
    drop=False,
    keep="all",
    structure_stays=False,
    negative=f"text, {_NEGATIVE}",
)
MODES: Mapping[str, PipelineConfig] = {
    "official": _OFFICIAL,
    "paper": PipelineConfig(
        "paper",
        steps=50,
        cfg=(5.0, 5.0, 17.5),
        control=(0.5, 0.5, 0.5),
        structure_scale=1.5,
        operator="gated_softmax",
        keep="auto",
        structure_stays=False,
        negative=f"text, {_NEGATIVE}",
    ),
    "tuned": PipelineConfig("tuned", style_beside_lora=0.5),
    "references-only": PipelineConfig("references-only", renders_references=False),
}


def mode_named(name: str, steps: int = 0, guidance: float = 0.0) -> PipelineConfig:
    """A mode, with other steps or one guidance for all passes if any are given; 0 is the mode's own.

    Raises RecipeError for an unknown name.
    """
    if name not in MODES:
        raise RecipeError(f"There is no mode '{name}'; choose one of {', '.join(MODES)}.")
    mode = replace(MODES[name], steps=steps) if steps else MODES[name]
    return replace(mode, cfg=(guidance,) * 3) if guidance else mode
