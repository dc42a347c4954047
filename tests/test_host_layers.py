"""The host's cross-attentions in the adapters' order, and the weights of its blocks; no host is needed for it."""

from __future__ import annotations

from typing import Any

import pytest
import unhosted


@pytest.fixture(scope="module")
def host() -> Any:
    """nodes/host/layers.py."""
    with unhosted.pack() as module:
        yield module("nodes.host.layers")


def host_names() -> list[tuple[str, int]]:
    """Full SDXL's cross-attentions under the host's names, shuffled by sorting as text."""
    depths = {("input", 4): 2, ("input", 5): 2, ("input", 7): 10, ("input", 8): 10, ("middle", 0): 10}
    depths |= {("output", n): 10 if n < 3 else 2 for n in range(6)}
    names = []
    for (side, block), depth in depths.items():
        path = "middle_block.1" if side == "middle" else f"{side}_blocks.{block}.1"
        width = 640 if depth == 2 else 1280
        names += [(f"{path}.transformer_blocks.{i}.attn2.to_k.weight", width) for i in range(depth)]
    return sorted([*names, ("input_blocks.4.1.transformer_blocks.0.attn1.to_k.weight", 640)])


def test_the_seventy_layers_of_sdxl_are_numbered_as_adapters_number_them(host: Any):
    """Encoder, decoder, middle; within a block by number and not by text (10 after 9)."""
    layers = host.layers_of(host_names())
    assert len(layers) == 70
    assert [layer.width for layer in layers] == [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10
    assert [layer.block_name for layer in layers[::10]] == [
        "input 4",
        "input 7",
        "input 8",
        "output 0",
        "output 1",
        "output 2",
        "middle",
    ]
    assert [layer.index for layer in layers[4:14]] == list(range(10))


def test_block_weights_are_read(host: Any):
    layers = host.layers_of(host_names())
    assert set(host.block_weights("", layers).values()) == {1.0} and len(host.block_weights("", layers)) == 11
    found = host.block_weights("Output 1: 0.5， middle=2\n*: 0; structure: -1", layers)
    assert {block: w for block, w in found.items() if w} == {"output 0": -1, "output 1": 0.5, "middle": 2}


@pytest.mark.parametrize("text", ["output 9: 1", "middle", "middle: much", "style: nan", "attn: 1"])
def test_unknown_blocks_are_named(host: Any, text: str):
    with pytest.raises(host.AdapterError, match=r"write BLOCK: NUMBER, where a block is one of input 4, "):
        host.block_weights(text, host.layers_of(host_names()))
