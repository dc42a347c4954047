"""The two blocks of a B-LoRA by their module paths."""

from __future__ import annotations

import torch

from rechar_core.lora.blocks import STYLE, block_of
from rechar_core.lora.blora import BLora


def test_a_block_is_told_by_whole_parts_of_the_path():
    """A failure means that attentions.10 is taken for attentions.1."""
    assert block_of("up_blocks.0.attentions.10.proj_in") is None
    assert block_of("up_blocks.0.attentions.1.proj_in") is STYLE


def test_a_blocks_part_has_its_own_weights_of_every_kind_alone():
    """A failure means that LoHa or LoKr weights of the structure block come along with the style."""
    both = {f"up_blocks.0.attentions.{n}.proj_in": {"diff": torch.ones(1, 1)} for n in (0, 1)}
    assert list(BLora({}, passthrough=both).select(STYLE).passthrough) == ["up_blocks.0.attentions.1.proj_in"]
