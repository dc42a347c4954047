"""How far one long forward pass is: encoding a picture of 1024 pixels takes a minute on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@contextmanager
def watched(module: nn.Module, ran: Callable[[int, int], None]) -> Iterator[None]:
    """Calls ran(done, total) after each convolution and linear layer inside `module` that runs.

    What `ran` raises ends the forward pass there: so it is cancelled.
    """
    from torch import nn

    layers = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        ran(done, len(layers))

    handles = [layer.register_forward_hook(count) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
