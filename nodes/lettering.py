"""A word of decorated characters with one look."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .options import ELEMENTS, MODES, PASSES_GUIDANCE, PASSES_SEED, PASSES_STEPS
from .sockets import BLora, IPAdapters


class ReCharWord(io.ComfyNode):
    """Character by character, one style."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharWord",
            display_name="ReChar Word",
            category="ReChar/References",
            description=(
                "Draws each character of a word in a square of its own, all with one style: the same style LoRA and "
                "references, the same noise, and the same latent statistics. Then it puts the word together with alpha."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model without the B-LoRAs."),
                io.Clip.Input("clip", tooltip="The checkpoint's CLIP."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Mask.Input(
                    "characters",
                    tooltip="One mask a character at its place in the word: the output 'characters' of Glyph.",
                ),
                io.Combo.Input("pipeline_mode", options=MODES, tooltip="As in ReChar Pipeline."),
                io.String.Input("elements", **ELEMENTS),
                io.Int.Input(
                    "side",
                    default=1024,
                    min=64,
                    max=4096,
                    step=8,
                    tooltip="Pixels of each character's square. The demo model wants 256.",
                ),
                io.Float.Input(
                    "margin",
                    default=0.15,
                    min=0.0,
                    max=0.45,
                    step=0.01,
                    tooltip="Free part of the square around the largest character, for decorations.",
                ),
                io.Combo.Input(
                    "shared_style",
                    options=["noise and statistics", "noise", "off"],
                    tooltip=(
                        "What characters have in common beside style and prompt. noise: they start from the same. "
                        "statistics: ink and ground get the first character's means and spreads at every step."
                    ),
                ),
                io.Combo.Input(
                    "matte",
                    options=["glyph", "drawn", "square"],
                    tooltip=(
                        "What of each square goes into the word. glyph: the character's shape. drawn: the shape as it "
                        "was drawn. square: all of it."
                    ),
                ),
                io.Int.Input(
                    "structure_steps",
                    default=0,
                    min=0,
                    max=1_000_000,
                    tooltip=(
                        "Trains a structure B-LoRA for each character with so many steps, kept on disk; 0: none, "
                        "ControlNet or references carry the shapes. Published: 1000."
                    ),
                ),
                io.Float.Input(
                    "structure_rate",
                    default=5e-5,
                    min=1e-7,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="Learning rate of that training. Published: 0.00005. The demo model wants 0.005.",
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
                    tooltip="The prompt: [c] and [s] are the triggers; elements come last, or at [e].",
                ),
                io.Image.Input(
                    "style_image",
                    optional=True,
                    tooltip=(
                        "The style that all should have, for style adapters. Beside a style B-LoRA, which draws its "
                        "own, only references-only uses it."
                    ),
                ),
                BLora.Input("style", optional=True, tooltip="Only its style block is used."),
                IPAdapters.Input("adapters", optional=True, tooltip="From Load Reference Adapters."),
                io.ControlNet.Input(
                    "control_net",
                    optional=True,
                    tooltip="A canny ControlNet; it gets each character's edges.",
                ),
            ],
            outputs=[
                io.Image.Output("letters", display_name="IMAGE", tooltip="The characters as a batch."),
                io.Image.Output(
                    "word",
                    display_name="word",
                    tooltip="The word put together, with alpha as fourth channel.",
                ),
                io.Mask.Output("alpha", display_name="alpha", tooltip="The word's alpha: 1 is opaque."),
                io.String.Output("settings", display_name="settings", tooltip="All that was set, as JSON."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        clip: Any,
        vae: Any,
        characters: Any,
        pipeline_mode: str,
        matte: str,
        seed: int,
        steps: int,
        guidance: float,
        adapters: Any = None,
        control_net: Any = None,
        style: Any = None,
        style_image: Any = None,
        **rest: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.synthesis.modes import mode_named
        from .host.lettering import finished, lettering_of
        from .host.pipeline import HostRenderer

        mode = mode_named(pipeline_mode, steps, guidance)
        renderer = HostRenderer(model, clip, vae, adapters, control_net)
        texts = {name: rest.pop(name) for name in ("elements", "template")}
        word = lettering_of(characters, **rest)
        pictures = word.draw(renderer, mode, seed, **texts, style=style, style_image=style_image)
        settings = mode.settings(seed=seed, matte=matte, **texts, **rest)
        return io.NodeOutput(pictures, *finished(word, pictures, matte), settings)


NODES = [ReCharWord]
