"""Load, save and inspect B-LoRA files."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from comfy_api.latest import io

from ..rechar_core.lora.blocks import STRUCTURE, STYLE, Block
from .host.folders import LORAS, file_names, file_path
from .sockets import ANY_LORA, BLORA

if TYPE_CHECKING:
    from torch import Tensor

    from ..rechar_core.lora.blora import BLora


class _LoadBlock(io.ComfyNode):
    """Loads one block of a file in models/loras."""

    block: ClassVar[Block]

    @classmethod
    def fingerprint_inputs(cls, file: str) -> int:
        return file_path(LORAS, file, "LoRA file").stat().st_mtime_ns

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        from ..rechar_core.lora import files
        from ..rechar_core.lora.fusion import selected
        from ..rechar_core.lora.inspect import inspect

        whole = files.read(file_path(LORAS, file, "LoRA file"))
        return io.NodeOutput(selected(whole, cls.block), whole.trigger, str(inspect(whole)))


def _load_schema(block: str, name: str) -> io.Schema:
    return io.Schema(
        node_id=f"ReCharLoad{name}LoRA",
        display_name=f"Load {name} LoRA",
        category="ReChar/B-LoRA",
        description=(
            f"Reads the {block} block of a B-LoRA, or of any SDXL LoRA: kohya, diffusers, PEFT, LyCORIS, "
            "the B-LoRA authors' files. What lies outside the block or is not understood is named in the report and "
            "not used."
        ),
        inputs=[
            io.Combo.Input("file", options=file_names(LORAS), tooltip="A .safetensors file in models/loras.")
        ],
        outputs=[
            BLORA.Output("blora", "BLORA", tooltip=f"The {block} block."),
            io.String.Output(
                "trigger", "trigger", tooltip="The prompt it was trained with, if the file stores it."
            ),
            io.String.Output("report", "report", tooltip="What the whole file contains."),
        ],
    )


class ReCharLoadStructureLoRA(_LoadBlock):
    """Loads the structure block of a file in models/loras."""

    block = STRUCTURE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _load_schema("structure", "Structure")


class ReCharLoadStyleLoRA(_LoadBlock):
    """Loads the style block of a file in models/loras."""

    block = STYLE

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _load_schema("style", "Style")


class ReCharSaveBLoRA(io.ComfyNode):
    """Saves B-LoRAs as files in the loras folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharSaveBLoRA",
            display_name="Save B-LoRA",
            category="ReChar/B-LoRA",
            description=(
                "Writes NAME_structure.safetensors and NAME_style.safetensors into the loras folder (kohya keys: "
                "ComfyUI, A1111, Forge and diffusers read them), with trigger word, recipe and thumbnail inside."
            ),
            inputs=[
                io.String.Input(
                    "name",
                    default="",
                    tooltip="File name without extension; 'folder/name' for a subfolder. Empty: from the trigger.",
                ),
                io.MultiType.Input("structure", ANY_LORA, optional=True, tooltip="Saved as NAME_structure."),
                io.MultiType.Input("style", ANY_LORA, optional=True, tooltip="Saved as NAME_style."),
                io.Image.Input(
                    "thumbnail",
                    optional=True,
                    tooltip="A picture that LoRA managers show, for example the training picture.",
                ),
                io.Combo.Input(
                    "if_exists",
                    options=["next free name", "overwrite", "error"],
                    default="next free name",
                    optional=True,
                    tooltip="If a file of this name exists: save as NAME_2 (and so on), replace it, or stop.",
                ),
            ],
            outputs=[
                io.String.Output(
                    "files", "files", tooltip="The file names to choose in the load nodes, one per line."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        name: str,
        structure: BLora | None = None,
        style: BLora | None = None,
        thumbnail: Tensor | None = None,
        if_exists: str = "next free name",
    ) -> io.NodeOutput:
        from .host.loras import as_blora
        from .host.saving import save

        parts = {"structure": as_blora(structure, STRUCTURE), "style": as_blora(style, STYLE)}
        names = save(name, parts, thumbnail, if_exists)
        return io.NodeOutput("\n".join(names), ui={"text": names})


class ReCharInspectBLoRA(io.ComfyNode):
    """Describes a B-LoRA."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharInspectBLoRA",
            display_name="Inspect B-LoRA",
            category="ReChar/B-LoRA",
            description=(
                "Shows format, blocks, rank, trigger word and the norm of each layer's weight change, as text and as "
                "a chart."
            ),
            inputs=[io.MultiType.Input("blora", ANY_LORA, tooltip="From a load or train node.")],
            outputs=[
                io.String.Output("report", "report", tooltip="The result as a table."),
                io.Image.Output("chart", "IMAGE", tooltip="The norm of each layer's weight change."),
            ],
        )

    @classmethod
    def execute(cls, blora: BLora) -> io.NodeOutput:
        from ..rechar_core.charts import energy_chart
        from ..rechar_core.images import to_tensor
        from ..rechar_core.lora.inspect import inspect
        from .host.loras import as_blora

        report = inspect(as_blora(blora))
        return io.NodeOutput(str(report), to_tensor(energy_chart(report.by_block())))


NODES = [ReCharLoadStructureLoRA, ReCharLoadStyleLoRA, ReCharSaveBLoRA, ReCharInspectBLoRA]
