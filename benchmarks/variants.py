"""The variants that the quality benchmark compares: what each uses to generate pictures, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rechar_core.backend.renderer import DiffusersIPAdapters, DiffusersRenderer
from rechar_core.synthesis.modes import MODES, PipelineConfig
from rechar_core.synthesis.passes import Passes, RenderJob

_KEPT_PICTURES = 128  # of passes that several cells share


@dataclass(frozen=True)
class Variant:
    """One way to generate the pictures. loras, references, control: whether it uses them.

    template: the result's prompt, in which {glyph} is the character itself.
    """

    name: str
    mode: PipelineConfig
    loras: bool = False
    references: bool = False
    control: bool = False
    template: str = "A [c] in [s] style"

    def lacks(self, models: LoadedModels) -> list[str]:
        """The names of the files it needs that are missing; empty if it can run."""
        adapters = models.adapters_missing if self.references else ()
        return [*adapters, *(models.control_missing if self.control else ())]

    def run(self, models: LoadedModels, cell: Cell) -> tuple[Tensor, Tensor | None]:
        """The result (1, H, W, 3), and the style picture if one was generated."""
        renderer = replace(
            models.renderer,
            ip_adapters=models.renderer.ip_adapters if self.references else DiffusersIPAdapters(),
            control_net=models.renderer.control_net if self.control else None,
        )
        passes = Passes(
            Remembering(renderer, models.remembered),
            cell.glyph,
            cell.mask,
            self.mode,
            cell.seed,
            cell.elements,
            self.template.replace("{glyph}", cell.character),
            structure=cell.structure if self.loras else None,
            style=cell.style if self.loras else None,
            style_image=cell.style_image,
        )
        if not self.references:
            return passes.result(cell.glyph, cell.style_image), None
        result, _, style = passes.run()
        return result, (
            style if style is not cell.style_image and self.loras and self.mode.renders_references else None
        )


@dataclass
class LoadedModels:
    """The renderer with the models that are available, and the names of the missing files."""

    renderer: DiffusersRenderer
    adapters_missing: tuple[str, ...]
    control_missing: tuple[str, ...]
    remembered: dict[Any, Tensor]


@dataclass(frozen=True)
class Cell:
    """One picture to generate: a character in a style from a seed.

    glyph: (1, H, W, 3), mask: (1, H, W), style_image: (1, h, w, 3). structure, style: B-LoRAs, for variants with LoRAs.
    """

    character: str
    style_name: str
    seed: int
    glyph: Tensor
    mask: Tensor
    style_image: Tensor
    elements: str
    structure: Any
    style: Any


class Remembering:
    """A Renderer that caches passes without references: many cells share their structure and style pictures."""

    def __init__(self, renderer: DiffusersRenderer, remembered: dict[Any, Tensor]):
        self.renderer, self.remembered = renderer, remembered
        self.control_net, self.adapter = renderer.control_net, renderer.adapter
        self.check, self.encode_reference = renderer.check, renderer.encode_reference

    def render(self, job: RenderJob) -> Tensor:
        if job.references:
            return self.renderer.render(job)
        hint = None if job.hint is None else job.hint.numpy().tobytes()
        fusion = tuple((path, id(pair), strength) for path, (pair, strength) in job.fusion.pairs.items())
        words = (job.positive, job.negative, job.size, job.seed, job.steps, job.cfg)
        key = (fusion, words, hint, job.control)
        if key not in self.remembered:
            while len(self.remembered) >= _KEPT_PICTURES:
                self.remembered.pop(next(iter(self.remembered)))
            self.remembered[key] = self.renderer.render(job)
        return self.remembered[key]


def main_variants(steps: int, guidance: float) -> list[Variant]:
    """The variants of the table. steps, guidance: 0 means each mode's own value, else the value for all variants."""

    def own(mode: PipelineConfig) -> PipelineConfig:
        mode = replace(mode, steps=steps) if steps else mode
        return replace(mode, cfg=(guidance,) * 3) if guidance else mode

    tuned = own(MODES["tuned"])
    text = replace(tuned, keep="all", renders_references=False)
    named = "the character {glyph}"
    return [
        Variant("plain", replace(text, name="plain"), template=named),
        Variant("ControlNet only", replace(text, name="ControlNet only"), control=True, template=named),
        Variant(
            "references only", own(replace(MODES["references-only"], control=(0, 0, 0))), references=True
        ),
        Variant("B-LoRA fusion", replace(text, name="B-LoRA fusion"), loras=True),
        *(
            Variant(name, own(MODES[name]), loras=True, references=True, control=True)
            for name in ("official", "paper", "tuned")
        ),
    ]


# Changed variants of `tuned`: name -> the setting that is changed.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "structure LoRA only in its own pass": {"structure_stays": False},
    "words dropped": {"keep": "auto"},
    "no image tokens dropped": {"drop": False},
    "layout softmax": {"operator": "softmax"},
    "layout gated_softmax": {"operator": "gated_softmax"},
    "mask official": {"mask_mode": "official"},
    "mask maxpool": {"mask_mode": "maxpool"},
    "mask distance": {"mask_mode": "distance"},
    "mask of edges": {"mask": "edges", "mask_mode": "official"},
    "ControlNet 0.5": {"control": (0.5, 0.0, 0.5)},
    "ControlNet 1.0": {"control": (1.0, 0.0, 1.0)},
    "ControlNet in the style pass": {"control": (0.7, 0.7, 0.7)},
    "no ControlNet": {"control": (0.0, 0.0, 0.0)},
    "structure scale 0.5": {"structure_scale": 0.5},
    "structure scale 1.5": {"structure_scale": 1.5},
    "style scale 0.2": {"style_beside_lora": 0.25},
    "style scale 0.8": {"style_beside_lora": 1.0},
    "no style reference": {"style_beside_lora": 0.0},
}
# The changes that have an effect without IP-Adapters and ControlNet, where `tuned` uses only B-LoRAs.
OF_LORAS = ("structure LoRA only in its own pass", "words dropped")


def changed_variants(base: Variant, alone: bool) -> list[Variant]:
    """`base` and each change of it. alone: IP-Adapters and ControlNet are missing, so base runs without them."""
    chosen = {name: CHANGES[name] for name in (OF_LORAS if alone else CHANGES)}
    if alone:
        base = replace(base, name=f"{base.name}, B-LoRAs alone", references=False, control=False)
    return [base, *(replace(base, name=name, mode=replace(base.mode, **c)) for name, c in chosen.items())]


def style_pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by name."""
    return {path.stem: path for path in sorted(folder.glob("*.png")) + sorted(folder.glob("*.jpg"))}
