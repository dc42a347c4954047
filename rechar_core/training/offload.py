"""CPU offload of frozen weights: they keep their place on the CPU, so that nothing is ever copied back there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

Table = dict[str, Any]  # a module's _parameters or _buffers


class Offload:
    """Moves the weights of modules between devices, and back; they must not be changed meanwhile.

    A weight that was ever on the CPU is kept there: it comes back from a GPU without a copy.
    """

    def __init__(self) -> None:
        self._on_cpu: dict[tuple[int, str], tuple[Table, Tensor]] = {}
        # the first device of each weight that was not on the CPU at first
        self._homes: dict[tuple[int, str], tuple[Table, torch.device]] = {}

    def move(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        """These modules' tensors to another device."""
        for table in tables(modules):
            for name, tensor in table.items():
                if tensor is None or tensor.device == device:
                    continue
                at = id(table), name
                if tensor.device.type == "cpu":
                    self._on_cpu.setdefault(at, (table, tensor))
                elif at not in self._on_cpu:
                    self._homes.setdefault(at, (table, tensor.device))
                original = self._on_cpu.get(at) if device.type == "cpu" else None
                table[name] = original[1] if original else like(tensor, tensor.detach().to(device))

    def restore(self) -> None:
        """All tensors where they were; those of the CPU are the very same objects."""
        for at, (table, tensor) in self._on_cpu.items():
            if at not in self._homes:
                table[at[1]] = tensor
        for at, (table, home) in self._homes.items():
            table[at[1]] = like(table[at[1]], table[at[1]].detach().to(home))
        self._on_cpu, self._homes = {}, {}


def tables(modules: Iterable[nn.Module]) -> Iterator[Table]:
    """Where the modules hold their weights."""
    for part in modules:
        for module in part.modules():
            yield from (module._parameters, module._buffers)


def like(old: Tensor, new: Tensor) -> Tensor:
    """`new` as a frozen parameter, if `old` is one."""
    return nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
