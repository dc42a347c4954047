"""Versions, the card, and what it can do at best: the rates that all other figures are held against."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib import metadata

import torch

from benchmarks.measure import copy_rate, matmul_rate
from rechar_core.device import free_memory, in_ram

from .task import Row, Task

_PACKAGES = (
    *("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "numpy"),
    *("bitsandbytes", "triton", "comfy-aimdo"),
)


def run(task: Task) -> None:
    task.measure("versions", 0, versions)
    task.measure("card", 0, lambda: card(task.device))
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)):
        side = task.size.matrix // (1 if dtype.itemsize == 2 else 2)
        task.measure(
            f"matrix product {name}",
            5,
            lambda side=side, dtype=dtype: {"side": side, "flop_s": matmul_rate(task.device, dtype, side)},
        )
    count = task.size.matrix**2 * 8
    task.measure("copy", 5, lambda: {"bytes": 4 * count, "bytes_s": copy_rate(task.device, 4 * count)})


def versions() -> Row:
    """Of the system, of Python and of the packages that are there."""
    found = {"system": platform.platform(), "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    found |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return found


def card(device: torch.device) -> Row:
    """Its name, memory and driver, and what else uses it now."""
    found: Row = {"device": str(device), "free_bytes": free_memory(device)}
    if in_ram(device):
        return found | {"name": platform.processor() or platform.machine()}
    module = torch.get_device_module(device.type)
    properties = module.get_device_properties(device)
    found |= {"name": module.get_device_name(device), "total_bytes": properties.total_memory}
    if device.type == "cuda":
        found |= {"capability": list(module.get_device_capability(device)), "driver": driver()}
        found["multiprocessors"] = properties.multi_processor_count
    return found


def driver() -> str:
    """The version of NVIDIA's driver, and the clocks and power limit that it reports."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not there"
    wanted = "driver_version,clocks.max.sm,clocks.max.mem,power.limit,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={wanted}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return done.stdout.strip() or done.stderr.strip()
