"""Soulstyler nodes that restyle the object: masked img2img for any sampler, or the CLIP-guided engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .host import soulstyler as host
from .sockets import GUIDE, TARGET

if TYPE_CHECKING:
    from torch import Tensor

    from ..rechar_core.soulstyler.compositing import ObjectRegion
    from ..rechar_core.soulstyler.guide import Guide

# Inputs that both nodes of the CLIP-guided engine have
_MASK: dict[str, Any] = {"tooltip": "The object's mask, from any node: one mask, or one for each picture."}
_ON_EMPTY: dict[str, Any] = {
    "options": ["error", "keep the picture"],
    "default": "error",
    "optional": True,
    "tooltip": "What to do if the mask is empty. error: stop. keep the picture: return it as it is; the log says so.",
}
_T: dict[str, Any] = {
    "default": 0.7,
    "min": 0.0,
    "max": 10.0,
    "step": 0.05,
    "tooltip": "How strongly the loss keeps the surroundings unchanged. 0: not at all.",
}
_STEPS: dict[str, Any] = {
    "default": 201,
    "min": 1,
    "max": 10000,
    "tooltip": "Optimizer steps. Published: 201.",
}
_CROPS: dict[str, Any] = {
    "default": 64,
    "min": 1,
    "max": 1024,
    "tooltip": "Crops per step. Fewer are faster.",
}
_RESOLUTION: dict[str, Any] = {
    "default": 512,
    "min": 16,
    "max": 4096,
    "tooltip": "Shorter side in pixels while fitting. The result has the size of the picture.",
}


class SoulstylerPrepare(io.ComfyNode):
    """Prepares a picture and a mask for a sampler."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerPrepare",
            display_name="Prepare Restyle",
            category="ReChar/Soulstyler",
            description=(
                "Prepares picture and mask for KSampler: a latent with the mask, and MODEL with differential "
                "diffusion, so that a soft mask restyles gradually. A denoise of 0.4 to 0.8 keeps the object's form."
            ),
            inputs=[
                io.Model.Input("model", tooltip="An SDXL model with the style B-LoRA applied."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE."),
                io.Image.Input("image", tooltip="The picture, or a batch."),
                io.Mask.Input(
                    "mask",
                    tooltip="Where the picture may change; from any node. One mask, or one for each picture.",
                ),
                io.Combo.Input("on_empty", **_ON_EMPTY),
            ],
            outputs=[
                io.Model.Output("sampled_model", "MODEL", tooltip="For KSampler."),
                io.Latent.Output("latent", "LATENT", tooltip="For KSampler."),
                TARGET.Output("target", "TARGET", tooltip="For Finish Restyle."),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, vae: Any, image: Tensor, mask: Tensor, on_empty: str = "error"
    ) -> io.NodeOutput:
        from ..rechar_core.soulstyler.compositing import ObjectRegion

        target = ObjectRegion.of(image, mask)
        host.warn_if_empty(target.mask, on_empty)
        return io.NodeOutput(*host.prepare(model, vae, target), target)


class SoulstylerFinish(io.ComfyNode):
    """Puts the restyled object back into its picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerFinish",
            display_name="Finish Restyle",
            category="ReChar/Soulstyler",
            description=(
                "Puts the restyled object back into the picture. Where the mask is 0, every pixel equals the source, "
                "bit for bit."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The sampled latent, decoded by VAE Decode."),
                TARGET.Input("restyle_target", tooltip="From Prepare Restyle."),
            ],
            outputs=[io.Image.Output("restyled", "IMAGE", tooltip="The finished picture.")],
        )

    @classmethod
    def execute(cls, image: Tensor, restyle_target: ObjectRegion) -> io.NodeOutput:
        return io.NodeOutput(restyle_target.finish(image))


class SoulstylerLoadGuide(io.ComfyNode):
    """Loads CLIP and VGG19 from local files."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerLoadGuide",
            display_name="Load Style Guide",
            category="ReChar/Soulstyler",
            description=(
                "Loads the models that measure the style: CLIP (a folder in transformers' layout) and VGG19 (a "
                ".safetensors file), both in models/soulstyler. ComfyUI's own CLIP Vision cannot be used because it "
                "passes no gradients. Nothing is downloaded."
            ),
            inputs=[
                io.Combo.Input(
                    "clip_folder",
                    options=host.folder_names(["clip"], host.CLIP),
                    default=host.CLIP,
                    tooltip="A folder in models/soulstyler with config.json, model.safetensors and the tokenizer.",
                ),
                io.Combo.Input(
                    "vgg_file",
                    options=host.vgg_names(),
                    default=host.VGG,
                    tooltip="VGG19 with torchvision's tensor names, in models/soulstyler.",
                ),
            ],
            outputs=[GUIDE.Output("guide", "GUIDE", tooltip="For Stylise by CLIP and Style Sweep.")],
        )

    @classmethod
    def execute(cls, clip_folder: str, vgg_file: str) -> io.NodeOutput:
        from ..rechar_core.soulstyler.guide import load_guide

        return io.NodeOutput(load_guide(host.place(clip_folder), host.place(vgg_file)))


class SoulstylerOptimise(io.ComfyNode):
    """The CLIP-guided engine."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerOptimise",
            display_name="Stylise by CLIP",
            category="ReChar/Soulstyler",
            description=(
                "Soulstyler as published: fits a small network to this one picture until CLIP finds that the object "
                "matches the style text. Needs no diffusion model."
            ),
            inputs=[
                GUIDE.Input("guide", tooltip="From Load Style Guide."),
                io.Image.Input("image", tooltip="The picture, or a batch."),
                io.Mask.Input("mask", **_MASK),
                io.String.Input(
                    "style_text", default="cubism", tooltip="The style in words. CLIP reads English."
                ),
                io.Float.Input("t", **_T),
                io.Int.Input("steps", **_STEPS),
                io.Float.Input(
                    "learning_rate",
                    default=0.0005,
                    min=0.0000001,
                    max=1.0,
                    step=0.0001,
                    round=False,
                    tooltip="0.0005 as published. It is halved every 100 steps.",
                ),
                io.Int.Input("crops", **_CROPS),
                io.Int.Input(
                    "crop_size",
                    default=64,
                    min=8,
                    max=1024,
                    tooltip="Side of a crop in pixels. Larger crops give larger brush strokes.",
                ),
                io.Int.Input("resolution", **_RESOLUTION),
                io.Int.Input(
                    "seed", default=0, min=0, max=2**64 - 1, tooltip="The same seed gives the same picture."
                ),
                io.Boolean.Input(
                    "keep_outside",
                    default=True,
                    tooltip="On: nothing outside the mask changes. Off: as published, only t limits the change.",
                ),
                io.Combo.Input("on_empty", **_ON_EMPTY),
            ],
            outputs=[
                io.Image.Output("restyled", "IMAGE", tooltip="The finished picture."),
                io.Custom("LOSS_MAP").Output("loss", "LOSS_MAP", tooltip="The loss of every step."),
            ],
        )

    @classmethod
    def execute(
        cls,
        guide: Guide,
        image: Tensor,
        mask: Tensor,
        style_text: str,
        keep_outside: bool,
        on_empty: str = "error",
        **recipe: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.soulstyler.stylise import Restyling, StyleRecipe

        restyling = Restyling(guide, image, mask, StyleRecipe(style_text, **recipe), composited=keep_outside)
        losses = host.restyle(guide, [restyling], on_empty)
        return io.NodeOutput(restyling.result(), {"loss": losses})


class SoulstylerSweep(io.ComfyNode):
    """Restyles one masked object in many styles."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerSweep",
            display_name="Style Sweep",
            category="ReChar/Soulstyler",
            description=(
                "Restyles one picture in many styles and with many seeds, with models that are loaded once. Gives a "
                "labelled sheet and every picture. Outside the mask nothing changes."
            ),
            inputs=[
                GUIDE.Input("guide", tooltip="From Load Style Guide."),
                io.Image.Input("image", tooltip="The picture. Only the first of a batch is used."),
                io.Mask.Input("mask", **_MASK),
                io.String.Input(
                    "styles",
                    default="cubism\nwatercolor painting\nstained glass",
                    multiline=True,
                    tooltip="One style per line. CLIP reads English.",
                ),
                io.String.Input("seeds", default="0", tooltip="Whole numbers, separated by commas."),
                io.Float.Input("t", **_T),
                io.Int.Input("steps", **_STEPS),
                io.Int.Input("crops", **_CROPS),
                io.Int.Input("resolution", **_RESOLUTION),
                io.Combo.Input("on_empty", **_ON_EMPTY),
            ],
            outputs=[
                io.Image.Output(
                    "sheet", "sheet", tooltip="All pictures with their labels, one style per row."
                ),
                io.Image.Output("images", "IMAGE", tooltip="The pictures as a batch, row by row."),
            ],
        )

    @classmethod
    def execute(
        cls,
        guide: Guide,
        image: Tensor,
        mask: Tensor,
        styles: str,
        seeds: str,
        on_empty: str = "error",
        **recipe: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.soulstyler.stylise import sweep_recipes

        recipes = sweep_recipes(styles, seeds, **recipe)
        return io.NodeOutput(*host.sweep(guide, image, mask, recipes, on_empty))


NODES = [SoulstylerPrepare, SoulstylerFinish, SoulstylerLoadGuide, SoulstylerOptimise, SoulstylerSweep]
