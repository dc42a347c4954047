"""How the host_*.py scripts begin, which the host's Python runs as `python host_x.py PACK FOLDER` in the host's folder.

`start` comes before any import of comfy. The pack's modules are had by `part`, without running the pack's __init__.
"""

import importlib
import sys
import types
from pathlib import Path

PACK, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])


def start(*options, cpu=True):
    """ComfyUI's own modules importable, with FOLDER as the base directory, set up for a CPU or for what it finds."""
    sys.argv = ["main.py", *(["--cpu"] if cpu else []), *options, "--base-directory", str(FOLDER)]
    sys.path.insert(0, ".")
    import comfy.options
    import utils  # noqa: F401  as main.py does, before nodes.py puts comfy/ in front, which has another one

    comfy.options.enable_args_parsing()
    for name, folder in (("rechar-pack", PACK), ("rechar-pack.nodes", PACK / "nodes")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package


def part(name):
    """A module of the pack, below packages whose __init__ is not run."""
    return importlib.import_module(f"rechar-pack.{name}")
