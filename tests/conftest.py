"""Appends the repository's root to the import path; in front, our nodes/ would hide the host's nodes.py."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import hosts
import pytest

# One thread each: the models are tiny, and a second thread only waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest_plugins = ["server"]  # the fixture `comfy`, a running ComfyUI

# Where the pack meets its packages; run with exactly the lower bounds of requirements.txt as well (marker bounds).
BOUNDS = (
    "device",
    "files",
    "glyph",
    "images",
    "inspect",
    "renderer",
    "references",
    "soulstyler_words",
    "stored",
)

MARKERS = (
    "host: needs a ComfyUI checkout",
    "smoke: every node once, for the older hosts",
    "browser: opens a page in Chromium (set by conftest.py)",
    "newest_frontend: run behind the newest frontend alone, where it is installed",
    "bounds: run with exactly the lower bounds of requirements.txt as well (set by conftest.py)",
    "gpu: needs a CUDA device",
)

REFERENCE = Path(__file__).parent / "data" / "blora_tiny"

sys.path.append(str(Path(__file__).parents[1]))


def pytest_configure(config: pytest.Config) -> None:
    """Here, not in pytest.ini, so that a plain `pytest` at the root, which reads pyproject.toml, knows them too."""
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_report_header() -> str:
    """Which host the tests of the nodes run in."""
    found = hosts.hosts()
    return f"ComfyUI {found[0].version} in {found[0].folder}" if found else "no ComfyUI was found"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that open a page are marked `browser`, those of BOUNDS `bounds`."""
    for item in items:
        if item.path.stem.removeprefix("test_") in BOUNDS:
            item.add_marker(pytest.mark.bounds)
        if "page" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


def pytest_collection_finish(session: pytest.Session) -> None:
    """A host that is there but cannot start ends the run with one sentence, not with one error a test.

    What was imported is then left out of garbage collections, which else take a third of the time.
    """
    found = hosts.hosts()
    if found and any(item.get_closest_marker("host") for item in session.items) and hosts.fault(found[0]):
        raise pytest.UsageError(f"{hosts.fault(found[0])}; -m 'not host' runs the other tests")
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session")
def reference() -> Path:
    """The small SDXL with what the published trainer and the published loader made of it."""
    return REFERENCE
