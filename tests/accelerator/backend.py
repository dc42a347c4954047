"""The module torch.sim with what torch.cuda has too: names and memory. What asks a device's own module finds the card.

`python -m benchmarks.gpu --import accelerator.backend --device sim`, with this folder's parent on PYTHONPATH.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from .device import memory

_ANSWERS: dict[str, Any] = {
    "synchronize": lambda device=None: None,
    "get_device_name": lambda device=None: "Simulated",
    "get_device_properties": lambda device=None: SimpleNamespace(
        name="Simulated", total_memory=memory.total()
    ),
    "mem_get_info": lambda device=None: (memory.total() - memory.current, memory.total()),
    "memory_allocated": lambda device=None: memory.current,
    "memory_reserved": lambda device=None: memory.current,
    "max_memory_allocated": lambda device=None: memory.peak,
    "reset_peak_memory_stats": lambda device=None: memory.reset_peak(),
}
for _name, _answer in _ANSWERS.items():
    setattr(torch.get_device_module("sim"), _name, _answer)
