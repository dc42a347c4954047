"""Checks that need a process of their own: the simulated card is registered for a whole process.

A script has functions `check_...` and ends with `main(globals(), FOLDER)`; a test module asks for their `names`, and
for the `results` of one run of the script.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def names(script: str) -> list[str]:
    """The checks in a script of this folder, in its order."""
    return re.findall(r"^def (check_\w+)", (HERE / script).read_text(encoding="utf-8"), re.MULTILINE)


def skip_unless_known(kind: str) -> None:
    """Skips a test of dynamic VRAM where the host has none."""
    import pytest
    import server

    patchers = server.find_host().folder / "comfy" / "model_patcher.py"
    if kind == "dynamic" and "class ModelPatcherDynamic" not in patchers.read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has no dynamic VRAM")


def server_on(kind: str, base: Path, *options: str) -> Any:
    """A ComfyUI server on the card, in a new base directory: GET /accelerator is report.py's answer."""
    import server

    server.base_directory(base)
    shutil.copy(HERE / "report.py", base / "custom_nodes" / "accelerator_report.py")
    return server.Server(server.find_host(), base, [str(HERE / "launch.py"), kind, "0"], options)


def results(script: str, folder: Path, *options: str, in_host: bool = False) -> dict[str, str]:
    """Run the script as `python SCRIPT PACK FOLDER options`: what is wrong by check, "" for nothing.

    in_host: with the host's Python in the host's folder; skips if there is no host.
    """
    import preloaded
    import pytest
    import server

    if os.name == "nt":
        pytest.skip("the simulated card needs Linux or macOS")

    host = server.find_host() if in_host else None
    if host:
        python, place = preloaded.python(host.python, *preloaded.HOST), host.folder
    else:
        python, place = preloaded.python(sys.executable, preloaded.SDXL), server.ROOT
    environment = server.host_environment() if host else dict(os.environ)
    command = [*python, str(HERE / script), str(server.ROOT), str(folder), *options]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    if "cannot import name '_setup_privateuseone_for_python_backend'" in done.stderr:
        pytest.skip("the simulated card needs a newer torch")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def main(names_in_script: dict[str, Any], folder: Path) -> None:
    """Run every check of the script, and write results.json into the folder; the process ends."""
    found = {}
    for name, check in list(names_in_script.items()):
        if name.startswith("check_"):
            try:
                check()
                found[name] = ""
            except Exception:
                found[name] = traceback.format_exc()
    (folder / "results.json").write_text(json.dumps(found), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)  # a check may leave objects that cannot be freed in order
