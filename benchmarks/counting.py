"""Memory and arithmetic of code that runs on a GPU, counted without one: torch's device "meta" takes its place.

Tensors there have shapes and types but no data, so that SDXL at its real size runs in seconds, in the product's own
code. What is counted is what the code itself allocates. Not seen: what a kernel takes for itself while it runs
(cuDNN's and cuBLAS's workspaces), fragments of the allocator, and torch's context on the card.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

aten = torch.ops.aten
GPU = torch.device("meta")


class Count(TorchDispatchMode):
    """Bytes alive on the stand-in for a GPU. peak: the most there were; reset() lets it count from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.peak = 0
        self._seen: dict[int, Any] = {}  # of a storage's Python object

    def reset(self) -> None:
        self.peak = self.alive

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor) and leaf.device.type == "meta":
                self.add(leaf)
        return found

    def add(self, tensor: Tensor) -> None:
        """Counts this tensor's memory until it is freed."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self.alive += size
        self.peak = max(self.peak, self.alive)

        def freed(_: Any) -> None:
            del self._seen[key]
            self.alive -= size

        self._seen[key] = weakref.ref(storage, freed)


class _Answers(TorchDispatchMode):
    """Operations that ask a tensor for data."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = _without_data(func, args, kwargs or {})
        return func(*args, **(kwargs or {})) if found is None else found


def _without_data(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives that would need data which is not there; None for all others."""
    given = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
    if not any(tensor.device.type == "meta" for tensor in given):
        return None
    if func is aten._local_scalar_dense.default:
        return given[0].dtype.is_floating_point or 1  # every condition holds
    if func is aten.nonzero.default:
        return torch.zeros(1, given[0].ndim, dtype=torch.long)
    to = kwargs.get("device")
    if func is aten._to_copy.default and to is not None and to.type == "cpu":
        return torch.empty(given[0].shape, dtype=kwargs.get("dtype") or given[0].dtype)
    if func is aten.copy_.default and args[0].device.type == "cpu":
        return args[0]
    if func is aten.index.Tensor:  # places that are on the CPU, as CUDA takes them
        moved = tree_map(lambda t: t.to(GPU) if isinstance(t, Tensor) else t, args[1])
        return func(args[0].to(GPU), moved)
    return None


def _flash(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """scaled_dot_product_attention as the kernel does it that CUDA takes: no matrix of all pairs is ever there."""
    if q.device.type != "meta":
        return _ATTENTION(q, k, v, attn_mask=attn_mask, dropout_p=dropout_p, is_causal=is_causal, **options)
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, is_causal)[0]


_ATTENTION = F.scaled_dot_product_attention


@contextmanager
def counting(flops: bool = False) -> Iterator[Any]:
    """Gives a Count of all that runs on "meta" inside, or PyTorch's FlopCounterMode.

    One at a time: the latter keeps tensors alive.
    """
    counter: Any = FlopCounterMode(display=False) if flops else Count()
    F.scaled_dot_product_attention = _flash
    try:
        with _Answers(), counter:
            yield counter
    finally:
        F.scaled_dot_product_attention = _ATTENTION
