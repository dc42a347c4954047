"""Memory of a training step, counted without a GPU at SDXL's topology in small: a regression of a mode is seen here.

benchmarks/real_size.py counts the same at the real size.
"""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel

from benchmarks.counted import steps
from benchmarks.counting import GPU, counting
from rechar_core.cli.train import weights_size

RANK = 4
# Bytes beside the weights, of fast and normal; of low, with the half of the weights that is on the device
ELSE = {"fast": 5_398_588, "normal": 3_094_868, "low": 9_219_608}


def unet() -> UNet2DConditionModel:
    """SDXL's blocks, one transformer layer in each."""
    with torch.device("meta"):
        made = UNet2DConditionModel(
            sample_size=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(32, 64, 128),
            attention_head_dim=(1, 1, 2),
            transformer_layers_per_block=1,
            cross_attention_dim=64,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=1280 + 6 * 256,
        )
    return torch.nn.Module.to(made, torch.bfloat16).to_empty(device="cpu").requires_grad_(False).eval()


def test_bytes_are_counted_while_they_are_alive() -> None:
    """A failure means that every figure of benchmarks/real_size.py is wrong."""
    with counting() as count:
        first = torch.empty(1000, device=GPU)
        view = first[10:].view(-1, 2)
        second = first + 1
        assert count.alive == count.peak == 8000
        del first, second
        assert count.alive == 4000  # the view holds on to the first
        del view
        assert (count.alive, count.peak) == (0, 8000)
        x = torch.zeros(10, 10, device=GPU, requires_grad=True)
        (x @ x).relu().sum().backward()
        assert count.alive == 800  # x and its gradient


def test_operations_are_counted() -> None:
    with counting(flops=True) as counter:
        q = torch.zeros(1, 2, 16, 8, device=GPU)
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
        torch.zeros(3, 5, device=GPU) @ torch.zeros(5, 7, device=GPU)
    assert counter.get_total_flops() == 2 * 2 * 2 * 16 * 16 * 8 + 2 * 3 * 5 * 7


@pytest.fixture(scope="module")
def peaks() -> dict[str, float]:
    return {mode: steps(unet(), mode, 256, RANK, number=2) for mode in ELSE}


@pytest.mark.parametrize("mode", ELSE)
def test_what_a_step_adds_to_the_weights(peaks, mode) -> None:
    """A failure means that a mode takes more memory than it did (or less: then write the new figure down)."""
    held = weights_size(unet()) if mode != "low" else 0
    assert peaks[mode] - held == pytest.approx(ELSE[mode], rel=0.06)


def test_each_mode_takes_less_than_the_one_before(peaks) -> None:
    assert peaks["fast"] > 1.1 * peaks["normal"] > 1.1 * peaks["low"]
