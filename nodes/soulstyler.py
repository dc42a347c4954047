"""Soulstyler, words and place: an instruction becomes style and object, the object becomes a mask."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host import soulstyler as host
from .sockets import Llm, Segmenter


class SoulstylerInstruction(io.ComfyNode):
    """An instruction split into style and object."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerInstruction",
            display_name="Instruction",
            category="ReChar/Soulstyler",
            description=(
                "Splits an instruction in English, Chinese or Japanese into the style and the object it is for, "
                "by rules or by a language model of yours. Every value is copied from the instruction."
            ),
            inputs=[
                io.String.Input(
                    "instruction",
                    default="Turn the red car into a watercolor painting",
                    multiline=True,
                    tooltip="What is to be restyled, and how, in one sentence.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["auto", "rules", "LLM"],
                    default="auto",
                    tooltip="auto: the LLM or answer if there is one, and the rules where that cannot be used.",
                ),
                Llm.Input("llm", optional=True, tooltip="From Load Instruction LLM; the rules need none."),
                io.String.Input(
                    "answer",
                    optional=True,
                    force_input=True,
                    tooltip="JSON from any node with a language model, instead of llm; the help page has the prompt.",
                ),
            ],
            outputs=[
                io.String.Output("style", display_name="style", tooltip="For the prompt or Stylise by CLIP."),
                io.String.Output(
                    "object", display_name="object", tooltip="The object as the instruction calls it."
                ),
                io.String.Output("head", display_name="head noun", tooltip="The object's noun alone."),
                io.String.Output(
                    "part", display_name="part", tooltip="The part of the object that is meant, or empty."
                ),
                io.String.Output(
                    "pairs", display_name="pairs", tooltip="All pairs of style and object, as JSON."
                ),
                io.Boolean.Output("found", display_name="found", tooltip="Whether an object is named."),
                io.String.Output(
                    "reader", display_name="read by", tooltip="Who read it: the rules or the LLM."
                ),
            ],
        )

    @classmethod
    def execute(cls, instruction: str, mode: Any, llm: Any = None, answer: str = "") -> io.NodeOutput:
        request = host.read_instruction(instruction, mode, llm, answer)
        first = request.first
        named = (first.object, first.head, first.part)
        return io.NodeOutput(request.style, *named, request.pairs_json(), request.found, request.by)


class SoulstylerLoadLLM(io.ComfyNode):
    """A language model for instructions."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerLoadLLM",
            display_name="Load Instruction LLM",
            category="ReChar/Soulstyler",
            description=(
                "Reads an instruct model from a folder in models/LLM (transformers' layout, .safetensors). Nothing is "
                "downloaded, and no code of the model's own is run."
            ),
            inputs=[
                io.Combo.Input(
                    "llm_folder",
                    options=host.llm_names(),
                    tooltip="A folder in models/LLM with config.json, tokenizer and .safetensors weights.",
                )
            ],
            outputs=[Llm.Output("llm", display_name="LLM", tooltip="For Instruction.")],
        )

    @classmethod
    def execute(cls, llm_folder: str) -> io.NodeOutput:
        from ..rechar_core.soulstyler.llm import Llm as LanguageModel

        return io.NodeOutput(LanguageModel.load(host.place(llm_folder, host.LLMS)))


class SoulstylerLoadSegmenter(io.ComfyNode):
    """CLIPSeg, or GroundingDINO and SAM 2, from local folders."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerLoadSegmenter",
            display_name="Load Segmenter",
            category="ReChar/Soulstyler",
            description=(
                "Reads what finds a thing by its name from folders in models/soulstyler (transformers' layout, "
                ".safetensors): CLIPSeg with soft edges, or GroundingDINO and SAM 2 with sharp ones. Nothing is "
                "downloaded."
            ),
            inputs=[
                io.Combo.Input(
                    "segmenter_folder",
                    options=host.segmenter_names(),
                    default=host.SEGMENTERS[0],
                    tooltip="A folder in models/soulstyler with CLIPSeg or GroundingDINO and its tokenizer.",
                ),
                io.Combo.Input(
                    "sam_folder",
                    options=host.sam_names(),
                    default=host.SAM,
                    optional=True,
                    tooltip="A folder in models/soulstyler with SAM 2, for GroundingDINO; CLIPSeg needs none.",
                ),
            ],
            outputs=[Segmenter.Output("segmenter", display_name="SEGMENTER", tooltip="For Object Mask.")],
        )

    @classmethod
    def execute(cls, segmenter_folder: str, sam_folder: str = host.SAM) -> io.NodeOutput:
        from ..rechar_core.soulstyler.segmenters import load_segmenter

        return io.NodeOutput(load_segmenter(host.place(segmenter_folder), host.place(sam_folder)))


class SoulstylerMask(io.ComfyNode):
    """The named object's mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SoulstylerMask",
            display_name="Object Mask",
            category="ReChar/Soulstyler",
            description=(
                "Finds the named object in the picture. An object that is not found is an error unless you say "
                "otherwise, never silently the whole picture."
            ),
            inputs=[
                io.Image.Input("image", tooltip="The picture, or a batch."),
                Segmenter.Input("segmenter", tooltip="From Load Segmenter."),
                io.String.Input(
                    "object_name",
                    default="",
                    tooltip="What to look for: the head noun or the object of Instruction. The models read English.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.4,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    tooltip="How sure it has to be: 0.4 suits CLIPSeg, 0.3 GroundingDINO.",
                ),
                io.Int.Input(
                    "grow",
                    default=4,
                    min=-256,
                    max=256,
                    tooltip="Pixels by which the mask grows; below 0 it shrinks.",
                ),
                io.Int.Input(
                    "feather",
                    default=4,
                    min=0,
                    max=256,
                    tooltip="Pixels over which its edge fades, outwards as well.",
                ),
                io.Combo.Input(
                    "on_empty",
                    options=["error", "empty", "full"],
                    default="error",
                    tooltip="What to do if nothing is found: stop, go on with an empty mask, or with a full one.",
                ),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="MASK", tooltip="1 on the object."),
                io.Boolean.Output("found", display_name="found", tooltip="Whether it is in every picture."),
                io.Float.Output("score", display_name="score", tooltip="The surest pixel, 0 to 1."),
            ],
        )

    @classmethod
    def execute(cls, image: Any, segmenter: Any, object_name: str, **search: Any) -> io.NodeOutput:
        from ..rechar_core.soulstyler.segment import Search

        detection = host.find(segmenter, image, Search(object_name, **search))
        return io.NodeOutput(detection.mask, detection.found, detection.score)


NODES = [SoulstylerInstruction, SoulstylerLoadLLM, SoulstylerLoadSegmenter, SoulstylerMask]
