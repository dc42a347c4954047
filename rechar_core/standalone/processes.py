"""The processes of this run: one, or those that `accelerate launch` (or torchrun) started."""

from __future__ import annotations

import sys

import torch
from accelerate import PartialState


def processes() -> PartialState:
    """This process's place among the run's processes, and its device.

    Accelerate joins CPU processes into one run only when it is told that there is no GPU.
    """
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available() or torch.xpu.is_available()
    return PartialState(cpu=not has_gpu)


def say(text: str) -> None:
    """One line on stderr, from the first process only."""
    if processes().is_main_process:
        print(text, file=sys.stderr, flush=True)
