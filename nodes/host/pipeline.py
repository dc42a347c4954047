"""ReChar's three passes in the host: what the single nodes do, one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...rechar_core.elements import compose
from ...rechar_core.errors import RecipeError
from ...rechar_core.fusion import fuse
from ...rechar_core.modes import Mode
from ...rechar_core.references.layout import Layout
from ...rechar_core.structure_map import structure_map
from .elements import element_conditioning
from .patch import patch_model
from .progress import Progress
from .references import apply_references, encode_reference
from .sampling import sample

_SAMPLER = {"sampler_name": "euler", "scheduler": "normal"}
_TEMPLATE = "A [c] in [s] style"


@dataclass(frozen=True)
class Passes:
    """What the passes start from. glyph: IMAGE (1, H, W, 3), its size is the result's; mask: MASK (1, H, W).

    structure, style: B-LoRAs or None. style_image: IMAGE or None. adapters, control_net: or None.
    """

    model: Any
    clip: Any
    vae: Any
    glyph: Tensor
    mask: Tensor
    mode: Mode
    seed: int
    elements: str
    structure: Any = None
    style: Any = None
    style_image: Tensor | None = None
    adapters: Any = None
    control_net: Any = None

    def run(self) -> tuple[Tensor, Tensor, Tensor]:
        """The result, the structure picture and the style picture, IMAGE each. Raises ReCharError."""
        self._check()
        progress = Progress(3)
        structure = self._structure_picture()
        progress.show(1)
        style = self._style_picture()
        progress.show(2)
        model = patch_model(self.model, fuse(None, self.style)) if self.style else self.model
        if self.adapters is not None:
            model = self._with_references(model, structure, style)
        words = compose(
            _TEMPLATE, self._trigger(self.structure), self._trigger(self.style), self.elements, self._keep()
        )
        result = self._draw(2, model, element_conditioning(self.clip, words, None))
        progress.show(3)
        return result, structure, style

    def _check(self) -> None:
        if self.style_image is None and (self.style is None or not self.mode.draws):
            raise RecipeError(
                "There is no style: connect a style picture, or a style B-LoRA in another mode."
            )
        if self.adapters is None and not self.mode.draws:
            raise RecipeError("The mode references-only needs adapters: connect Load Reference Adapters.")

    def _keep(self) -> Any:
        """The elements' words alone only where something else brings structure and style; else the whole prompt."""
        carried = bool(self.elements.strip()) and (self.adapters is not None or self.style is not None)
        return self.mode.keep if carried else "all"

    def _structure_picture(self) -> Tensor:
        """The first pass; without a B-LoRA, the glyph."""
        if self.structure is None or not self.mode.draws:
            return self.glyph
        model = patch_model(self.model, fuse(self.structure, None))
        return self._draw(0, model, self._prompt(f"A {self._trigger(self.structure)} content"))

    def _style_picture(self) -> Tensor:
        """The second pass; without a B-LoRA, the style picture."""
        if self.style_image is not None and (self.style is None or not self.mode.draws):
            return self.style_image[:1]
        model = patch_model(self.model, fuse(None, self.style))
        return self._draw(1, model, self._prompt(f"A {self._trigger(self.style)} style"))

    def _with_references(self, model: Any, structure: Tensor, style: Tensor) -> Any:
        mode, adapters = self.mode, self.adapters
        edges = structure_map("canny-cv2", structure)[0, ..., 0]
        masks = {"structure": edges if mode.mask == "edges" else self.mask[0].cpu()}
        layout = Layout(masks, mode.reading, mode.temperature, mode.mask_mode)
        kept = self.mask if mode.drop and adapters.structure and adapters.structure.kind == "plus" else None
        pairs = (("structure", structure, kept), ("style", style, None))
        given = [
            encode_reference(adapters, picture, role, mask, "diffusers", 1.0)
            for role, picture, mask in pairs
            if getattr(adapters, role) is not None
        ]
        scales = {"structure": mode.structure_scale, "style": mode.style_scale}
        return apply_references(model, given, layout, scales)

    def _draw(self, number: int, model: Any, positive: list[Any]) -> Tensor:
        """One pass, (1, H, W, 3)."""
        import torch

        mode, size = self.mode, (self.glyph.shape[1] // 8, self.glyph.shape[2] // 8)
        negative = self._prompt(mode.negative)
        if self.control_net is not None and mode.control[number] != 0:
            hint = structure_map("canny-cv2", self.glyph)
            strength = mode.control[number]
            positive, negative = controlled([positive, negative], self.control_net, hint, strength)
        settings = {"seed": self.seed + number, "steps": mode.steps, "cfg": mode.cfg[number], **_SAMPLER}
        return sample(model, self.vae, torch.zeros(1, 4, *size), positive, negative, settings)[None]

    def _prompt(self, text: str) -> list[Any]:
        return element_conditioning(self.clip, compose(text, mode="all"), None)

    def _trigger(self, blora: Any) -> str:
        """As it was trained, without the article."""
        return (getattr(blora, "trigger", "") or "").removeprefix("A ").strip() or "[v]"


def controlled(
    conditioning: list[list[Any]], control_net: Any, hint: Tensor, strength: float
) -> list[list[Any]]:
    """Both conditionings with a ControlNet on IMAGE `hint`, as the host's Apply ControlNet does for a bare prompt."""
    control = control_net.copy().set_cond_hint(hint.movedim(-1, 1), strength, (0.0, 1.0))
    options = {"control": control, "control_apply_to_uncond": False}
    return [[[context, {**given, **options}] for context, given in part] for part in conditioning]
