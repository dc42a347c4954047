"""The UNet's weights while they are trained on: ordinary tensors, on the GPU or lent to the CPU, and back again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...rechar_core.errors import ModelError
from ...rechar_core.training.lending import Lending, Table, like, tables


class Weights(Lending):
    """Keeps what it replaced, for as long as it may: originals that leave a GPU are let go, to free it."""

    def __init__(self) -> None:
        super().__init__()
        self._originals: dict[int, tuple[Table, Table]] = {}

    @contextmanager
    def ordinary(self, unet: Any) -> Iterator[Weights]:
        """Weights usable in a backward pass in all parts that gradients pass through.

        The host loads weights inside inference_mode, and an inference tensor cannot be saved for backward. Each is
        aliased (same storage, no copy) by an ordinary tensor. At the end all are back where and what they were.
        """
        try:
            for table in tables((unet.output_blocks, unet.out)):
                self._alias(table)
            yield self
        finally:
            self._restore()

    def move(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        """As Lending; what leaves a GPU comes home as another tensor of the same numbers."""
        modules = list(modules)
        for table in tables(modules):
            _, originals = self._originals.get(id(table), (table, {}))
            if any(tensor.device.type != "cpu" and tensor.device != device for tensor in originals.values()):
                del self._originals[id(table)]
        super().move(modules, device)

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
            table[name] = like(tensor, alias)

    def _restore(self) -> None:
        self.go_home()
        for table, originals in self._originals.values():
            table.update(originals)
        self._originals = {}
