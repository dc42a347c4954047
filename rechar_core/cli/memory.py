"""The command `memory`: what a training takes, which mode `auto` chooses on which card, and what this machine has."""

from __future__ import annotations

from ..backend.processes import processes
from ..device import float_named, free_memory, in_ram, memory_name, render_precision, training_precision
from ..training.memory import RESERVE, SDXL_HALF, choose_mode, table
from ..training.recipe import TrainingRecipe


def report(resolution: int, batch_size: int, rank: int) -> str:
    """Lines on this machine, and the table. Raises RecipeError for settings that no training takes."""
    TrainingRecipe(resolution=resolution, batch_size=batch_size, rank=rank)
    return "\n".join(
        (
            f"Memory that training an SDXL B-LoRA takes: {resolution} x {resolution} pixels, batch {batch_size}, "
            f"rank {rank}, base in half precision.",
            f"Of a card {RESERVE / 2**30:.1f} GB are left to PyTorch's context and the desktop. Margins for the "
            "allocator's fragments and the kernels' workspaces are counted in.",
            "",
            table(resolution, batch_size, rank),
            "",
            _here(resolution, batch_size, rank),
        )
    )


def _here(resolution: int, batch_size: int, rank: int) -> str:

    device = processes().device
    precision, free = training_precision(device), free_memory(device)
    itemsize = float_named(precision).itemsize
    _, why = choose_mode(
        free, SDXL_HALF * itemsize // 2, (resolution // 8) ** 2, batch_size, rank, itemsize, in_ram(device)
    )
    named = "fp32" if precision == "no" else precision
    return (
        f"This machine: {device}, {free / 2**30:.1f} GB of {memory_name(device)} free now. It is best trained on in "
        f"{named} (--mixed-precision {precision}), and drawn on in {render_precision(device)}. {why}"
    )
