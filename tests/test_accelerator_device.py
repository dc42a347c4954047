"""The simulated card's device itself (accelerator/device.py): what the tests that run on it rely on."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator import checking

SCRIPT = "check_device.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return checking.results(SCRIPT, Path(tmp_path_factory.mktemp("device")))


@pytest.mark.parametrize("check", checking.names(SCRIPT))
def test_device(found: dict[str, str], check: str):
    """A failure means that the simulated card is wrong, not the pack: what runs on it shows nothing."""
    assert not found[check], found[check]
