"""Element Prompt: keeps the tokens of decorative elements in the cross-attention and drops ordinary ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .options import ELEMENTS

if TYPE_CHECKING:
    from torch import Tensor

    from ..rechar_core.synthesis.elements import KeepMode


class ReCharElementPrompt(io.ComfyNode):
    """Token-level element prompting."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharElementPrompt",
            display_name="Element Prompt",
            category="ReChar/Prompt",
            description=(
                "Encodes a prompt and drops its ordinary tokens from the cross-attention. Structure and style then "
                "come from the LoRAs, and the element tokens add the decorations. The pooled embedding is that of the "
                "whole prompt."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP."),
                io.String.Input(
                    "template",
                    default="A [c] in [s] style",
                    tooltip=(
                        "[c]: structure trigger, [s]: style trigger, [e]: elements. Without [e] they are appended "
                        "after 'with'."
                    ),
                ),
                io.String.Input(
                    "structure_trigger",
                    default="A [v]",
                    tooltip="The prompt the structure LoRA was trained with.",
                ),
                io.String.Input(
                    "style_trigger", default="A [s]", tooltip="The prompt the style LoRA was trained with."
                ),
                io.String.Input("elements", **ELEMENTS),
                io.Combo.Input(
                    "keep",
                    options=["auto", "brackets", "all"],
                    default="auto",
                    tooltip=(
                        "Which tokens stay in the cross-attention. auto: those of the triggers and of the elements' "
                        "content words. brackets: those inside [ ]. all: every token, as in an ordinary prompt."
                    ),
                ),
                io.Float.Input(
                    "element_weight",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Weight of the element tokens, as in (crane:1.3).",
                ),
                io.Mask.Input(
                    "region",
                    optional=True,
                    tooltip="Where the elements may appear. Without a mask: everywhere.",
                ),
            ],
            outputs=[
                io.Conditioning.Output("conditioning", "CONDITIONING", tooltip="For the sampler."),
                io.String.Output(
                    "kept", "kept tokens", tooltip="The tokens that stay in the cross-attention."
                ),
                io.String.Output(
                    "dropped",
                    "dropped words",
                    tooltip="Words of the elements that are not kept, such as 'of'.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls, clip: Any, keep: KeepMode, element_weight: float, region: Tensor | None = None, **texts: str
    ) -> io.NodeOutput:
        from ..rechar_core.synthesis.elements import build_prompt, dropped_text, kept_text
        from .host.elements import element_conditioning

        words = build_prompt(mode=keep, weight=element_weight, **texts)
        conditioning = element_conditioning(clip, words, region)
        return io.NodeOutput(conditioning, kept_text(words), dropped_text(words))


NODES = [ReCharElementPrompt]
