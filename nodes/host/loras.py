"""A LoRA that a socket gives as a B-LoRA: ours, or what ComfyUI's own trainer makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, overload

from ...rechar_core.lora import files
from ...rechar_core.lora.blora import BLora
from ...rechar_core.lora.fusion import selected

if TYPE_CHECKING:
    from torch import Tensor

    from ...rechar_core.lora.blocks import Block


@overload
def as_blora(given: BLora | Mapping[str, Tensor], block: Block | None = None) -> BLora: ...


@overload
def as_blora(given: BLora | Mapping[str, Tensor] | None, block: Block | None = None) -> BLora | None: ...


def as_blora(given: BLora | Mapping[str, Tensor] | None, block: Block | None = None) -> BLora | None:
    """The B-LoRA in BLORA or LORA_MODEL; None stays None. block: of a LORA_MODEL, only the weights inside it.

    Raises LoraError if a LORA_MODEL has no usable weights in the two blocks, or none in `block`.
    """
    if given is None or isinstance(given, BLora):
        return given
    whole = files.from_tensors(given, name="The LORA_MODEL")
    return whole if block is None else selected(whole, block)
