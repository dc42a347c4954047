"""Python processes without the seconds that importing torch takes: forks of one process that has it imported.

`python(executable, ...)` is what stands for `executable` in front of `script arguments` or `-m module arguments`. What
runs has its own streams, folder and environment, gets the starter's SIGINT and SIGTERM, and dies with it. Where a
system cannot fork, it is `executable` itself.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

# what a ComfyUI imports whatever its options are
HOST = (
    "torch._dynamo",
    "torchvision",
    "torchaudio",
    "transformers",
    "scipy.stats",
    "torchsde",
    "av",
    "spandrel",
)
HOST += ("alembic.context", "aiohttp.web")
SDXL = "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl"
START_SECONDS = 120
POLL_SECONDS = 0.02
MESSAGE_BYTES = 1 << 20


@cache
def python(executable: Path | str, *modules: str) -> tuple[str, ...]:
    """The command for runs of `executable` with these modules imported; the process they are forks of ends with ours.

    A run takes sys.flags and PYTHON... variables from there: they are those that this process has now, and -s.
    """
    if not hasattr(os, "fork"):
        return (str(executable), "-s")
    address = str(Path(tempfile.mkdtemp(prefix="preloaded")) / "socket")
    command = [str(executable), "-s", __file__, address, *modules]
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    _started.append(subprocess.Popen(command, stdin=subprocess.PIPE, env=kept, start_new_session=True))
    return (str(executable), "-I", "-S", __file__, address, "--")


_started: list[subprocess.Popen[bytes]] = []  # each ends when its stdin closes


def serve(address: str, modules: list[str]) -> dict[str, Any]:
    """Forks for every request until the starter ends; returns what to run, in the fork alone."""
    for name in modules:
        with suppress(ImportError):  # a run that needs it says so
            importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            with connection:
                if not os.fork():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return run_for(connection)
    os.unlink(address)
    os.rmdir(os.path.dirname(address))
    sys.exit()


def run_for(connection: socket.socket) -> dict[str, Any]:
    """What the client wants run, in a second fork; the first says its number and its status, and ends it with it."""
    message, streams, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
    number = os.fork()
    if not number:
        for place, (name, stream) in enumerate(zip(("stdin", "stdout", "stderr"), streams, strict=True)):
            os.dup2(stream, place)
            os.close(stream)
            setattr(sys, name, os.fdopen(place, "w" if place else "r", 1, encoding="utf-8", closefd=False))
        return json.loads(message)
    connection.send(str(number).encode())
    ended = 0
    while not ended:
        ended, status = os.waitpid(number, os.WNOHANG)
        if not ended and select.select([connection], [], [], POLL_SECONDS)[0]:
            os.kill(number, signal.SIGKILL)  # the client is gone
            os._exit(1)
    connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def run(arguments: list[str], cwd: str, environment: dict[str, str]) -> None:
    """As `python arguments` in this folder with this environment."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what was started in the background ignores it
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[1:1] = environment["PYTHONPATH"].split(os.pathsep) if environment.get("PYTHONPATH") else []
    if arguments[0] == "-m":
        sys.path[0] = cwd
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def request(address: str, arguments: list[str]) -> int:
    """Have it run in a fork with this process's streams; its exit status."""
    with connected(address) as connection:
        wanted = {"arguments": arguments, "cwd": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(wanted).encode()], [0, 1, 2])
        number = int(connection.recv(64))
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, lambda which, _: os.kill(number, which))
        status = int(connection.recv(64) or 1)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def connected(address: str) -> socket.socket:
    """Waits until all is imported there."""
    end = time.monotonic() + START_SECONDS
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(address)
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > end:
                raise
            time.sleep(POLL_SECONDS)


def main() -> None:
    address, *more = sys.argv[1:]
    if more[:1] == ["--"]:
        sys.exit(request(address, more[1:]))
    run(**serve(address, more))


if __name__ == "__main__":
    main()
