"""What one run costs: CPU seconds of this process, and the memory that the run adds to what was there before."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass
class Cost:
    """seconds: CPU seconds without a GPU, wall seconds with one. added: peak bytes above those before the run."""

    seconds: float = 0.0
    added: int = 0
    peak: int = 0


@contextmanager
def measured(gpu: bool) -> Iterator[Cost]:
    """The cost of what happens inside."""
    cost = Cost()
    before = reset(gpu)
    clock = time.perf_counter if gpu else time.process_time
    started = clock()
    yield cost
    if gpu:
        torch.cuda.synchronize()
    cost.seconds = clock() - started
    cost.peak = torch.cuda.max_memory_allocated() if gpu else resident("VmHWM")
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


def reset(gpu: bool) -> int:
    """Forgets former peaks; bytes in use now."""
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
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


def matmul_rate() -> float:
    """FLOP a second of large bf16 matrix products on this GPU: what `of_limit` is measured against."""
    side, times = 8192, 20
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(times):
        a @ b
    torch.cuda.synchronize()
    return times * 2 * side**3 / (time.perf_counter() - started)
