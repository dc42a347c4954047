"""ReChar Pipeline: the whole method in one node, built from the same functions as the single nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .options import ELEMENTS, MODES, PASSES_GUIDANCE, PASSES_SEED, PASSES_STEPS, STYLE_IMAGE
from .sockets import ADAPTERS, ANY_LORA

if TYPE_CHECKING:
    from torch import Tensor

    from ..rechar_core.lora.blora import BLora
    from ..rechar_core.synthesis.references.encoding import IPAdapters


class ReCharPipeline(io.ComfyNode):
    """Three passes: structure picture, style picture, decorated glyph."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharPipeline",
            display_name="ReChar Pipeline",
            category="ReChar/References",
            description=(
                "Generates a structure picture with one B-LoRA, a style picture with another, and the decorated glyph "
                "from both. Inputs that are not connected are left out: without B-LoRAs, the glyph and the style "
                "picture are the references."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model without the B-LoRAs."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Image.Input(
                    "glyph",
                    tooltip="The glyph. It sets the size of the pictures. Only the first of a batch is used.",
                ),
                io.Mask.Input("glyph_mask", tooltip="The glyph's mask."),
                io.Combo.Input(
                    "pipeline_mode",
                    options=MODES,
                    tooltip=(
                        "tuned: our defaults. paper: with layout map and token drop. official: as in the published "
                        "code. references-only: needs no training."
                    ),
                ),
                io.String.Input("elements", **ELEMENTS),
                io.Int.Input("seed", **PASSES_SEED),
                io.Int.Input("steps", **PASSES_STEPS),
                io.Float.Input("guidance", **PASSES_GUIDANCE, optional=True),
                io.String.Input(
                    "template",
                    default="A [c] in [s] style",
                    optional=True,
                    tooltip=(
                        "The prompt of the result. [c] and [s] become the triggers; the elements go to [e], or to the "
                        "end."
                    ),
                ),
                io.String.Input(
                    "style_prompt",
                    default="A [s] style",
                    optional=True,
                    tooltip="The prompt of the second pass, which generates the style picture.",
                ),
                io.Image.Input("style_image", **STYLE_IMAGE),
                io.MultiType.Input(
                    "structure", ANY_LORA, optional=True, tooltip="Only its structure block is used."
                ),
                io.MultiType.Input("style", ANY_LORA, optional=True, tooltip="Only its style block is used."),
                ADAPTERS.Input("adapters", optional=True, tooltip="From Load Reference Adapters."),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="A canny ControlNet. It receives the glyph's edges.",
                ),
            ],
            outputs=[
                io.Image.Output("decorated", "IMAGE", tooltip="The decorated glyph."),
                io.Image.Output(
                    "structure_picture", "structure image", tooltip="The picture of the first pass."
                ),
                io.Image.Output("style_picture", "style image", tooltip="The picture of the second pass."),
                io.String.Output("settings", "settings", tooltip="All settings, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        glyph: Tensor,
        glyph_mask: Tensor,
        pipeline_mode: str,
        elements: str,
        seed: int,
        steps: int,
        guidance: float = 0.0,
        template: str = "A [c] in [s] style",
        style_prompt: str = "A [s] style",
        style_image: Tensor | None = None,
        structure: BLora | None = None,
        style: BLora | None = None,
        adapters: IPAdapters | None = None,
        control_net: Any = None,
    ) -> io.NodeOutput:
        from ..rechar_core.synthesis.modes import mode_named
        from ..rechar_core.synthesis.passes import Passes
        from .host.loras import as_blora
        from .host.pipeline import HostRenderer
        from .host.progress import Progress

        mode, progress = mode_named(pipeline_mode, steps, guidance), Progress(3)
        renderer = HostRenderer(model, clip, vae, adapters, control_net, progress)
        texts: dict[str, Any] = {"elements": elements, "template": template, "style_template": style_prompt}
        references: dict[str, Any] = {"style_image": style_image}
        references |= {"structure": as_blora(structure), "style": as_blora(style)}
        passes = Passes(renderer, glyph[:1], glyph_mask[:1], mode, seed, **texts, **references)
        first = {"glyph": f"the first of {len(glyph)}"} if len(glyph) > 1 else {}
        return io.NodeOutput(*passes.run(progress.show), mode.settings(seed=seed, **texts, **first))


NODES = [ReCharPipeline]
