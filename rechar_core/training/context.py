"""The prompt is the same in every step, so what the frozen layers make of it is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class ConstantContext:
    """Stands in for the frozen keys and values of one prompt's context, while `attached`.

    Hooks on those layers (the adapters) still see the context and add their part to the kept output.
    """

    def __init__(self) -> None:
        self._context: Tensor | None = None
        self._kept: dict[str, Tensor] = {}

    def expand(self, context: Tensor, batch: int) -> Tensor:
        """(batch, tokens, width) of a context (1, tokens, width); another context than the last forgets the kept."""
        if self._context is not context:
            self._context, self._kept = context, {}
        return context.expand(batch, -1, -1)

    @contextmanager
    def attached(self, layers: Mapping[str, nn.Module]) -> Iterator[None]:
        """Replaces the forward of these layers, all fed with the context, until the end."""
        before = {name: layer.__dict__.get("forward") for name, layer in layers.items()}
        try:
            for name, layer in layers.items():
                layer.__dict__["forward"] = self._remembering(name, layer.forward)
            yield
        finally:
            for name, layer in layers.items():
                layer.__dict__.pop("forward", None)
                if before[name] is not None:
                    layer.__dict__["forward"] = before[name]
            self._context, self._kept = None, {}

    def _remembering(self, name: str, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def remembered(x: Tensor) -> Tensor:
            if self._context is None or x.data_ptr() != self._context.data_ptr():
                return forward(x)
            if name not in self._kept:
                with torch.no_grad():
                    self._kept[name] = forward(self._context)
            return self._kept[name].expand(len(x), -1, -1)

        return remembered


class Once:
    """What is made of a conditioning, made again only when another conditioning comes."""

    def __init__(self, make: Callable[[Any], tuple[Tensor, Tensor]]):
        self._make = make
        self._last: tuple[Any, tuple[Tensor, Tensor]] | None = None

    def __call__(self, conditioning: Any) -> tuple[Tensor, Tensor]:
        """The made tensors."""
        if self._last is None or self._last[0] is not conditioning:
            self._last = conditioning, self._make(conditioning)
        return self._last[1]

    def forget(self) -> None:
        """Frees what was made."""
        self._last = None
