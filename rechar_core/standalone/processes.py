"""The processes of this run: one, or those that `accelerate launch` (or torchrun) started."""

from __future__ import annotations

import sys

from accelerate import PartialState

from ..device import best_device


def processes() -> PartialState:
    """This process's place among the run's processes, and its device.

    Accelerate joins CPU processes into one run only when it is told that there is no GPU.
    """
    return PartialState(cpu=best_device().type == "cpu")


def say(text: str) -> None:
    """One line on stderr, from the first process only."""
    if processes().is_main_process:
        print(text, file=sys.stderr, flush=True)
