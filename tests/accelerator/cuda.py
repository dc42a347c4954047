"""torch.cuda's answers about the simulated card: what ComfyUI asks, and no more than it asks."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import torch

from .device import memory

CAPABILITY = (8, 6)  # fp16 and bf16, no fp8


class Stream:
    """Where everything is done when it returns."""

    cuda_stream = 0

    def wait_stream(self, other: Any) -> None: ...

    def synchronize(self) -> None: ...

    def as_context(self, stream: Any) -> Any:
        return contextlib.nullcontext()


def _stats(device: Any = None) -> dict[str, int]:
    return {f"{kind}_bytes.all.current": memory.current for kind in ("active", "reserved", "allocated")}


def _nothing() -> Any:
    return lambda *args, **kwargs: None  # each its own: torch._dynamo tells functions apart


def pretend() -> None:
    """For the rest of the process. Memory is given back at once, so that reserved is what is allocated."""
    torch.version.cuda = torch.version.cuda or "13.0"
    card = {"name": "Simulated", "major": CAPABILITY[0], "minor": CAPABILITY[1], "multi_processor_count": 1}
    calls = SimpleNamespace(cudaHostRegister=lambda *a: 0, cudaHostUnregister=lambda *a: 0)
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda device=None: "Simulated",
        "get_device_capability": lambda device=None: CAPABILITY,
        "get_device_properties": lambda device=None: SimpleNamespace(**card, total_memory=memory.total()),
        "get_allocator_backend": lambda: "native",
        "is_bf16_supported": lambda *a, **k: True,
        "is_current_stream_capturing": lambda: False,
        "mem_get_info": lambda device=None: (memory.total() - memory.current, memory.total()),
        "memory_stats": _stats,
        "memory_allocated": lambda device=None: memory.current,
        "memory_reserved": lambda device=None: memory.current,
        "max_memory_allocated": lambda device=None: memory.peak,
        "reset_peak_memory_stats": lambda device=None: memory.reset_peak(),
        "cudart": lambda: calls,
        **{
            name: _nothing()
            for name in ("synchronize", "empty_cache", "ipc_collect", "set_device", "manual_seed_all")
        },
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
