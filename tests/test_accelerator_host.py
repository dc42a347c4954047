"""A real ComfyUI host on the simulated card: its own code gives the CPU's picture there."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator import cases, checking

pytestmark = pytest.mark.host

SCRIPT = "check_host.py"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the CPU makes."""
    folder = Path(tmp_path_factory.mktemp("host"))
    checking.results(SCRIPT, folder, "cpu", in_host=True)
    return folder


@pytest.fixture(scope="module", params=cases.HOSTS)
def found(request: pytest.FixtureRequest, expected: Path) -> dict[str, str]:
    checking.skip_unless_known(request.param)
    return checking.results(SCRIPT, expected, request.param, in_host=True)


@pytest.mark.parametrize("check", checking.names(SCRIPT))
def test_host(found: dict[str, str], check: str):
    """A failure means that the simulated card is wrong, not the pack: what runs on it shows nothing."""
    assert not found[check], found[check]
