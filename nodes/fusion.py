"""Fuse: a structure and a style B-LoRA onto a MODEL, each with its alpha."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .sockets import BLora


class ReCharFuse(io.ComfyNode):
    """Alpha-controlled fusion as ordinary LoRA patches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        alpha = {"default": 1.0, "min": -5.0, "max": 5.0, "step": 0.05}
        return io.Schema(
            node_id="ReCharFuse",
            display_name="Fuse Structure and Style",
            category="ReChar/B-LoRA",
            description=(
                "Puts the structure block of one B-LoRA and the style block of another into MODEL. They share no "
                "layer, so each alpha moves its own property. Other LoRAs may be stacked before or after."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="An SDXL model; it stays as it is, the output is a patched copy."
                ),
                BLora.Input("structure", optional=True, tooltip="Only its structure block is used."),
                BLora.Input("style", optional=True, tooltip="Only its style block is used."),
                io.Float.Input(
                    "structure_alpha", **alpha, tooltip="How much structure. 0 is exactly without."
                ),
                io.Float.Input("style_alpha", **alpha, tooltip="How much style. 0 is exactly without."),
                io.Combo.Input(
                    "alpha_mode",
                    options=["linear", "reference"],
                    default="linear",
                    tooltip="'reference' squares both alphas, as the published code does; for alphas from papers.",
                ),
            ],
            outputs=[
                io.Model.Output("fused", display_name="MODEL", tooltip="MODEL with the fusion."),
                io.String.Output("report", display_name="report", tooltip="What was fused, in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        structure_alpha: float,
        style_alpha: float,
        alpha_mode: str,
        structure: Any = None,
        style: Any = None,
    ) -> io.NodeOutput:
        from ..rechar_core.lora.fusion import fuse
        from .host.patch import patch_model

        fusion = fuse(structure, style, structure_alpha, style_alpha, alpha_mode)
        return io.NodeOutput(patch_model(model, fusion), str(fusion))


NODES = [ReCharFuse]
