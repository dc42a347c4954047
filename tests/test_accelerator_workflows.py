"""The demo workflows on ComfyUI servers with a simulated card: all with dynamic VRAM, every sixth also without.

With EVERY_WORKFLOW=1 in the environment all run in both.

Each gives the CPU's pictures and leaves the models as they were and, once they are unloaded, nothing on the card. What
is held before that is not compared between workflows: how much of its models the host keeps loaded is its own choice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import shrink
from accelerator import cases, checking
from server import ROOT, Run, Server

pytestmark = pytest.mark.host

API = ROOT / "workflows" / "api"
NAMES = sorted(path.stem for path in API.glob("demo_*.json"))
LEFT = 64  # bytes: the host leaves CLIP's two logit scales on the card for good
GREY_LEVELS = 2  # a picture's difference, of 255, in a hundredth of its values


def small(name: str) -> dict[str, Any]:
    return shrink.smallest(json.loads((API / f"{name}.json").read_text(encoding="utf-8")))


CASES = [(kind, name) for kind in cases.HOSTS for name in NAMES]
if "EVERY_WORKFLOW" not in os.environ:
    CASES = [(kind, name) for kind, name in CASES if kind == "dynamic" or name in NAMES[4::6]]


@pytest.fixture(scope="module")
def cards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """The server of a kind, one at a time; untouched: hashes of the demo's MODEL, CLIP and VAE before anything ran.

    Not a fixture with parameters: pytest would start a server for every workflow.
    """
    running: dict[str, Server] = {}

    def card(kind: str) -> Server:
        if kind not in running:
            checking.skip_unless_known(kind)
            stop()
            folder = tmp_path_factory.mktemp(kind) / "base"
            running[kind] = checking.server_on(kind, folder, "--cache-none")
            running[kind].wait()
            running[kind].untouched = running[kind].client_json("/accelerator?unload=1")["demo"]
        return running[kind]

    def stop() -> None:
        while running:
            running.popitem()[1].stop()

    yield card
    stop()


@pytest.fixture(scope="module")
def expected(comfy: Server) -> dict[str, Run]:
    """The CPU's runs, each made when it is first asked for."""

    class Runs(dict[str, Run]):
        def __missing__(self, name: str) -> Run:
            self[name] = comfy.run(small(name))
            return self[name]

    return Runs()


def pictures(made: Run) -> dict[str, np.ndarray]:
    assert not made.error, made.error
    return made.images


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_workflow_on_the_card(cards: Callable[[str], Server], expected: dict[str, Run], kind: str, name: str):
    """A failure means that the workflow fails, draws something else or keeps memory on an NVIDIA card."""
    card = cards(kind)
    made, wanted = pictures(card.run(small(name))), pictures(expected[name])
    assert made.keys() == wanted.keys()
    for node, picture in wanted.items():
        off = np.abs(made[node].astype(int) - picture.astype(int))
        assert np.quantile(off, 0.99) <= GREY_LEVELS, (node, off.max(), off.mean())
    found = card.client_json("/accelerator?unload=1")
    assert found["peak"] > found["held"] > found["unloaded"] and not found["violations"]
    assert found["unloaded"] <= LEFT
    assert found["demo"] == card.untouched
