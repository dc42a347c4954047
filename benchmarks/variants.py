"""The contestants of the quality benchmark: what each draws with, and what it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from rechar_core.backend.renderer import DiffusersRenderer, IPAdapters
from rechar_core.synthesis.modes import MODES, PipelineConfig
from rechar_core.synthesis.passes import Passes, RenderJob

_KEPT_PICTURES = 128  # of passes that several cells have in common


@dataclass(frozen=True)
class Arm:
    """One way to draw. loras, references, control: whether they take part.

    template: the result's prompt, in which {glyph} is the character itself.
    """

    name: str
    mode: PipelineConfig
    loras: bool = False
    references: bool = False
    control: bool = False
    template: str = "A [c] in [s] style"

    def lacks(self, leads: Leads) -> list[str]:
        """What it needs and is not there; empty if it can run."""
        found = leads.adapters_missing if self.references else ()
        return [*found, *(leads.control_missing if self.control else ())]

    def run(self, leads: Leads, cell: Cell) -> tuple[Tensor, Tensor | None]:
        """The result (1, H, W, 3), and the style picture if one was drawn."""
        renderer = replace(
            leads.renderer,
            ip_adapters=leads.renderer.ip_adapters if self.references else IPAdapters(),
            control_net=leads.renderer.control_net if self.control else None,
        )
        passes = Passes(
            Remembering(renderer, leads.remembered),
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
class Leads:
    """The painter with all that is there, and the names of what is not."""

    renderer: DiffusersRenderer
    adapters_missing: tuple[str, ...]
    control_missing: tuple[str, ...]
    remembered: dict[Any, Tensor]


@dataclass(frozen=True)
class Cell:
    """What is drawn: a character in a style from a seed.

    glyph: (1, H, W, 3), mask: (1, H, W), style_image: (1, h, w, 3). structure, style: B-LoRAs, for arms with LoRAs.
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
    """A Painter that draws a pass without references once: structure and style pictures are shared by many cells."""

    def __init__(self, renderer: DiffusersRenderer, remembered: dict[Any, Tensor]):
        self.renderer, self.remembered = renderer, remembered
        self.control_net, self.adapter = renderer.control_net, renderer.adapter
        self.check, self.encode_reference = renderer.check, renderer.encode_reference

    def draw(self, drawing: RenderJob) -> Tensor:
        if drawing.references:
            return self.renderer.draw(drawing)
        hint = None if drawing.hint is None else drawing.hint.numpy().tobytes()
        fusion = tuple((path, id(pair), strength) for path, (pair, strength) in drawing.fusion.pairs.items())
        words = (drawing.positive, drawing.negative, drawing.size, drawing.seed, drawing.steps, drawing.cfg)
        key = (fusion, words, hint, drawing.control)
        if key not in self.remembered:
            while len(self.remembered) >= _KEPT_PICTURES:
                self.remembered.pop(next(iter(self.remembered)))
            self.remembered[key] = self.renderer.draw(drawing)
        return self.remembered[key]


def arms(steps: int, guidance: float) -> list[Arm]:
    """The arms of the table. steps, guidance: 0 is each mode's own, else the same for all (a base may ask for it)."""

    def own(mode: PipelineConfig) -> PipelineConfig:
        mode = replace(mode, steps=steps) if steps else mode
        return replace(mode, cfg=(guidance,) * 3) if guidance else mode

    tuned = own(MODES["tuned"])
    text = replace(tuned, keep="all", renders_references=False)
    named = "the character {glyph}"
    return [
        Arm("plain", replace(text, name="plain"), template=named),
        Arm("ControlNet only", replace(text, name="ControlNet only"), control=True, template=named),
        Arm("references only", own(replace(MODES["references-only"], control=(0, 0, 0))), references=True),
        Arm("B-LoRA fusion", replace(text, name="B-LoRA fusion"), loras=True),
        *(
            Arm(name, own(MODES[name]), loras=True, references=True, control=True)
            for name in ("official", "paper", "tuned")
        ),
    ]


# What a variant changes of `tuned`, one thing at a time.
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
# Those of the changes that mean something without adapters and ControlNet, where `tuned` is B-LoRAs alone.
OF_LORAS = ("structure LoRA only in its own pass", "words dropped")


def variants(base: Arm, alone: bool) -> list[Arm]:
    """`base` and each change of it. alone: adapters and ControlNet are missing, and base runs without them."""
    chosen = {name: CHANGES[name] for name in (OF_LORAS if alone else CHANGES)}
    if alone:
        base = replace(base, name=f"{base.name}, B-LoRAs alone", references=False, control=False)
    return [base, *(replace(base, name=name, mode=replace(base.mode, **c)) for name, c in chosen.items())]


def style_pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by name."""
    return {path.stem: path for path in sorted(folder.glob("*.png")) + sorted(folder.glob("*.jpg"))}
