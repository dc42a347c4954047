"""Memory modes: how a training step is computed, never what comes out of it.

None keeps what can be had again without a matrix product or convolution (frozen.py). normal also computes the
transformer blocks of the suffix twice (gradient checkpointing). low also has only one half of the UNet on the GPU at a
time: the prefix of many steps, then their suffixes, then again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MemoryMode = Literal["fast", "normal", "low"]
Memory = Literal["auto", "fast", "normal", "low"]
LADDER: tuple[MemoryMode, ...] = ("fast", "normal", "low")

# Half-precision bytes that training adds to the loaded UNet at 1024 x 1024, batch 1, from spec/blora.md: fast 3.15 GB
# of activations, normal 0.45 GB, and what a group's prefix keeps (51 MB a step) and needs meanwhile (about 0.2 GB).
_ACTIVATIONS: dict[MemoryMode, float] = {"fast": 4.2e9, "normal": 1.0e9, "low": 0.75e9}
_LORA_PER_RANK = 440_320 * 4 * 4  # both blocks' values; fp32; weights, gradients and two moments
_MARGIN = 0.7e9  # kernels' workspaces and fragmentation
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


def needed(mode: MemoryMode, area: int, batch_size: int, rank: int, itemsize: int) -> float:
    """Bytes that training adds to the loaded UNet (in mode low: to its larger half), estimated for full SDXL.

    area: latent values a channel; rank: of all LoRAs that are trained at once, together; itemsize: bytes of one value
    of the base, 2 or 4.
    """
    scale = area * batch_size / _AREA * itemsize / 2
    return _ACTIVATIONS[mode] * scale + _LORA_PER_RANK * rank + _MARGIN


def choose(free: int | None, area: int, batch_size: int, rank: int, itemsize: int) -> tuple[MemoryMode, str]:
    """The first mode that fits into `free` bytes (None: not a GPU), and one sentence that says why; see `needed`."""
    if free is None:
        return "fast", "Memory mode fast: without a GPU, computing activations twice would only cost time."
    for mode in LADDER:
        need = needed(mode, area, batch_size, rank, itemsize)
        if need <= free or mode == LADDER[-1]:
            break
    return mode, (
        f"Memory mode {mode}: {free / 2**30:.1f} GB of GPU memory are free beside the UNet, "
        f"and this mode adds about {need / 2**30:.1f} GB."
    )


def next_rung(mode: MemoryMode) -> MemoryMode | None:
    """The next more frugal mode; None behind the last."""
    place = LADDER.index(mode) + 1
    return LADDER[place] if place < len(LADDER) else None
