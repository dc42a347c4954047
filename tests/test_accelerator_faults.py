"""On a card with dynamic VRAM, the default on NVIDIA: every fault that was seen there, gone."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator import checking

pytestmark = pytest.mark.host

SCRIPT = "check_faults.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return checking.results(SCRIPT, Path(tmp_path_factory.mktemp("faults")), in_host=True)


@pytest.mark.parametrize("check", checking.names(SCRIPT))
def test_dynamic_vram(found: dict[str, str], check: str):
    """A failure means that the pack fails on its users' machines as it did."""
    assert not found[check], found[check]
