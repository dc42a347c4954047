"""The prompt is the same in every step, so what the frozen layers make of it is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ConstantContext:
    """Caches the output of the frozen layers that see nothing but one prompt's context, while `attached`.

    Hooks on those layers (the LoRA layers) still see the context and add their part to the cached output.
    """

    def __init__(self) -> None:
        self._context: Tensor | None = None
        self._outputs: dict[nn.Module, Tensor] = {}

    def expand(self, context: Tensor, batch: int) -> Tensor:
        """(batch, tokens, width) of a context (1, tokens, width); another context than the last empties the cache."""
        if self._context is not context:
            self._context, self._outputs = context, {}
        return context.expand(batch, -1, -1)

    @contextmanager
    def attached(self, layers: Iterable[nn.Module]) -> Iterator[None]:
        """Caches the output of these layers, all fed with the context, until the end."""
        try:
            with forward_replaced({layer: self._cached(layer, layer.forward) for layer in layers}):
                yield
        finally:
            self._context, self._outputs = None, {}

    def _cached(self, layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def cached(x: Tensor) -> Tensor:
            if self._context is None or x.data_ptr() != self._context.data_ptr():
                return forward(x)
            if layer not in self._outputs:
                with torch.no_grad():
                    self._outputs[layer] = forward(self._context)
            return self._outputs[layer].expand(len(x), -1, -1)

        return cached


@contextmanager
def forward_replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Gives modules another forward until the end. Hooks on the modules still run."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward_before in before.items():
            module.__dict__.pop("forward", None)
            if forward_before is not None:
                module.__dict__["forward"] = forward_before
