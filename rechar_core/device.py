"""Properties of a device: its free memory, the dtype to compute in, the seeds of its generators.

One place for the nodes and the command line, on CUDA, ROCm (which is "cuda" as well), XPU, MPS, CPU and any other
device that torch knows. Which training mode fits into that memory says training/memory.py.
"""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")
Precision = Literal["no", "fp16", "bf16"]  # accelerate's names; "no" is fp32
Float = Literal["fp32", "fp16", "bf16"]
RenderPrecision = Literal["auto", "fp32", "fp16", "bf16"]
TrainingPrecision = Literal["auto", "no", "fp16", "bf16"]
# Cards of Nvidia's Turing generation without tensor cores, whose fp16 convolutions give NaN, by a part of their names
_FP16_GIVES_NAN = ("GTX 16", "T500", "T550", "T600", "T1000", "T1200", "T2000", "MX450", "MX550", "CMP 30HX")
# MPS, cuBLAS and cuDNN raise a plain RuntimeError, which only its text tells from others
_NO_MEMORY = re.compile(r"out of memory|_STATUS_ALLOC_FAILED|_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED")


MOST_SEED = 2**64 - 1  # of torch's generators, and of ComfyUI's samplers


def next_seed(seed: int, count: int) -> int:
    """The seed that comes `count` after this one; after the largest comes 0."""
    return (seed + count) % (MOST_SEED + 1)


def best_device() -> torch.device:
    """The first GPU that torch can compute on, else the CPU."""
    import torch

    for kind, module in (("cuda", torch.cuda), ("xpu", torch.xpu), ("mps", torch.backends.mps)):
        if module.is_available():
            return torch.device(kind)
    return torch.device("cpu")


def in_ram(device: torch.device) -> bool:
    """Whether the device computes in the machine's RAM: the CPU and Apple's MPS. Moving weights frees nothing there."""
    return device.type in ("cpu", "mps")


def memory_name(device: torch.device) -> str:
    """The name of the memory of `device` for messages: "GPU memory" or "RAM"."""
    return "RAM" if in_ram(device) else "GPU memory"


def free_memory(device: torch.device) -> int:
    """Bytes on `device` that are free for new tensors: those free in the system, and those that torch has cached.

    ComfyUI keeps models there that it can unload: unload them before calling this, or use ComfyUI's own number.
    """
    import torch

    if in_ram(device):
        import psutil

        free = int(psutil.virtual_memory().available)
        if device.type == "mps" and hasattr(torch.mps, "recommended_max_memory"):  # torch 2.5
            most = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
            free = max(0, min(free, most))
        return free
    module = _module(device)
    held = module.memory_reserved(device) - module.memory_allocated(device)
    if hasattr(module, "mem_get_info"):
        with suppress(RuntimeError):  # Intel's older drivers do not report it
            return int(module.mem_get_info(device)[0]) + held
    return int(module.get_device_properties(device).total_memory) - module.memory_allocated(device)


def empty_cache(device: torch.device) -> None:
    """Returns torch's cached memory on `device` to the system."""
    import torch

    if device.type == "mps":
        torch.mps.empty_cache()
    elif device.type != "cpu":
        _module(device).empty_cache()


def ran_out(error: RuntimeError) -> bool:
    """Whether the error says that the device's memory does not suffice."""
    import torch

    # every device's, in spite of the name; the other name, torch.OutOfMemoryError, came with torch 2.5
    return isinstance(error, torch.cuda.OutOfMemoryError) or bool(_NO_MEMORY.search(str(error)))


def or_on_cpu(
    compute: Callable[[torch.device], Result], device: torch.device, what: str, tell: Callable[[str], None]
) -> Result:
    """compute(device), or compute(CPU) if the device's memory does not suffice, which `tell` is told.

    what: follows "to" in the sentence, such as "encode the picture".
    """
    import torch

    try:
        return compute(device)
    except RuntimeError as error:  # dropped here: it holds on to the tensors
        if device.type == "cpu" or not ran_out(error):
            raise
    tell(f"The card's memory does not suffice to {what}; the CPU does it, slowly.")
    return compute(torch.device("cpu"))


def forget_peak(device: torch.device) -> None:
    """Resets `peak_memory`. Without a GPU this works only on Linux."""
    module = _module(device)
    if hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with suppress(OSError):  # a system without /proc
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of GPU memory allocated on `device`, or of this process's resident memory on a CPU or MPS."""
    module = _module(device)
    if hasattr(module, "max_memory_allocated"):
        return int(module.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def training_precision(device: torch.device) -> Precision:
    """The dtype of the frozen base in training, as named in recipes: bf16 if the device supports it, else fp16.

    bf16 has fp32's range, so that no gradient vanishes. "no" (fp32) on a CPU, where a half type is slower as a rule,
    on devices that are not known here, and where fp16 gives NaN or needs a gradient scaler that torch has not (MPS).
    """
    if _has_bf16(device):
        return "bf16"
    return "fp16" if device.type == "cuda" and _has_fp16(device) else "no"


def render_precision(device: torch.device) -> Float:
    """The dtype of the UNet and text encoders for generating: fp16, as SDXL was published, if the device supports it.

    fp32 on a CPU (bf16 halves the memory there, and is slower as a rule), and where fp16 gives NaN.
    """
    return "fp16" if _has_fp16(device) else "fp32"


def render_dtype(name: RenderPrecision, device: torch.device) -> torch.dtype:
    """The dtype for generating: the one named, or for "auto" that of `render_precision`."""
    return float_named(render_precision(device) if name == "auto" else name)


def float_named(name: Float | Precision) -> torch.dtype:
    """The torch dtype of a precision; accelerate's "no" is fp32."""
    import torch

    return {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


def _has_fp16(device: torch.device) -> bool:
    if device.type == "cuda":
        name = _module(device).get_device_name(device)
        return not any(part in name for part in _FP16_GIVES_NAN)
    return device.type in ("xpu", "mps")


def _has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bf16 natively, not through fp32."""
    import torch

    if device.type == "cuda" and torch.version.hip:
        arch = torch.cuda.get_device_properties(device).gcnArchName
        return arch.startswith(("gfx90a", "gfx94", "gfx95", "gfx11", "gfx12"))
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "mps":
        release = platform.mac_ver()[0].split(".")[0]
        return release.isdigit() and int(release) >= 14
    return device.type == "xpu"


def _module(device: torch.device) -> Any:
    """The torch module of this kind of device (torch.cuda, torch.xpu, ...); None for CPU and MPS."""
    import torch

    return None if in_ram(device) else torch.get_device_module(device.type)
