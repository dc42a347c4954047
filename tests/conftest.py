"""Appends the repository's root to the import path; in front, our nodes/ would hide the host's nodes.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# One thread each: the models are tiny, and a second thread only waits for the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest_plugins = ["server"]  # the fixture `comfy`, a running ComfyUI

REFERENCE = Path(__file__).parent / "data" / "blora_tiny"

sys.path.append(str(Path(__file__).parents[1]))

# Begun first, so that the processes of a parallel run end together.
LONGEST = (
    "comfy",
    "test_demo.py",
    "test_cli.py",
    "test_speed.py",
    "test_host_references.py",
    "test_host_demo.py",
)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a parallel run (`--dist loadgroup`) one process has all tests of the server; other files stay whole."""
    with_server = {item.path for item in items if "comfy" in getattr(item, "fixturenames", ())}
    groups = {item: "comfy" if item.path in with_server else item.path.name for item in items}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: LONGEST.index(groups[item]) if groups[item] in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The small SDXL with what the published trainer and the published loader made of it."""
    return REFERENCE
