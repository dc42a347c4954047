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


@pytest.fixture(scope="session")
def reference() -> Path:
    """The small SDXL with what the published trainer and the published loader made of it."""
    return REFERENCE
