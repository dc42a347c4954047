"""A ComfyUI server killed in the middle of a training: is anything lost?

    python -m benchmarks.kills [--times 30] [--seed 0]

Trains a B-LoRA on the demo model by a workflow in ComfyUI (COMFYUI_PATH), small: 400 steps, whose state is kept every
250. At a random moment after the first state the server's process gets SIGKILL. A new server in the same folders runs
the workflow again. Fails unless it goes on from a state and the saved files are, byte for byte, those of an
uninterrupted training.
"""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))  # behind all else: its modules have plain names
graphs, servers = importlib.import_module("graphs"), importlib.import_module("server")

STEPS, FIRST_STATE = 400, 250


def main() -> int:
    """0 if every killed training gave the bytes of the uninterrupted one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, folder = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="rechar-kills-"))
    base = servers.base_directory(folder / "base")
    with started(base) as running:
        wanted, first = trained(running)
    assert wanted and first == 1
    same = 0
    for number in range(options.times):
        forget(base)
        moment = chance.randrange(FIRST_STATE + 1, STEPS - 20)
        killed(base, moment, chance.random() / 20)
        with started(base) as running:
            files, first = trained(running)
        good = files == wanted and first > FIRST_STATE
        same += good
        print(
            f"{number + 1}: killed after step {moment}, went on with step {first}: {'same' if good else 'DIFFERENT'}",
            flush=True,
        )
    shutil.rmtree(folder)
    print(f"{same} of {options.times} gave the same bytes as the uninterrupted training")
    return int(same < options.times)


def started(base: Path) -> Any:
    """A server in these folders, on the CPU."""
    return servers.Server(servers.find_host(), base, [str(servers.ATTACHED)], ["--cpu"])


def workflow() -> dict[str, Any]:
    """Train both blocks and save them."""
    settings = {"steps": STEPS, "resolution": 64, "memory": "fast"}
    save = graphs.node(
        "ReCharSaveBLoRA", name="killed", if_exists="overwrite", structure=["train", 0], style=["train", 1]
    )
    return {
        "demo": graphs.node("ReCharDemoModel"),
        "glyph": graphs.glyph(),
        "train": graphs.train(**settings),
        "save": save,
    }


def trained(server: Any) -> tuple[dict[str, bytes], int]:
    """The bytes of the saved files, and the first step that was trained."""
    steps: list[int] = []

    def watch(event: Any) -> None:
        if event.kind == "progress" and event.data.get("max") == STEPS:
            steps.append(event.data["value"])

    error = server.run(workflow(), watch).error
    assert not error, error
    loras = server.base / "models" / "loras"
    return {path.name: path.read_bytes() for path in loras.rglob("*.safetensors")}, steps[0]


def killed(base: Path, moment: int, later: float) -> None:
    """A server that is killed `later` seconds after this step."""
    with started(base) as running:

        def watch(event: Any) -> None:
            if event.kind == "progress" and event.data.get("max") == STEPS and event.data["value"] >= moment:
                time.sleep(later)
                running.process.kill()

        assert running.run(workflow(), watch).error


def forget(base: Path) -> None:
    """Remove the trainings that are kept, and the files that were saved."""
    shutil.rmtree(base / "user" / "rechar" / "trainings", ignore_errors=True)
    for path in (base / "models" / "loras").rglob("*.safetensors"):
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
