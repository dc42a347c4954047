"""Fuse: applies a structure and a style B-LoRA to MODEL, each with its own alpha."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .sockets import ANY_LORA

if TYPE_CHECKING:
    from ..rechar_core.lora.blora import BLora


class ReCharFuse(io.ComfyNode):
    """Applies both B-LoRAs as ordinary ComfyUI weight patches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        alpha = {"default": 1.0, "min": -5.0, "max": 5.0, "step": 0.05}
        return io.Schema(
            node_id="ReCharFuse",
            display_name="Fuse Structure and Style",
            category="ReChar/B-LoRA",
            description=(
                "Applies the structure block of one B-LoRA and the style block of another to MODEL. The two share no "
                "layer, so each alpha changes only its own property. Other LoRAs may be applied before or after."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="An SDXL model. It is not changed; the output is a patched copy."
                ),
                io.MultiType.Input(
                    "structure", ANY_LORA, optional=True, tooltip="Only its structure block is used."
                ),
                io.MultiType.Input("style", ANY_LORA, optional=True, tooltip="Only its style block is used."),
                io.Float.Input(
                    "structure_alpha",
                    **alpha,
                    tooltip="Multiplies the structure LoRA. 0 is exactly as without it.",
                ),
                io.Float.Input(
                    "style_alpha", **alpha, tooltip="Multiplies the style LoRA. 0 is exactly as without it."
                ),
                io.Combo.Input(
                    "alpha_mode",
                    options=["linear", "reference"],
                    default="linear",
                    tooltip=(
                        "linear: alphas as given. reference: both alphas squared, as in the published code; for "
                        "alphas taken from papers."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output("fused", "MODEL", tooltip="MODEL with both LoRAs."),
                io.String.Output("report", "report", tooltip="What was fused, as text."),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        structure: BLora | None = None,
        style: BLora | None = None,
        **alphas: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.lora.fusion import fuse
        from .host.loras import as_blora
        from .host.patch import patch_model

        fusion = fuse(as_blora(structure), as_blora(style), **alphas)
        return io.NodeOutput(patch_model(model, fusion), str(fusion))


NODES = [ReCharFuse]
