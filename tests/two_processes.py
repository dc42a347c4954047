"""Two processes of one run on this machine, as `accelerate launch` starts them, without its launcher's own start."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from preloaded import SDXL, python

ROOT = Path(__file__).parents[1]


def run_both(said: Path, module: str, *arguments: str) -> str:
    """Run `python -m module arguments` twice; what both printed, by way of the file `said`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with said.open("ab") as printed:
        processes = [
            subprocess.Popen(
                [*python(sys.executable, SDXL), "-m", module, *arguments],
                cwd=ROOT,
                stdout=printed,
                stderr=printed,
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(2)
        ]
        statuses = [process.wait() for process in processes]
    text = said.read_text(encoding="utf-8", errors="replace")
    assert statuses == [0, 0], text[-3000:]
    return text
