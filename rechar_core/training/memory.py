"""Memory modes: how a training step is computed, never what comes out of it.

No mode keeps what can be had again without a matrix product or convolution (frozen_layers.py). normal also computes the
transformer blocks of the suffix twice (gradient checkpointing). low also has only one half of the UNet on the GPU at a
time: the prefix of many steps, then their suffixes, then again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

MemoryMode = Literal["fast", "normal", "low"]
Memory = Literal["auto", "fast", "normal", "low"]
LADDER: tuple[MemoryMode, ...] = ("fast", "normal", "low")

# What a training step takes of memory beside the weights, in half precision at 1024 x 1024, batch 1: bytes counted by
# benchmarks/real_size.py, which runs the steps of this package on tensors without data.
_ACTIVATIONS: dict[MemoryMode, float] = {"fast": 2.4e9, "normal": 0.4e9, "low": 0.31e9}
_LORA_PER_RANK = 440_320 * 4 * 4  # both blocks' values; fp32; weights, gradients and two moments
# bytes of SDXL's UNet, in half precision and by --fp8-base
SDXL_HALF, SDXL_FP8 = 5_134_927_368, 2_905_189_768
_LARGER_HALF = 0.504  # of the UNet's bytes: what of it mode low has on the GPU at a time
# Margin for what such a count leaves out: fragments of the allocator, a share of what comes and goes every step, and
# the workspaces of kernels.
FRAGMENTS = 0.15
WORKSPACES = 0.4e9
RESERVE = 0.8e9  # of a card's memory: torch's context on it, and what the desktop shows
CARDS = (24, 16, 12, 10, 8, 6, 4)  # sizes of the table, in GB
_AREA = 128 * 128  # latent values of 1024 x 1024 pixels, a channel

# Latent area whose prefix is computed in one forward pass: enough to fill the device, no more than memory allows.
_TOGETHER: dict[bool, dict[MemoryMode, int]] = {
    True: {"fast": 4 * _AREA, "normal": 2 * _AREA, "low": _AREA},  # on a GPU
    False: {"fast": _AREA // 2, "normal": _AREA // 8, "low": _AREA // 8},
}
_MOST_TOGETHER = 16
_LOW_CHUNK = 16  # steps between two swaps of the halves: a swap moves 5 GB, a step's prefix is 51 MB


@dataclass(frozen=True)
class Grouping:
    """How far ahead prefixes are computed. together: steps in one forward pass; chunk: steps kept, a multiple."""

    together: int
    chunk: int


def grouping(mode: MemoryMode, area: int, batch_size: int, gpu: bool) -> Grouping:
    """Not from the memory that happens to be free, so that a resumed run groups its steps as the first one did."""
    together = max(1, min(_MOST_TOGETHER, _TOGETHER[gpu][mode] // (area * batch_size)))
    # without a GPU nothing is swapped, so that keeping prefixes would only cost memory
    chunk = -(-_LOW_CHUNK // together) * together if mode == "low" and gpu else together
    return Grouping(together, chunk)


def needed(
    mode: MemoryMode, base: int, area: int, batch_size: int, rank: int, itemsize: int, in_ram: bool = False
) -> float:
    """Bytes that a training takes in all, the UNet with them, margin included; for SDXL's layers.

    base: bytes of the UNet's weights as they are held; area: latent values a channel; rank: of all LoRAs that are
    trained at once, together; itemsize: bytes of one value that is computed with, 2 or 4; in_ram: the device computes
    in the RAM that the UNet lies in anyway, so that mode low saves nothing of the UNet.
    """
    weights = base * _LARGER_HALF if mode == "low" and not in_ram else base
    changing = _ACTIVATIONS[mode] * area * batch_size / _AREA * itemsize / 2
    return weights + _LORA_PER_RANK * rank + changing * (1 + FRAGMENTS) + WORKSPACES


def choose_mode(
    free: int,
    base: int,
    area: int,
    batch_size: int,
    rank: int,
    itemsize: int,
    in_ram: bool = False,
    wanted: Memory = "auto",
) -> tuple[MemoryMode, str]:
    """The first mode whose need fits into `free` bytes, and one sentence that says why; see `needed`.

    free: what the training may have with the UNet counted in: free memory, plus the UNet where it is already there.
    Where nothing fits, the last mode, with the sentence saying so: it may do all the same. wanted: a mode to take
    whatever is free; the sentence is then "" if it fits.
    """
    where, ladder = ("RAM", LADDER[:2]) if in_ram else ("GPU memory", LADDER)
    needs = {mode: needed(mode, base, area, batch_size, rank, itemsize, in_ram) for mode in LADDER}
    if wanted != "auto":
        return wanted, "" if needs[wanted] <= free else (
            f"Memory mode {wanted} takes about {_gb(needs[wanted])}, and {_gb(free)} of {where} can be had with the "
            "UNet in it: it may run out, or on Windows become many times slower. Choose auto, or a lower mode."
        )
    mode = next((mode for mode in ladder if needs[mode] <= free), ladder[-1])
    there = f"Memory mode {mode}: {_gb(free)} of {where} can be had with the UNet in it, and this mode takes"
    if needs[mode] > free:
        why = f"about {_gb(needs[mode])}: it may run out. A base in 8 bits, a lower rank or resolution takes less."
    elif mode == ladder[0]:
        why = f"about {_gb(needs[mode])}."
    else:
        faster = ladder[ladder.index(mode) - 1]
        why = f"about {_gb(needs[mode])}; {faster} would take {_gb(needs[faster])}."
    return mode, f"{there} {why}"


def _gb(size: float) -> str:
    return f"{size / 2**30:.1f} GB"


def table(resolution: int, batch_size: int, rank: int) -> str:
    """What `auto` takes on cards of each size for SDXL in half precision, as a Markdown table; GB are 2**30 bytes."""
    area = (resolution // 8) ** 2
    rows = [
        "| card | free on it | mode | it takes | mode with --fp8-base | it takes |",
        "|---|---|---|---|---|---|",
    ]
    for card in CARDS:
        free = int(card * 2**30 - RESERVE)
        row = [f"{card} GB", _gb(free)]
        for base in (SDXL_HALF, SDXL_FP8):
            mode, _ = choose_mode(free, base, area, batch_size, rank, 2)
            need = needed(mode, base, area, batch_size, rank, 2)
            row += [mode if need <= free else f"{mode}, may run out", _gb(need)]
        rows.append(f"| {' | '.join(row)} |")
    return "\n".join(rows)


def next_rung(mode: MemoryMode) -> MemoryMode | None:
    """The next more frugal mode; None behind the last."""
    return dict(pairwise(LADDER)).get(mode)
