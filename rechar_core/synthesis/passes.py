"""ReChar's three passes, wherever they are drawn: structure picture, style picture, and the glyph from both.

What a pass is made of is a `RenderJob`; who draws it is a `Renderer`: the host's graph, or diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RecipeError
from ..glyph.structure_map import structure_map
from ..lora.fusion import Fusion, fuse
from .elements import PromptToken, build_prompt
from .modes import PipelineConfig
from .references.attention import Reference
from .references.layout import ROLES, Layout
from .references.projection import IPAdapter

if TYPE_CHECKING:
    from torch import Tensor

    from ..lora.blora import BLora

TEMPLATE, STYLE_TEMPLATE = "A [c] in [s] style", "A [s] style"
_STRUCTURE_TEMPLATE = "A [c] content"


@dataclass(frozen=True)
class RenderJob:
    """One picture to draw. size: (height, width) in pixels. scales: of the references, by role.

    hint: IMAGE (1, H, W, 3) for the ControlNet, whose strength is `control`; None for no ControlNet.
    each_step: changes the denoised latent (1, 4, h, w) of every step, after the guidance.
    """

    fusion: Fusion
    positive: tuple[PromptToken, ...]
    negative: tuple[PromptToken, ...]
    size: tuple[int, int]
    seed: int
    steps: int
    cfg: float
    references: tuple[Reference, ...] = ()
    layout: Layout = field(default_factory=Layout)
    scales: Mapping[str, float] = field(default_factory=dict)
    hint: Tensor | None = None
    control: float = 0.0
    each_step: Callable[[Tensor], Tensor] | None = None


class Renderer(Protocol):
    """Draws, and reads references. control_net: None where there is none, then no hint is given."""

    @property
    def control_net(self) -> Any: ...

    def adapter(self, role: str) -> IPAdapter | None:
        """The adapter that reads references of this role."""

    def check(self) -> None:
        """Raises ReCharError unless the adapters fit their image encoder and the model."""

    def encode_reference(self, picture: Tensor, role: str, keep: Tensor | None) -> Reference:
        """A reference from IMAGE (1, H, W, 3), of which MASK `keep` stays."""

    def draw(self, drawing: RenderJob) -> Tensor:
        """IMAGE (1, H, W, 3) in 0..1, the same for the same drawing."""


@dataclass(frozen=True)
class Passes:
    """What the passes start from. glyph: IMAGE (1, H, W, 3), its size is the result's; mask: MASK (1, H, W).

    template: the result's prompt, style_template: the style picture's (elements.compose says what [c] and [s] mean).
    structure, style: B-LoRAs or None. style_image: IMAGE or None; beside a style B-LoRA only references-only uses it.
    """

    renderer: Renderer
    glyph: Tensor
    mask: Tensor
    mode: PipelineConfig
    seed: int
    elements: str = ""
    template: str = TEMPLATE
    style_template: str = STYLE_TEMPLATE
    structure: BLora | None = None
    style: BLora | None = None
    style_image: Tensor | None = None

    def run(self, done: Callable[[int], None] = lambda number: None) -> tuple[Tensor, Tensor, Tensor]:
        """The result, the structure picture and the style picture, IMAGE each. Raises ReCharError.

        done: called with the number of passes that are done, after each.
        """
        self.check()
        structure = self.structure_picture()
        done(1)
        style = self.style_picture()
        done(2)
        result = self.result(structure, style)
        done(3)
        return result, structure, style

    def check(self, learns: bool = False) -> None:
        """Raises RecipeError if what the mode needs is missing, AdapterError if adapters do not fit.

        learns: a structure B-LoRA is still to be trained, and counts as given.
        """
        if self.style_image is None and (self.style is None or not self.mode.renders_references):
            raise RecipeError(
                "There is no style: connect a style picture, or a style B-LoRA in another mode."
            )
        if not self.mode.renders_references and not any(map(self.renderer.adapter, ROLES)):
            raise RecipeError("The mode references-only needs adapters: connect Load Reference Adapters.")
        self._layout({})
        self._check_carriers(learns or self.structure is not None)
        if not bool((self.mask > 0).any()):
            raise RecipeError("The glyph's mask is empty; connect the mask of the Glyph node.")
        self.renderer.check()

    def _check_carriers(self, structure: bool) -> None:
        """structure: whether there is a structure B-LoRA."""
        controlled = self.renderer.control_net is not None and self.mode.control[2] != 0
        if not (controlled or self._reads("structure") or (structure and self.mode.structure_stays)):
            raise RecipeError(
                "Nothing carries the glyph into the picture: connect a ControlNet or adapters with a composition "
                "adapter, or a structure B-LoRA (in ReChar Word: set structure_steps) in a mode other than official "
                "and paper."
            )
        if self.style is None and not self._reads("style"):
            raise RecipeError(
                "Nothing carries the style picture's style: connect adapters with a style adapter, or a style B-LoRA "
                "trained on it."
            )

    def _reads(self, role: str) -> bool:
        """Whether an adapter carries this role into the result."""
        scale = self.mode.structure_scale if role == "structure" else self.mode.style_scale
        return self.renderer.adapter(role) is not None and scale != 0

    def structure_picture(self) -> Tensor:
        """The first pass; without a B-LoRA, the glyph."""
        if self.structure is None or not self.mode.renders_references:
            return self.glyph
        return self._draw(0, fuse(self.structure, None), self._words(_STRUCTURE_TEMPLATE))

    def style_picture(self) -> Tensor:
        """The second pass; without a B-LoRA, the style picture."""
        if self.style_image is not None and (self.style is None or not self.mode.renders_references):
            return self.style_image[:1]
        return self._draw(1, fuse(None, self.style), self._words(self.style_template))

    def result(
        self, structure: Tensor, style: Tensor, each_step: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """The third pass, from what the first two gave."""
        fusion = fuse(self.structure if self.mode.structure_stays else None, self.style)
        words = self._words(self.template, self.elements, self._keep())
        return self._draw(2, fusion, words, **self._references(structure, style), each_step=each_step)

    def _keep(self) -> Any:
        """The elements' words alone only where something else brings structure and style; else the whole prompt."""
        read = any(map(self.renderer.adapter, ROLES))
        carried = bool(self.elements.strip()) and (read or self.style is not None)
        return self.mode.keep if carried else "all"

    def _references(self, structure: Tensor, style: Tensor) -> dict[str, Any]:
        mode, ip_adapters = self.mode, {role: self.renderer.adapter(role) for role in ROLES}
        masks = {}
        if ip_adapters["structure"]:
            edges = mode.mask == "edges"
            masks["structure"] = (
                structure_map("canny-cv2", structure)[0, ..., 0] if edges else self.mask[0].cpu()
            )
        beside = mode.style_beside_lora if self.style is not None else 1.0
        plus = ip_adapters["structure"] is not None and ip_adapters["structure"].kind == "plus"
        kept = self.mask if mode.drop and plus else None
        pairs = (("structure", structure, kept), ("style", style, None))
        return {
            "references": tuple(
                self.renderer.encode_reference(p, role, k) for role, p, k in pairs if ip_adapters[role]
            ),
            "layout": self._layout(masks),
            "scales": {"structure": mode.structure_scale, "style": mode.style_scale * beside},
        }

    def _layout(self, masks: Mapping[str, Tensor]) -> Layout:
        return Layout(masks, self.mode.operator, self.mode.temperature, self.mode.mask_mode)

    def _draw(self, number: int, fusion: Fusion, words: tuple[PromptToken, ...], **more: Any) -> Tensor:
        """One pass, (1, H, W, 3)."""
        mode, strength = self.mode, self.mode.control[number]
        if self.renderer.control_net is not None and strength != 0:
            more |= {"hint": self._edges, "control": strength}
        return self.renderer.draw(
            RenderJob(
                fusion,
                words,
                build_prompt(mode.negative, mode="all"),
                (self.glyph.shape[1] // 8 * 8, self.glyph.shape[2] // 8 * 8),
                self.seed + number,
                mode.steps,
                mode.cfg[number],
                **more,
            )
        )

    @cached_property
    def _edges(self) -> Tensor:
        """The glyph's, for the ControlNet."""
        return structure_map("canny-cv2", self.glyph)

    def _words(self, template: str, elements: str = "", keep: Any = "all") -> tuple[PromptToken, ...]:
        return build_prompt(template, trigger(self.structure), trigger(self.style), elements, keep)


def trigger(blora: BLora | None) -> str:
    """As it was trained, without the article."""
    return (getattr(blora, "trigger", "") or "").removeprefix("A ").strip() or "[v]"
