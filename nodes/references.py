"""Reference images through adapters: load, encode, lay out, apply; and maps of a glyph's structure for a ControlNet."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.references import adapter_names
from .sockets import IPAdapters, Layout, References

_SCALE = {"min": -5.0, "max": 5.0, "step": 0.05}
_PART = {"min": 0.0, "max": 1.0, "step": 0.01}


class ReCharLoadAdapters(io.ComfyNode):
    """Adapter files and their image encoder, checked against each other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharLoadAdapters",
            display_name="Load Reference Adapters",
            category="ReChar/References",
            description=(
                "Loads IP-Adapters for SDXL: one that carries the structure of a picture (composition adapter) and one "
                "that carries its style. Every shape is checked, and an error names what fits what."
            ),
            inputs=[
                io.Combo.Input(
                    "composition",
                    options=adapter_names(),
                    tooltip="For structure references: a .safetensors file in models/ipadapter, mostly a plus adapter.",
                ),
                io.Combo.Input(
                    "style_adapter",
                    options=adapter_names(),
                    tooltip="For style references: a .safetensors file in models/ipadapter.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder that both were trained with, usually CLIP-ViT-H-14.",
                ),
            ],
            outputs=[IPAdapters.Output("adapters", display_name="adapters", tooltip="For Encode Reference.")],
        )

    @classmethod
    def execute(cls, composition: str, style_adapter: str, clip_vision: Any) -> io.NodeOutput:
        from .host.references import load_adapters

        return io.NodeOutput(load_adapters(composition, style_adapter, clip_vision))


class ReCharEncodeReference(io.ComfyNode):
    """A picture becomes tokens for the cross-attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharEncodeReference",
            display_name="Encode Reference",
            category="ReChar/References",
            description=(
                "Turns a picture into tokens that the model attends to beside the prompt. Connect several in a row "
                "through 'previous' for any number of references."
            ),
            inputs=[
                IPAdapters.Input("adapters", tooltip="From Load Reference Adapters."),
                io.Image.Input("image", tooltip="The reference; of a batch, all pictures are seen together."),
                io.Combo.Input(
                    "role",
                    options=["structure", "style"],
                    tooltip="Which adapter reads it, and which part of the layout and which scale it follows.",
                ),
                io.Combo.Input(
                    "uncond",
                    options=["diffusers", "zeros", "black"],
                    tooltip=(
                        "What the negative half sees instead. diffusers: as the diffusers library does. zeros: no "
                        "features. black: a black picture."
                    ),
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    **_SCALE,
                    tooltip="Its share beside other references of the same role.",
                ),
                io.Mask.Input(
                    "keep_mask",
                    optional=True,
                    tooltip="Image tokens outside it are dropped, not blackened. For plus adapters only.",
                ),
                References.Input("previous", optional=True, tooltip="References to go along with this one."),
            ],
            outputs=[
                References.Output(
                    "references", display_name="references", tooltip="This one and those before it."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        adapters: Any,
        image: Any,
        role: str,
        uncond: str,
        weight: float,
        keep_mask: Any = None,
        previous: tuple[Any, ...] = (),
    ) -> io.NodeOutput:
        from .host.references import encode_reference

        reference = encode_reference(adapters, image, role, keep_mask, uncond, weight)
        return io.NodeOutput((*(previous or ()), reference))


class ReCharLayout(io.ComfyNode):
    """The intensity layout map."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharLayout",
            display_name="Layout",
            category="ReChar/References",
            description=(
                "Says where text, structure and style act in the picture. A branch without a mask acts everywhere."
            ),
            inputs=[
                io.Mask.Input("structure_mask", optional=True, tooltip="Where structure references act."),
                io.Mask.Input("style_mask", optional=True, tooltip="Where style references act."),
                io.Mask.Input(
                    "text_mask",
                    optional=True,
                    tooltip="Where the prompt acts; for softmax and gated_softmax only.",
                ),
                io.Combo.Input(
                    "operator",
                    options=["off", "softmax", "gated_softmax"],
                    tooltip=(
                        "How masks become weights. off: the prompt everywhere, each reference times its mask. softmax: "
                        "the branches compete for every cell by a softmax of gated masks. gated_softmax: gate times "
                        "mask times a softmax of the masks (ReChar's)."
                    ),
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Of the softmax: small lets the strongest branch take all.",
                ),
                io.Combo.Input(
                    "mask_mode",
                    options=["area", "official", "maxpool", "fill", "distance"],
                    tooltip=(
                        "How masks come to the coarse grids of the attention. area: their mean. official: as the "
                        "published code, which loses thin lines. maxpool: any touch counts. fill: what lines enclose. "
                        "distance: falls off softly outside."
                    ),
                ),
            ],
            outputs=[
                Layout.Output("layout", display_name="layout", tooltip="For Apply References."),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="The weights of each branch; white is the strongest.",
                ),
            ],
        )

    @classmethod
    def execute(cls, operator: str, temperature: float, mask_mode: str, **masks: Any) -> io.NodeOutput:
        from ..rechar_core.synthesis.references.preview import layout_of, preview

        layout = layout_of(masks, operator, temperature, mask_mode)
        return io.NodeOutput(layout, preview(layout))


class ReCharApplyReferences(io.ComfyNode):
    """References into the cross-attention of a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharApplyReferences",
            display_name="Apply References",
            category="ReChar/References",
            description=(
                "Lets every cross-attention of MODEL look at the references beside the prompt. Works together with "
                "LoRAs, any ControlNet and other packs' attention patches."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="An SDXL model; it stays as it is, the output is a patched copy."
                ),
                References.Input("references", tooltip="From Encode Reference."),
                Layout.Input("layout", optional=True, tooltip="Where they act; without it, everywhere."),
                io.Float.Input(
                    "structure_scale",
                    default=1.0,
                    **_SCALE,
                    tooltip="Strength of structure references. 0 is exactly without. The published code has 1.5.",
                ),
                io.Float.Input(
                    "style_scale",
                    default=0.8,
                    **_SCALE,
                    tooltip="Strength of style references. 0 is exactly without. The published code has 0.8.",
                ),
                io.Float.Input(
                    "start", default=0.0, **_PART, tooltip="Part of the sampling after which they act."
                ),
                io.Float.Input(
                    "end", default=1.0, **_PART, tooltip="Part of the sampling until which they act."
                ),
                io.String.Input(
                    "block_weights",
                    default="",
                    tooltip=(
                        "Factors of single blocks, like 'output 1: 1, middle: 0.5, *: 0'. Blocks: input 4, 5, 7, 8, "
                        "middle, output 0 to 5; * is all others. Empty: 1 everywhere."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output("referenced", display_name="MODEL", tooltip="MODEL with the references.")
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        references: Any,
        structure_scale: float,
        style_scale: float,
        start: float,
        end: float,
        block_weights: str,
        layout: Any = None,
    ) -> io.NodeOutput:
        from ..rechar_core.synthesis.references.layout import Layout
        from .host.references import apply_references

        scales = {"structure": structure_scale, "style": style_scale}
        layout = layout or Layout()
        return io.NodeOutput(apply_references(model, references, layout, scales, start, end, block_weights))


class ReCharStructureMap(io.ComfyNode):
    """A picture of a glyph's structure."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharStructureMap",
            display_name="Structure Map",
            category="ReChar/References",
            description=(
                "Draws a glyph's edges, skeleton, distance map or filled shape, white on black, for any ControlNet."
            ),
            inputs=[
                io.Mask.Input(
                    "glyph_mask", optional=True, tooltip="The glyph's mask; it goes before the picture."
                ),
                io.Image.Input(
                    "image", optional=True, tooltip="A picture, whose ink is found by its darkness."
                ),
                io.Combo.Input(
                    "kind",
                    options=["canny-cv2", "skeleton", "distance", "fill"],
                    tooltip=(
                        "canny-cv2: edges, equal to OpenCV's Canny(100, 200). skeleton: middle lines. distance: "
                        "brighter towards the middle of strokes. fill: what outlines enclose."
                    ),
                ),
            ],
            outputs=[io.Image.Output("map", display_name="IMAGE", tooltip="White on black.")],
        )

    @classmethod
    def execute(cls, kind: str, glyph_mask: Any = None, image: Any = None) -> io.NodeOutput:
        from ..rechar_core.glyph.structure_map import structure_map

        return io.NodeOutput(structure_map(kind, image, glyph_mask))


NODES = [ReCharLoadAdapters, ReCharEncodeReference, ReCharLayout, ReCharApplyReferences, ReCharStructureMap]
