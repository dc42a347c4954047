"""A real ComfyUI server with this pack in it, for the tests: found, started on a free port, talked to, stopped.

hosts.py says how the host is found. Its installation is only read: models, outputs and settings lie in a temporary
base directory, the network is the loopback alone. COMFYUI_FRONTEND: a folder with the frontend to use, not its own.

PYTEST_DONT_REWRITE: this module is imported by tests before it is registered as a plugin.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import preloaded
import pytest
from hosts import Host, absent, hosts
from PIL import Image

ROOT = Path(__file__).parents[1]
PACK = "rechar-pack"  # no Python identifier, as a folder that a user cloned or renamed may be
ATTACHED = Path(__file__).with_name("attached.py")
STARTUP_SECONDS = 300
NOT_PACKED = {"tests", "demo", "demo-out", "build", "dist", "benchmarks"}  # at the top level alone
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models/loras", "models/checkpoints")


def find_host() -> Host:
    """The host to test with, of several the newest; skips the test, saying why, if there is none."""
    found = hosts()
    if not found:
        where = ", ".join(map(str, absent()))
        pytest.skip(f"no ComfyUI in {where}: set COMFYUI_PATH, and COMFYUI_PYTHON if it has no .venv")
    return found[0]


def host_environment() -> dict[str, str]:
    """Environment variables for the host: no proxy, no hub, none of the test run's own import path."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    quiet = {"HF_HUB_OFFLINE": "1", "NO_PROXY": "*", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    return kept | quiet


def run_inside(script: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """Run a script of ours with the host's Python (see in_host.py): its outputs.safetensors, about.json and log."""
    from safetensors.torch import load_file

    host = find_host()
    command = [*preloaded.python(host.python, *preloaded.HOST), str(script), str(ROOT), str(folder)]
    done = subprocess.run(command, cwd=host.folder, env=host_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    about = json.loads((folder / "about.json").read_text())
    return load_file(folder / "outputs.safetensors"), about, done.stderr


def base_directory(folder: Path) -> Path:
    """A new base directory for a host, with a copy of this pack in custom_nodes."""
    for name in FOLDERS:
        (folder / name).mkdir(parents=True)
    shutil.copytree(ROOT, folder / "custom_nodes" / PACK, ignore=_not_packed)
    return folder


def pack_files(base: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file in a server's copy of the pack, but for the bytecode that Python itself keeps."""
    pack = base / "custom_nodes" / PACK
    files = (path for path in pack.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {
        path.relative_to(pack).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns) for path in files
    }


def _not_packed(folder: str, names: list[str]) -> set[str]:
    hidden = {name for name in names if name.startswith(".") or name == "__pycache__"}
    return hidden | (NOT_PACKED & set(names) if Path(folder) == ROOT else set())


@lru_cache(maxsize=1)
def api_client() -> ModuleType:
    """docs/examples/api_client.py as a module."""
    spec = importlib.util.spec_from_file_location("api_client", ROOT / "docs" / "examples" / "api_client.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["api_client"] = module
    spec.loader.exec_module(module)
    return module


@dataclass
class Run:
    """What a workflow gave: outputs by node as in the history, the events, the error (empty if it succeeded)."""

    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, np.ndarray] = field(default_factory=dict)  # by node: (pictures, height, width, 3) uint8
    events: list[Any] = field(default_factory=list)
    error: str = ""

    def previews(self) -> list[Image.Image]:
        """The pictures that were sent on the way."""
        return [Image.open(io.BytesIO(event.image)) for event in self.events if event.kind == "preview"]

    def executed(self) -> set[str]:
        """The nodes that ran; what came from the cache is not among them."""
        return {event.data["node"] for event in self.events if event.kind == "executing"} - {None}

    def text(self, node: str) -> str:
        """What a node such as Preview Any showed as text."""
        return "\n".join(self.outputs[node]["text"])


class Server:
    """A running ComfyUI; on the CPU, unless `launcher` (script and arguments in front of main.py) says otherwise."""

    def __init__(
        self, host: Host, base: Path, launcher: Sequence[str] = (), more_options: Sequence[str] = ()
    ):
        self.host, self.base = host, base
        self.pack = pack_files(base)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.client = api_client().Client(f"127.0.0.1:{self.port}", timeout=600)
        self._log = (base / "server.log").open("w+", encoding="utf-8", errors="replace")
        options = ["--port", str(self.port), "--base-directory", str(base), "--disable-auto-launch"]
        options += [*more_options, *([] if launcher else ["--cpu"])]
        database = (
            f"sqlite:///{(base / 'comfyui.db').as_posix()}"  # in memory, 0.3.64's threads quarrel over it
        )
        options += ["--user-directory", str(base / "user"), "--database-url", database]
        options += ["--preview-method", "latent2rgb", "--disable-api-nodes"]
        if frontend := os.environ.get("COMFYUI_FRONTEND"):
            options += ["--front-end-root", frontend]
        python = preloaded.python(host.python, *preloaded.HOST) if launcher else (str(host.python), "-s")
        command = [*python, *(launcher or [str(ATTACHED)]), "main.py", *options]
        # the pipe, which nobody writes to, is what ties its life to ours
        streams = {"stdout": self._log, "stderr": subprocess.STDOUT, "stdin": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=host.folder, env=host_environment(), **streams)

    def wait(self) -> Server:
        """Return once it answers; ends the test run with its log's end if it does not: no other test could run."""
        end = time.monotonic() + STARTUP_SECONDS
        while self.process.poll() is None and time.monotonic() < end:
            try:
                self.client.request("/prompt")
                return self
            except api_client().ApiError:
                time.sleep(0.25)
        self.stop()
        reason = (
            f"{self.log()[-4000:]}\nComfyUI {self.host.version} in {self.host.folder} did not start with "
        )
        pytest.exit(
            f"{reason}{self.host.python} (see above); is COMFYUI_PYTHON the one it needs?", returncode=1
        )

    def __enter__(self) -> Server:
        return self.wait()

    def __exit__(self, *error: Any) -> None:
        self.stop()
        if error == (None, None, None):
            assert pack_files(self.base) == self.pack, "something was written into the pack's own folder"

    def stop(self) -> None:
        """End the process, kindly and then not."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def log(self) -> str:
        """All that the server printed so far."""
        return (self.base / "server.log").read_text(encoding="utf-8", errors="replace")

    def object_info(self) -> dict[str, Any]:
        """The host's description of every node."""
        return self.client_json("/object_info")

    def client_json(self, path: str) -> Any:
        return api_client().json.loads(self.client.request(path))

    def upload(self, name: str, pixels: np.ndarray) -> str:
        """Put a picture, (height, width, 3) uint8, into the input folder; the name for Load Image."""
        path = self.base / "temp" / name
        Image.fromarray(pixels).save(path)
        return self.client.upload(path)

    def place(self, name: str, pixels: np.ndarray) -> None:
        """Put a picture, (height, width, 3 or 4) uint8, into the input folder in the place of another of its name."""
        Image.fromarray(pixels).save(self.base / "input" / name)

    def run(self, workflow: dict[str, Any], show: Any = None) -> Run:
        """Queue an API workflow, wait for its end, fetch its pictures; an error is kept, not raised."""
        made = Run()

        def keep(event: Any) -> None:
            made.events.append(event)
            if show:
                show(event)

        try:
            made.outputs = self.client.run(workflow, keep)
        except api_client().ApiError as error:
            made.error = str(error)
        for node, output in made.outputs.items():
            if pictures := [self.picture(image) for image in output.get("images", [])]:
                made.images[node] = np.stack(pictures)
        return made

    def picture(self, image: dict[str, str]) -> np.ndarray:
        """One picture that the server named, (height, width, 3) uint8."""
        return np.asarray(Image.open(io.BytesIO(self.client.download(image))).convert("RGB"))

    def import_seconds(self) -> float:
        """How long importing the pack took, as the server itself reports (in tenths)."""
        (line,) = re.findall(rf"([\d.]+) seconds[^\n]*{PACK}", self.log())
        return float(line)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server with this pack, one for the whole run; a test module says `pytest_plugins = ["server"]`."""
    base = base_directory(tmp_path_factory.mktemp("comfyui"))
    shutil.copy(Path(__file__).with_name("neighbour_nodes.py"), base / "custom_nodes")
    with Server(find_host(), base) as running:
        yield running
