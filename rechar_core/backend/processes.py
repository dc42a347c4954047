"""The processes of this run: one, or those that `accelerate launch` (or torchrun) started."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from accelerate import PartialState

from ..device import best_device

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"  # without counts: layers and tensors mean nothing to the user


def processes() -> PartialState:
    """This process's rank among the run's processes, and its device.

    Accelerate joins CPU processes into one run only with cpu=True.
    """
    return PartialState(cpu=best_device().type == "cpu")


@contextmanager
def shown(what: str, bar: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yields a function of (done, total) that draws a progress bar, once more than a second has passed."""
    from tqdm import tqdm

    with tqdm(desc=what, ascii=True, disable=not bar, delay=1, bar_format=_BAR) as drawn:

        def ran(done: int, total: int) -> None:
            drawn.total = total
            drawn.update(done - drawn.n)

        yield ran


def say(text: str) -> None:
    """One line on stderr, from the first process only."""
    if processes().is_main_process:
        print(text, file=sys.stderr, flush=True)
