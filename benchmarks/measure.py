"""The cost of a run: CPU seconds of this process, and the memory that the run adds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Cost:
    """seconds: of the CPU. added: peak bytes above those before the run."""

    seconds: float = 0.0
    added: int = 0
    peak: int = 0


@contextmanager
def measured() -> Iterator[Cost]:
    """The cost of what happens inside."""
    cost = Cost()
    before = reset()
    started = time.process_time()
    yield cost
    cost.seconds = time.process_time() - started
    cost.peak = resident("VmHWM")
    cost.added = cost.peak - before


@contextmanager
def tensors() -> Iterator[Cost]:
    """The peak of what PyTorch's CPU allocator hands out inside and has not got back: `added`, and nothing else."""
    from torch.profiler import ProfilerActivity, profile

    cost = Cost()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield cost
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        cost.added = max(cost.added, now)


def reset() -> int:
    """Forgets former peaks; bytes in use now."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    return resident("VmRSS")


def resident(field: str) -> int:
    """A memory figure of this process, in bytes."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    import psutil

    now = psutil.Process().memory_info()
    return int(getattr(now, "peak_wset", now.rss) if field == "VmHWM" else now.rss)


def matmul_rate(device: torch.device, dtype: torch.dtype = torch.bfloat16, side: int = 8192) -> float:
    """FLOP a second of large matrix products on `device`: what `of_matmul_rate` is a fraction of. Random values:
    zeros draw less power, and look faster."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _seconds(device, lambda: a @ b)


def copy_rate(device: torch.device, size: int) -> float:
    """Bytes a second, read and written together, of copies of `size` bytes within the device's memory."""
    source = torch.zeros(size, device=device, dtype=torch.uint8).random_(0, 255)
    target = torch.empty_like(source)
    return 2 * size / _seconds(device, lambda: target.copy_(source))


def _seconds(device: torch.device, work: Callable[[], object], times: int = 20) -> float:
    """Of one call, when the device is warm: the median of five rounds of `times` calls."""
    wait = torch.get_device_module(device.type).synchronize
    found = []
    for _ in range(6):
        wait()
        started = time.perf_counter()
        for _ in range(times):
            work()
        wait()
        found.append((time.perf_counter() - started) / times)
    return sorted(found[1:])[2]
