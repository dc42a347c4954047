"""Appends the repository's root to the import path; in front, our nodes/ would hide the host's nodes.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parent / "data" / "blora_tiny"

sys.path.append(str(Path(__file__).parents[1]))


@pytest.fixture(scope="session")
def reference() -> Path:
    """The small SDXL with what the published trainer and the published loader made of it."""
    return REFERENCE
