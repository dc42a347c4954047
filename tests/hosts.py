"""Which ComfyUI the tests run in, and the newer frontend in front of it. The standard library alone: suite.py needs it.

COMFYUI_PATH names one or several folders, separated as in PATH; without it ~/comfy/ComfyUI is taken, and by the test
command also the folders ~/comfy/ComfyUI-* beside it. COMFYUI_PYTHON runs them all; without it each is run by the
Python of its own .venv, else by the one that runs the tests.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

DEFAULT = "~/comfy/ComfyUI"
# What every ComfyUI imports first: a Python without one of these is not the one that it was installed for.
NEEDED = "torch, torchsde, aiohttp, yaml, einops, safetensors, transformers"


@dataclass(frozen=True)
class Host:
    """A ComfyUI checkout and the Python that runs it."""

    folder: Path
    python: Path
    version: str


def hosts(*, siblings: bool = False) -> list[Host]:
    """Every ComfyUI to test with, the newest first; folders without one are left out (see `absent`).

    siblings: without COMFYUI_PATH also those beside the default folder.
    """
    found = [_host(folder) for folder in _folders(siblings) if (folder / "main.py").is_file()]
    return sorted(found, key=lambda host: _numbers(host.version), reverse=True)


def absent() -> list[Path]:
    """The folders that were named, or the default, and hold no ComfyUI."""
    return [folder for folder in _folders(False) if not (folder / "main.py").is_file()]


def _folders(siblings: bool) -> list[Path]:
    named = os.environ.get("COMFYUI_PATH") or ""
    folders = [Path(part).expanduser() for part in named.split(os.pathsep) if part.strip()]
    if folders:
        return list(dict.fromkeys(folders))
    default = Path(DEFAULT).expanduser()
    return [default, *(sorted(default.parent.glob(f"{default.name}-*")) if siblings else [])]


def _host(folder: Path) -> Host:
    own = folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python = Path(os.environ.get("COMFYUI_PYTHON") or (own if own.is_file() else sys.executable))
    version = (folder / "comfyui_version.py").read_text(encoding="utf-8").split('"')[-2]
    return Host(folder, python, version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


@cache
def fault(host: Host) -> str:
    """Why the host cannot start with its Python, in one sentence; empty if it can."""
    try:
        command = [str(host.python), "-s", "-c", f"import {NEEDED}"]
        done = subprocess.run(command, cwd=host.folder, capture_output=True, text=True, check=False)
    except OSError as error:
        return _sentence(host, str(error))
    return _sentence(host, done.stderr.strip().splitlines()[-1]) if done.returncode else ""


def _sentence(host: Host, reason: str) -> str:
    return (
        f"ComfyUI {host.version} in {host.folder} does not start with {host.python} ({reason}): "
        "set COMFYUI_PYTHON to the Python that it was installed for"
    )


def newer_frontend() -> tuple[str, Path] | None:
    """Version and folder of the package comfyui-frontend-package beside the tests; None where there is none."""
    spec = importlib.util.find_spec("comfyui_frontend_package")
    if spec is None or not spec.origin:
        return None
    return importlib.metadata.version("comfyui-frontend-package"), Path(spec.origin).parent / "static"
