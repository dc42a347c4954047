"""The command line on the simulated device: train, generate and restyle."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator import checking

SCRIPT = "check_cli.py"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return checking.results(SCRIPT, Path(tmp_path_factory.mktemp("cli")))


@pytest.mark.parametrize("check", checking.names(SCRIPT))
def test_command(found: dict[str, str], check: str):
    """A failure means that a command mixes devices, or does not give on a card what it gives on the CPU."""
    assert not found[check], found[check]
