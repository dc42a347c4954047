"""A custom node file of a test's server: GET /accelerator says what the simulated card holds, as JSON."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import comfy.model_management as management
import torch
from aiohttp import web
from server import PromptServer

from accelerator import aimdo
from accelerator.device import memory

NODE_CLASS_MAPPINGS: dict[str, Any] = {}


def demo() -> Any:
    """The demo's own MODEL, CLIP and VAE, of which the nodes give clones."""
    (pack,) = (name for name in sys.modules if name.endswith("rechar-pack"))
    return importlib.import_module(f"{pack}.nodes.host.demo_model")._built()


def hashed(module: torch.nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        found.update(name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def process() -> dict[str, int]:
    """Of this process, on Linux: resident bytes once free memory is given back, open files, threads."""
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files, threads = (len(os.listdir(f"/proc/self/{name}")) for name in ("fd", "task"))
    return {"resident bytes": pages * os.sysconf("SC_PAGE_SIZE"), "open files": files, "threads": threads}


@PromptServer.instance.routes.get("/accelerator")
async def accelerator(request: Any) -> Any:
    """held, peak: bytes. With ?unload=1 the models are unloaded then; demo: hashes of their weights; process."""
    gc.collect()
    found = {"held": memory.current, "peak": memory.peak, "violations": aimdo.violations}
    memory.reset_peak()
    if "unload" in request.query:
        model, clip, vae = demo()
        # the host loses sight of a loaded model whose clones died in an order of their own; it knows these again then
        management.load_models_gpu([model, clip.patcher, vae.patcher])
        management.unload_all_models()
        gc.collect()
        parts = model.model, clip.cond_stage_model, vae.first_stage_model
        found |= {"unloaded": memory.current, "demo": [hashed(part) for part in parts], "process": process()}
    return web.json_response(found)
