"""Alpha Grid: one picture from the same seed for every pair of structure and style alpha."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .sockets import ANY_LORA


class ReCharAlphaGrid(io.ComfyNode):
    """Generates a labelled sheet for choosing alphas."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from .host.sampling import samplers_and_schedulers

        samplers, schedulers = samplers_and_schedulers()
        return io.Schema(
            node_id="ReCharAlphaGrid",
            display_name="Alpha Grid",
            category="ReChar/B-LoRA",
            description=(
                "Generates one picture for each pair of alphas, all from the same noise, and arranges them on one "
                "sheet."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model without the B-LoRAs."),
                io.Vae.Input("vae", tooltip="Decodes the pictures."),
                io.Conditioning.Input("positive", tooltip="The positive conditioning."),
                io.Conditioning.Input(
                    "negative",
                    tooltip=(
                        "The negative conditioning. ConditioningZeroOut gives the zeros that SDXL was trained with."
                    ),
                ),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Sets the size of the pictures. Only the first latent of a batch is used.",
                ),
                io.MultiType.Input(
                    "structure", ANY_LORA, optional=True, tooltip="Only its structure block is used."
                ),
                io.MultiType.Input("style", ANY_LORA, optional=True, tooltip="Only its style block is used."),
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
                    tooltip="Seed of the noise.",
                ),
                io.Int.Input(
                    "steps", default=20, min=1, max=10000, tooltip="Sampling steps of each picture."
                ),
                io.Float.Input(
                    "cfg", default=5.0, min=0.0, max=100.0, step=0.1, tooltip="Classifier-free guidance."
                ),
                io.Combo.Input("sampler_name", options=samplers, default="euler", tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=schedulers, default="normal", tooltip="As in KSampler."),
            ],
            outputs=[
                io.Image.Output("sheet", "sheet", tooltip="All pictures with their labels."),
                io.Image.Output("images", "IMAGE", tooltip="The pictures as a batch, row by row."),
            ],
        )

    @classmethod
    def execute(cls, structure_alphas: str, style_alphas: str, **inputs: Any) -> io.NodeOutput:
        from ..rechar_core.lora.fusion import alpha_list
        from .host.loras import as_blora
        from .host.sampling import alpha_grid

        inputs |= {name: as_blora(inputs.get(name)) for name in ("structure", "style")}
        sheet, images = alpha_grid(alpha_list(structure_alphas), alpha_list(style_alphas), **inputs)
        return io.NodeOutput(sheet, images)


NODES = [ReCharAlphaGrid]
