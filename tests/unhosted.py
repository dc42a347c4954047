"""Modules of nodes/ without a host, below packages whose __init__ is not run."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_PACK = "rechar_pack"


@contextmanager
def pack() -> Iterator[Callable[[str], Any]]:
    """Imports a module of the pack by its path, such as "nodes.host.layers"; afterwards all of them are forgotten."""
    for name, folder in ((_PACK, ROOT), (f"{_PACK}.nodes", ROOT / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    try:
        yield lambda module: importlib.import_module(f"{_PACK}.{module}")
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == _PACK]:
            del sys.modules[name]
