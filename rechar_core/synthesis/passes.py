"""ReChar's three passes: structure picture, style picture, and the decorated glyph from both.

Each pass builds a `RenderJob`. A `Renderer` generates the picture of a job, with ComfyUI or with diffusers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from ..device import next_seed
from ..errors import RecipeError
from ..glyph.structure_map import structure_map
from ..images import check_same_shape
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
    """The description of one picture to generate. size: (height, width) in pixels. scales: of the references, by role.

    hint: IMAGE (1, H, W, 3) for the ControlNet, or None to use no ControlNet. control: its strength.
    each_step: a function that changes the denoised latent (1, 4, h, w) of every step, after guidance.
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
    """Generates pictures and encodes references. control_net: None if there is none; then jobs have no hint."""

    @property
    def control_net(self) -> Any: ...

    def adapter(self, role: str) -> IPAdapter | None:
        """The IP-Adapter that encodes references of this role, or None."""

    def check(self) -> None:
        """Raises ReCharError unless the IP-Adapters fit their image encoder and the model."""

    def encode_reference(self, picture: Tensor, role: str, keep: Tensor | None) -> Reference:
        """Encodes IMAGE (1, H, W, 3) as a reference. keep: MASK outside which image tokens are dropped, or None."""

    def render(self, job: RenderJob) -> Tensor:
        """Generates IMAGE (1, H, W, 3) in 0..1; the same job gives the same picture."""


@dataclass(frozen=True)
class Passes:
    """The inputs of the three passes. glyph: IMAGE (1, H, W, 3), whose size the result has; mask: MASK (1, H, W).

    template, style_template: prompts of the result and of the style picture; [c] and [s] as in elements.build_prompt.
    structure, style: B-LoRAs or None. style_image: IMAGE or None; with a style B-LoRA only references-only uses it.
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
        """Runs all passes: the result, the structure picture and the style picture, each an IMAGE. Raises ReCharError.

        done: called after each pass with the number of finished passes.
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
        """Raises RecipeError if an input that the mode needs is missing, AdapterError if IP-Adapters do not fit.

        learns: whether a structure B-LoRA will be trained later; then it need not be connected.
        """
        if self.style_image is None and (self.style is None or not self.mode.renders_references):
            raise RecipeError(
                "There is no style: connect a style picture, or a style B-LoRA in another mode."
            )
        if not self.mode.renders_references and not any(map(self.renderer.adapter, ROLES)):
            raise RecipeError("The mode references-only needs adapters: connect Load Reference Adapters.")
        self._layout({})
        self._check_carriers(learns or self.structure is not None)
        check_same_shape(self.mask, (self.glyph.shape[1], self.glyph.shape[2]), "glyph")
        if not bool((self.mask > 0).any()):
            raise RecipeError("The glyph's mask is empty; connect the mask of the Glyph node.")
        self.renderer.check()

    def _check_carriers(self, structure: bool) -> None:
        """Raises RecipeError if nothing gives the result structure or style. structure: there is a structure B-LoRA."""
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
        """Whether an IP-Adapter with a scale other than 0 is used for this role in the result."""
        scale = self.mode.structure_scale if role == "structure" else self.mode.style_scale
        return self.renderer.adapter(role) is not None and scale != 0

    def structure_picture(self) -> Tensor:
        """The first pass. Without a structure B-LoRA it returns the glyph."""
        if self.structure is None or not self.mode.renders_references:
            return self.glyph
        return self._draw(0, fuse(self.structure, None), self._words(_STRUCTURE_TEMPLATE))

    def style_picture(self) -> Tensor:
        """The second pass. Without a style B-LoRA it returns the given style picture."""
        if self.style_image is not None and (self.style is None or not self.mode.renders_references):
            return self.style_image[:1]
        return self._draw(1, fuse(None, self.style), self._words(self.style_template))

    def result(
        self, structure: Tensor, style: Tensor, each_step: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """The third pass, from the pictures of the first two."""
        fusion = fuse(self.structure if self.mode.structure_stays else None, self.style)
        words = self._words(self.template, self.elements, self._keep())
        return self._draw(2, fusion, words, **self._references(structure, style), each_step=each_step)

    def _keep(self) -> Any:
        """The keep mode: that of the mode if IP-Adapters or LoRAs give structure and style, else "all"."""
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
        reduction = mode.style_beside_lora if self.style is not None else 1.0
        plus = ip_adapters["structure"] is not None and ip_adapters["structure"].kind == "plus"
        keep_mask = self.mask if mode.drop and plus else None
        pairs = (("structure", structure, keep_mask), ("style", style, None))
        return {
            "references": tuple(
                self.renderer.encode_reference(p, role, k) for role, p, k in pairs if ip_adapters[role]
            ),
            "layout": self._layout(masks),
            "scales": {"structure": mode.structure_scale, "style": mode.style_scale * reduction},
        }

    def _layout(self, masks: Mapping[str, Tensor]) -> Layout:
        return Layout(masks, self.mode.operator, self.mode.temperature, self.mode.mask_mode)

    def _draw(self, number: int, fusion: Fusion, words: tuple[PromptToken, ...], **more: Any) -> Tensor:
        """One pass, (1, H, W, 3)."""
        mode, strength = self.mode, self.mode.control[number]
        if self.renderer.control_net is not None and strength != 0:
            more |= {"hint": self._edges, "control": strength}
        return self.renderer.render(
            RenderJob(
                fusion,
                words,
                build_prompt(mode.negative, mode="all"),
                (self.glyph.shape[1] // 8 * 8, self.glyph.shape[2] // 8 * 8),
                next_seed(self.seed, number),
                mode.steps,
                mode.cfg[number],
                **more,
            )
        )

    @cached_property
    def _edges(self) -> Tensor:
        """The glyph's edges, for the ControlNet."""
        return structure_map("canny-cv2", self.glyph)

    def _words(self, template: str, elements: str = "", keep: Any = "all") -> tuple[PromptToken, ...]:
        structure, style = (
            (blora.trigger if blora else "") or "[v]" for blora in (self.structure, self.style)
        )
        return build_prompt(template, structure, style, elements, keep)
