"""Element Prompt: decorative things named in text, kept in the cross-attention where other words are dropped."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .options import ELEMENTS


class ReCharElementPrompt(io.ComfyNode):
    """Token-level element prompting."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharElementPrompt",
            display_name="Element Prompt",
            category="ReChar/Prompt",
            description=(
                "A prompt whose normal words leave the cross-attention, so that structure and style come from the "
                "LoRAs and the words decorate. The pooled embedding stays that of the whole prompt."
            ),
            inputs=[
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP."),
                io.String.Input(
                    "template",
                    default="A [c] in [s] style",
                    tooltip="[c]: structure trigger, [s]: style trigger, [e]: elements (else appended with 'with').",
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
                        "auto: triggers and the elements' content words stay. brackets: what stands in [ ] stays. "
                        "all: an ordinary prompt."
                    ),
                ),
                io.Float.Input(
                    "element_weight",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="Emphasis of the elements.",
                ),
                io.Mask.Input(
                    "region", optional=True, tooltip="Where the elements may appear; without it, everywhere."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    "conditioning", display_name="CONDITIONING", tooltip="For the sampler."
                ),
                io.String.Output(
                    "kept", display_name="kept tokens", tooltip="The words that stay in the attention."
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        template: str,
        structure_trigger: str,
        style_trigger: str,
        elements: str,
        keep: Any,
        element_weight: float,
        region: Any = None,
    ) -> io.NodeOutput:
        from ..rechar_core.synthesis.elements import build_prompt, kept_text
        from .host.elements import element_conditioning

        words = build_prompt(template, structure_trigger, style_trigger, elements, keep, element_weight)
        return io.NodeOutput(element_conditioning(clip, words, region), kept_text(words))


NODES = [ReCharElementPrompt]
