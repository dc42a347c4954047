"""The modes of ReChar's three passes: structure picture, style picture, and the decorated glyph from both.

`official` reproduces the published inference (01yzzyu/ReChar), with those of its faults that change the picture.
`paper` adds what only the framework figure shows. `tuned` has the defaults that did best in benchmarks/quality.py (so
far only on the demo model). `references-only` needs no training: glyph and style picture are the references.
docs/official_faults.md lists the faults and the modes that have them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ..errors import RecipeError, check_choice

_NEGATIVE = (
    "watermark, lowres, low quality, worst quality, deformed, glitch, low contrast, noisy, saturation, blurry"
)


@dataclass(frozen=True)
class PipelineConfig:
    """Settings of the passes. Triples are for (structure picture, style picture, result).

    renders_references: whether the first two passes are run if there is a B-LoRA; otherwise the glyph and the given
    style picture are the references. control: strengths of the ControlNet on the glyph's edges. mask: layout mask of
    the structure reference: "edges" of the structure picture, or the "glyph". drop: whether image tokens outside the
    glyph are dropped. keep: which prompt tokens stay (elements.KEEP_MODES). style_beside_lora: multiplies style_scale
    if a style B-LoRA is applied too, because both together exaggerate the colours. structure_stays: whether the
    structure B-LoRA is also applied in the last pass, not only in the first.
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
        """All settings as JSON, to be stored with a picture."""
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
    structure_stays=False,
    negative=f"text, {_NEGATIVE}",
)
MODES: Mapping[str, PipelineConfig] = {
    "official": _OFFICIAL,
    "paper": replace(
        _OFFICIAL,
        name="paper",
        mask="glyph",
        mask_mode="area",
        operator="gated_softmax",
        drop=True,
        keep="auto",
    ),
    "tuned": PipelineConfig("tuned", style_beside_lora=0.5),
    "references-only": PipelineConfig("references-only", renders_references=False),
}


def mode_named(name: str, steps: int = 0, guidance: float = 0.0) -> PipelineConfig:
    """A mode; steps and guidance replace its own values in all passes unless they are 0.

    Raises RecipeError for an unknown name.
    """
    check_choice("mode", name, MODES, RecipeError)
    mode = replace(MODES[name], steps=steps) if steps else MODES[name]
    return replace(mode, cfg=(guidance,) * 3) if guidance else mode
