"""Nodes for reference images (IP-Adapters, layout) and for structure maps of a glyph for a ControlNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .host.references import adapter_names
from .sockets import ADAPTERS, LAYOUT, REFERENCES

if TYPE_CHECKING:
    from torch import Tensor

    from ..rechar_core.synthesis.references.attention import Reference
    from ..rechar_core.synthesis.references.encoding import IPAdapters
    from ..rechar_core.synthesis.references.layout import Layout

_SCALE = {"min": -5.0, "max": 5.0, "step": 0.05}
_PART = {"min": 0.0, "max": 1.0, "step": 0.01}


class ReCharLoadAdapters(io.ComfyNode):
    """Loads IP-Adapter files and checks them against the image encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharLoadAdapters",
            display_name="Load Reference Adapters",
            category="ReChar/References",
            description=(
                "Loads IP-Adapters for SDXL: a composition adapter for structure references and one for style "
                "references. All tensor shapes are checked; an error says which files fit together."
            ),
            inputs=[
                io.Combo.Input(
                    "composition",
                    options=adapter_names(),
                    tooltip="For structure references: a .safetensors file in models/ipadapter (usually plus).",
                ),
                io.Combo.Input(
                    "style_adapter",
                    options=adapter_names(),
                    tooltip="For style references: a .safetensors file in models/ipadapter.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    tooltip="The image encoder that both adapters were trained with, usually CLIP-ViT-H-14.",
                ),
            ],
            outputs=[ADAPTERS.Output("adapters", "adapters", tooltip="For Encode Reference.")],
        )

    @classmethod
    def execute(cls, composition: str, style_adapter: str, clip_vision: Any) -> io.NodeOutput:
        from .host.references import load_adapters

        return io.NodeOutput(load_adapters(composition, style_adapter, clip_vision))


class ReCharEncodeReference(io.ComfyNode):
    """Encodes a picture as image tokens for the cross-attention."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharEncodeReference",
            display_name="Encode Reference",
            category="ReChar/References",
            description=(
                "Encodes a picture as image tokens, which the model attends to in addition to the prompt. For several "
                "references, connect these nodes in a row through 'previous'."
            ),
            inputs=[
                ADAPTERS.Input("adapters", tooltip="From Load Reference Adapters."),
                io.Image.Input("image", tooltip="The reference. All pictures of a batch are used together."),
                io.Combo.Input(
                    "role",
                    options=["structure", "style"],
                    tooltip="structure or style: chooses the adapter, the branch of the layout and the scale.",
                ),
                io.Combo.Input(
                    "uncond",
                    options=["diffusers", "zeros", "black"],
                    tooltip=(
                        "Image tokens for the unconditional half of CFG. diffusers: as in the diffusers library. "
                        "zeros: no features. black: those of a black picture."
                    ),
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    **_SCALE,
                    tooltip="Weight of this reference relative to others of the same role.",
                ),
                io.Mask.Input(
                    "keep_mask",
                    optional=True,
                    tooltip="Image tokens outside the mask are dropped. For plus adapters only.",
                ),
                REFERENCES.Input("previous", optional=True, tooltip="References to use with this one."),
            ],
            outputs=[
                REFERENCES.Output("references", "references", tooltip="This reference and the previous ones.")
            ],
        )

    @classmethod
    def execute(
        cls,
        adapters: IPAdapters,
        image: Tensor,
        role: str,
        uncond: str,
        weight: float,
        keep_mask: Tensor | None = None,
        previous: tuple[Reference, ...] = (),
    ) -> io.NodeOutput:
        return io.NodeOutput((*previous, adapters.encode_reference(image, role, keep_mask, uncond, weight)))


class ReCharLayout(io.ComfyNode):
    """Builds the intensity layout map from masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharLayout",
            display_name="Layout",
            category="ReChar/References",
            description=(
                "Sets where text, structure and style act in the picture. A branch without a mask acts everywhere."
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
                        "How masks become weights. off: prompt everywhere, each reference times its mask. softmax: "
                        "softmax of the gated masks over the branches, in each cell. gated_softmax: gate times mask "
                        "times softmax of the masks (ReChar's)."
                    ),
                ),
                io.Float.Input(
                    "temperature",
                    default=1.0,
                    min=0.01,
                    max=100.0,
                    step=0.01,
                    tooltip="Temperature of the softmax. The smaller, the more the strongest branch dominates.",
                ),
                io.Combo.Input(
                    "mask_mode",
                    options=["area", "official", "maxpool", "fill", "distance"],
                    tooltip=(
                        "How masks are scaled down to the attention's grids. area: mean. official: as in the "
                        "published code; loses thin lines. maxpool: maximum. fill: also what lines enclose. distance: "
                        "fades out around the mask."
                    ),
                ),
            ],
            outputs=[
                LAYOUT.Output("layout", "layout", tooltip="For Apply References."),
                io.Image.Output(
                    "preview", "preview", tooltip="The weights of each branch; white is the strongest."
                ),
            ],
        )

    @classmethod
    def execute(cls, operator: str, temperature: float, mask_mode: str, **masks: Any) -> io.NodeOutput:
        from ..rechar_core.synthesis.references.preview import layout_of, preview

        layout = layout_of(masks, operator, temperature, mask_mode)
        return io.NodeOutput(layout, preview(layout))


class ReCharApplyReferences(io.ComfyNode):
    """Applies references to the cross-attention of a MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharApplyReferences",
            display_name="Apply References",
            category="ReChar/References",
            description=(
                "Makes every cross-attention of MODEL attend to the references in addition to the prompt. Works "
                "together with LoRAs, any ControlNet and other packs' attention patches."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="An SDXL model. It is not changed; the output is a patched copy."
                ),
                REFERENCES.Input("references", tooltip="From Encode Reference."),
                LAYOUT.Input("layout", optional=True, tooltip="Where they act. Without it: everywhere."),
                io.Float.Input(
                    "structure_scale",
                    default=1.0,
                    **_SCALE,
                    tooltip="Scale of the structure references. 0 is exactly as without them. Published code: 1.5.",
                ),
                io.Float.Input(
                    "style_scale",
                    default=0.8,
                    **_SCALE,
                    tooltip="Scale of the style references. 0 is exactly as without them. Published code: 0.8.",
                ),
                io.Float.Input(
                    "start", default=0.0, **_PART, tooltip="They act from this fraction of sampling."
                ),
                io.Float.Input(
                    "end", default=1.0, **_PART, tooltip="They act until this fraction of sampling."
                ),
                io.String.Input(
                    "block_weights",
                    default="",
                    tooltip=(
                        "Weights of single blocks, like 'output 1: 1, middle: 0.5, *: 0'. Blocks: input 4, 5, 7, 8, "
                        "middle, output 0 to 5; * means all others. Empty: 1 everywhere."
                    ),
                ),
            ],
            outputs=[io.Model.Output("referenced", "MODEL", tooltip="MODEL with the references.")],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        references: tuple[Reference, ...],
        structure_scale: float,
        style_scale: float,
        block_weights: str,
        layout: Layout | None = None,
        **window: float,
    ) -> io.NodeOutput:
        from .host.references import apply_references

        scales = {"structure": structure_scale, "style": style_scale}
        patched = apply_references(model, references, layout, scales, weights=block_weights, **window)
        return io.NodeOutput(patched)


class ReCharStructureMap(io.ComfyNode):
    """Computes a structure map of a glyph."""

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
                io.Mask.Input("glyph_mask", optional=True, tooltip="The glyph's mask; replaces the image."),
                io.Image.Input("image", optional=True, tooltip="A picture; its ink is found by brightness."),
                io.Combo.Input(
                    "kind",
                    options=["canny-cv2", "skeleton", "distance", "fill"],
                    tooltip=(
                        "canny-cv2: edges, equal to OpenCV's Canny(100, 200). skeleton: centre lines. distance: "
                        "brighter towards the middle of strokes. fill: the area that outlines enclose."
                    ),
                ),
            ],
            outputs=[io.Image.Output("map", "IMAGE", tooltip="White on black.")],
        )

    @classmethod
    def execute(
        cls, kind: str, glyph_mask: Tensor | None = None, image: Tensor | None = None
    ) -> io.NodeOutput:
        from ..rechar_core.glyph.structure_map import structure_map

        return io.NodeOutput(structure_map(kind, image, glyph_mask))


NODES = [ReCharLoadAdapters, ReCharEncodeReference, ReCharLayout, ReCharApplyReferences, ReCharStructureMap]
