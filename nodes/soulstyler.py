"""Soulstyler nodes that split an instruction into style and object and find the object's mask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .host import soulstyler as host
from .sockets import LLM, SEGMENTER

if TYPE_CHECKING:
    from torch import Tensor

    from ..rechar_core.soulstyler.llm import Llm
    from ..rechar_core.soulstyler.segmenters import ClipSeg, Grounded


class SoulstylerInstruction(io.ComfyNode):
    """Splits an instruction into style and object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerInstruction",
            display_name="Instruction",
            category="ReChar/Soulstyler",
            description=(
                "Splits an instruction in English, Chinese or Japanese into a style and the object to restyle, by "
                "rules or with your own language model. Every value is copied from the instruction."
            ),
            inputs=[
                io.String.Input(
                    "instruction",
                    default="Turn the red car into a watercolor painting",
                    multiline=True,
                    tooltip="What to restyle, and how, in one sentence.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["auto", "rules", "LLM"],
                    default="auto",
                    tooltip=(
                        "auto: uses llm or answer if connected, else the rules; also the rules if the LLM's output is "
                        "not valid. rules: only the rules. LLM: only the language model."
                    ),
                ),
                LLM.Input("llm", optional=True, tooltip="From Load Instruction LLM; the rules need none."),
                io.String.Input(
                    "answer",
                    optional=True,
                    force_input=True,
                    tooltip=(
                        "JSON output of a language model in any other node, instead of llm. The help page has the "
                        "prompt."
                    ),
                ),
            ],
            outputs=[
                io.String.Output("style", "style", tooltip="For the prompt or Stylise by CLIP."),
                io.String.Output("object", "object", tooltip="The object, in the words of the instruction."),
                io.String.Output("head", "head noun", tooltip="The object's noun alone."),
                io.String.Output("part", "part", tooltip="The part of the object that is meant, or empty."),
                io.String.Output("pairs", "pairs", tooltip="All pairs of style and object, as JSON."),
                io.Boolean.Output("found", "found", tooltip="Whether the instruction names an object."),
                io.String.Output(
                    "reader", "read by", tooltip="What split the instruction: the rules or the LLM."
                ),
            ],
        )

    @classmethod
    def execute(cls, instruction: str, mode: str, llm: Llm | None = None, answer: str = "") -> io.NodeOutput:
        request = host.read_instruction(instruction, mode, llm, answer)
        first = request.first
        named = (first.object, first.head, first.part)
        return io.NodeOutput(request.style, *named, request.pairs_json(), request.found, request.by)


class SoulstylerLoadLLM(io.ComfyNode):
    """Loads a language model that splits instructions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerLoadLLM",
            display_name="Load Instruction LLM",
            category="ReChar/Soulstyler",
            description=(
                "Loads an instruct model from a folder in models/LLM (transformers' layout, .safetensors). Nothing is "
                "downloaded, and no code from the model's folder is run."
            ),
            inputs=[
                io.Combo.Input(
                    "llm_folder",
                    options=host.llm_names(),
                    tooltip="A folder in models/LLM with config.json, tokenizer and .safetensors weights.",
                )
            ],
            outputs=[LLM.Output("llm", "LLM", tooltip="For Instruction.")],
        )

    @classmethod
    def execute(cls, llm_folder: str) -> io.NodeOutput:
        from ..rechar_core.soulstyler.llm import Llm

        return io.NodeOutput(Llm.load(host.place(llm_folder, host.LLMS)))


class SoulstylerLoadSegmenter(io.ComfyNode):
    """Loads CLIPSeg, or GroundingDINO and SAM 2, from local folders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..rechar_core.soulstyler.segmenters import LOADERS, SAMS

        return io.Schema(
            node_id="SoulstylerLoadSegmenter",
            display_name="Load Segmenter",
            category="ReChar/Soulstyler",
            description=(
                "Loads a model that finds objects by name, from folders in models/soulstyler (transformers' layout, "
                ".safetensors): CLIPSeg, with soft edges, or GroundingDINO and SAM 2, with sharp edges. Nothing is "
                "downloaded."
            ),
            inputs=[
                io.Combo.Input(
                    "segmenter_folder",
                    options=host.folder_names(LOADERS, *host.SEGMENTERS),
                    default=host.SEGMENTERS[0],
                    tooltip="A folder in models/soulstyler with CLIPSeg or GroundingDINO and its tokenizer.",
                ),
                io.Combo.Input(
                    "sam_folder",
                    options=host.folder_names(SAMS, host.SAM),
                    default=host.SAM,
                    optional=True,
                    tooltip="A folder in models/soulstyler with SAM 2, for GroundingDINO; CLIPSeg needs none.",
                ),
            ],
            outputs=[SEGMENTER.Output("segmenter", "SEGMENTER", tooltip="For Object Mask.")],
        )

    @classmethod
    def execute(cls, segmenter_folder: str, sam_folder: str = host.SAM) -> io.NodeOutput:
        from ..rechar_core.soulstyler.segmenters import load_segmenter

        return io.NodeOutput(load_segmenter(host.place(segmenter_folder), host.place(sam_folder)))


class SoulstylerMask(io.ComfyNode):
    """Finds the mask of a named object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerMask",
            display_name="Object Mask",
            category="ReChar/Soulstyler",
            description=(
                "Finds the named object in the picture. If it is not found, the node stops with an error, unless "
                "on_empty is set otherwise."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch."),
                SEGMENTER.Input("segmenter", tooltip="From Load Segmenter."),
                io.String.Input(
                    "object_name",
                    default="",
                    tooltip=(
                        "The object to look for: the outputs head noun or object of Instruction. The models read "
                        "English."
                    ),
                ),
                io.Float.Input(
                    "threshold",
                    default=0.4,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="Lowest score that counts as found. 0.4 suits CLIPSeg, 0.3 GroundingDINO.",
                ),
                io.Int.Input(
                    "grow",
                    default=4,
                    min=-256,
                    max=256,
                    tooltip="Grows the mask by this many pixels. Negative values shrink it.",
                ),
                io.Int.Input(
                    "feather",
                    default=4,
                    min=0,
                    max=256,
                    tooltip="Width in pixels over which the mask's edge fades, also outwards.",
                ),
                io.Combo.Input(
                    "on_empty",
                    options=["error", "empty", "full"],
                    default="error",
                    tooltip=(
                        "What to do if nothing is found. error: stop. empty: continue with an empty mask. full: "
                        "continue with a full mask."
                    ),
                ),
            ],
            outputs=[
                io.Mask.Output("mask", "MASK", tooltip="1 on the object."),
                io.Boolean.Output("found", "found", tooltip="Whether the object was found in every picture."),
                io.Float.Output("score", "score", tooltip="The highest score of any pixel, 0 to 1."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, segmenter: ClipSeg | Grounded, object_name: str, **search: Any
    ) -> io.NodeOutput:
        from ..rechar_core.soulstyler.segment import Search

        detection = host.find(segmenter, image, Search(object_name, **search))
        return io.NodeOutput(detection.mask, detection.found, detection.score)


NODES = [SoulstylerInstruction, SoulstylerLoadLLM, SoulstylerLoadSegmenter, SoulstylerMask]
