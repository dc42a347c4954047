"""Alpha Grid: the same seed at every pair of structure and style alphas."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .sockets import BLora


class ReCharAlphaGrid(io.ComfyNode):
    """A labelled sheet to choose alphas from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .host.sampling import sampler_names, scheduler_names

        return io.Schema(
            node_id="ReCharAlphaGrid",
            display_name="Alpha Grid",
            category="ReChar/B-LoRA",
            description="Draws one picture for each pair of alphas, from the same noise, and lays them out as a sheet.",
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model without the B-LoRAs."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Conditioning.Input("positive", tooltip="What to draw."),
                io.Conditioning.Input(
                    "negative", tooltip="What to avoid; ConditioningZeroOut gives SDXL's zeros."
                ),
                io.Latent.Input("latent_image", tooltip="Size of the pictures; its first latent is used."),
                BLora.Input("structure", optional=True, tooltip="Only its structure block is used."),
                BLora.Input("style", optional=True, tooltip="Only its style block is used."),
                io.String.Input(
                    "structure_alphas", default="0, 0.5, 1", tooltip="Columns: numbers separated by commas."
                ),
                io.String.Input(
                    "style_alphas", default="0, 0.5, 1", tooltip="Rows: numbers separated by commas."
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="Of the noise.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Sampling steps of each picture."),
                io.Float.Input(
                    "cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Classifier-free guidance."
                ),
                io.Combo.Input(
                    "sampler_name", options=sampler_names(), default="euler", tooltip="As in KSampler."
                ),
                io.Combo.Input(
                    "scheduler", options=scheduler_names(), default="normal", tooltip="As in KSampler."
                ),
            ],
            outputs=[
                io.Image.Output("sheet", display_name="sheet", tooltip="All pictures, labelled."),
                io.Image.Output(
                    "images", display_name="IMAGE", tooltip="The pictures as a batch, row by row."
                ),
            ],
        )

    @classmethod
    def execute(cls, structure_alphas: str, style_alphas: str, **inputs: Any) -> io.NodeOutput:
        from ..rechar_core.lora.fusion import alpha_list
        from .host.sampling import alpha_grid

        sheet, images = alpha_grid(alpha_list(structure_alphas), alpha_list(style_alphas), **inputs)
        return io.NodeOutput(sheet, images)


NODES = [ReCharAlphaGrid]
