"""The UNet's weights while they are trained on: ordinary tensors, on the GPU or lent to the CPU, and back again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...rechar_core.errors import ModelError

Table = dict[str, Any]  # a module's _parameters or _buffers


class Weights:
    """Keeps what it replaced, for as long as it may: originals of moved tensors are let go, to free the GPU."""

    def __init__(self) -> None:
        self._originals: dict[int, tuple[Table, Table]] = {}
        self._moved: dict[int, tuple[Table, dict[str, torch.device]]] = {}

    @contextmanager
    def ordinary(self, unet: Any) -> Iterator[Weights]:
        """Weights usable in a backward pass in all parts that gradients pass through.

        The host loads weights inside inference_mode, and an inference tensor cannot be saved for backward. Each is
        aliased (same storage, no copy) by an ordinary tensor. At the end all are back where and what they were.
        """
        try:
            for table in _tables((unet.output_blocks, unet.out)):
                self._alias(table)
            yield self
        finally:
            self._restore()

    def move(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        """These modules' tensors to another device."""
        for table in _tables(modules):
            for name, tensor in table.items():
                if tensor is None or tensor.device == device:
                    continue
                self._originals.pop(id(table), None)
                homes = self._moved.setdefault(id(table), (table, {}))[1]
                homes.setdefault(name, tensor.device)
                table[name] = _like(tensor, tensor.detach().to(device))

    def _alias(self, table: Table) -> None:
        originals = {name: tensor for name, tensor in table.items() if tensor is not None}
        self._originals[id(table)] = table, originals
        for name, tensor in originals.items():
            if type(tensor) not in (Tensor, nn.Parameter):
                raise ModelError(
                    f"This MODEL's weights are {type(tensor).__name__} (a quantised checkpoint), which cannot be "
                    "trained on; load the fp16, bf16 or fp32 checkpoint for training."
                )
            alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
            alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
            table[name] = _like(tensor, alias)

    def _restore(self) -> None:
        for table, originals in self._originals.values():
            table.update(originals)
        for table, homes in self._moved.values():
            for name, home in homes.items():
                table[name] = _like(table[name], table[name].detach().to(home))
        self._originals, self._moved = {}, {}


def _tables(modules: Iterable[nn.Module]) -> Iterator[Table]:
    for part in modules:
        for module in part.modules():
            yield from (module._parameters, module._buffers)


def _like(old: Tensor, new: Tensor) -> Tensor:
    return nn.Parameter(new, requires_grad=False) if isinstance(old, nn.Parameter) else new
