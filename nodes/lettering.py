"""ReChar Word: a word of decorated characters in one style."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .options import ELEMENTS, MODES, PASSES_GUIDANCE, PASSES_SEED, PASSES_STEPS, STYLE_IMAGE
from .sockets import ADAPTERS, ANY_LORA

if TYPE_CHECKING:
    from torch import Tensor

    from ..rechar_core.lora.blora import BLora
    from ..rechar_core.synthesis.references.encoding import IPAdapters


class ReCharWord(io.ComfyNode):
    """Generates a word character by character in one style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharWord",
            display_name="ReChar Word",
            category="ReChar/References",
            description=(
                "Generates each character of a word in a square of its own, all in one style: with the same style "
                "LoRA, references, noise and latent statistics. Then it composes the word, with an alpha channel."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model without the B-LoRAs."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Mask.Input(
                    "characters",
                    tooltip="One mask per character, at its place in the word: the output 'characters' of Glyph.",
                ),
                io.Combo.Input("pipeline_mode", options=MODES, tooltip="As in ReChar Pipeline."),
                io.String.Input("elements", **ELEMENTS),
                io.Int.Input(
                    "side",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Side of each character's square in pixels. Use 256 with the demo model.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.15,
                    min=0.0,
                    max=0.45,
                    step=0.01,
                    tooltip="Empty fraction of the square around the largest character, as room for decorations.",
                ),
                io.Combo.Input(
                    "shared_style",
                    options=["noise and statistics", "noise", "off"],
                    tooltip=(
                        "What the characters share besides style and prompt. noise: the initial noise. statistics: at "
                        "every step, ink and background are given the first character's means and standard deviations."
                    ),
                ),
                io.Combo.Input(
                    "matte",
                    options=["glyph", "drawn", "square"],
                    tooltip=(
                        "Which part of each square goes into the word. glyph: the character's shape. drawn: the shape "
                        "in the generated picture. square: the whole square."
                    ),
                ),
                io.Int.Input(
                    "structure_steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip=(
                        "Training steps of a structure B-LoRA for each character, stored on disk. 0: no training; a "
                        "ControlNet or references give the shapes. Published: 1000."
                    ),
                ),
                io.Float.Input(
                    "structure_rate",
                    default=5e-5,
                    min=1e-7,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="Learning rate of that training. Published: 0.00005. Use 0.005 with the demo model.",
                ),
                io.Int.Input(
                    "structure_rank",
                    default=64,
                    min=1,
                    max=1024,
                    tooltip="Rank of that training. Published: 64.",
                ),
                io.Int.Input("seed", **PASSES_SEED),
                io.Int.Input("steps", **PASSES_STEPS),
                io.Float.Input("guidance", **PASSES_GUIDANCE),
                io.String.Input(
                    "template",
                    default="A [c] in [s] style",
                    tooltip="The prompt. [c] and [s] become the triggers; the elements go to [e], or to the end.",
                ),
                io.Image.Input("style_image", **STYLE_IMAGE),
                io.MultiType.Input("style", ANY_LORA, optional=True, tooltip="Only its style block is used."),
                ADAPTERS.Input("adapters", optional=True, tooltip="From Load Reference Adapters."),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="A canny ControlNet. It receives each character's edges.",
                ),
            ],
            outputs=[
                io.Image.Output("letters", "IMAGE", tooltip="The characters as a batch."),
                io.Image.Output(
                    "word", "word", tooltip="The composed word, with alpha as the fourth channel."
                ),
                io.Mask.Output("alpha", "alpha", tooltip="The word's alpha: 1 is opaque."),
                io.String.Output("settings", "settings", tooltip="All settings, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        characters: Tensor,
        pipeline_mode: str,
        elements: str,
        matte: str,
        seed: int,
        steps: int,
        guidance: float,
        template: str,
        adapters: IPAdapters | None = None,
        control_net: Any = None,
        style: BLora | None = None,
        style_image: Tensor | None = None,
        **lettering: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.synthesis.modes import mode_named
        from .host.lettering import Lettering
        from .host.loras import as_blora
        from .host.pipeline import HostRenderer
        from .host.progress import Progress

        mode, word = mode_named(pipeline_mode, steps, guidance), Lettering(characters, **lettering)
        renderer = HostRenderer(model, clip, vae, adapters, control_net, Progress(word.parts))
        texts = {"elements": elements, "template": template}
        pictures = word.draw(
            renderer, mode, seed, matte, **texts, style=as_blora(style), style_image=style_image
        )
        settings = mode.settings(seed=seed, matte=matte, **texts, **lettering)
        return io.NodeOutput(*pictures, settings)


NODES = [ReCharWord]
