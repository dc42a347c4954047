"""A real ComfyUI host on the simulated card: its own code gives the CPU's picture there."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator import checking

pytestmark = pytest.mark.host

SCRIPT = "check_host.py"
Found = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = Path(tmp_path_factory.mktemp("host"))
    return {
        kind: checking.results(SCRIPT, folder, kind, in_host=True) for kind in ("cpu", "plain", "dynamic")
    }


@pytest.mark.parametrize("kind", ["plain", "dynamic"])
@pytest.mark.parametrize("check", checking.names(SCRIPT))
def test_host(found: Found, check: str, kind: str):
    """A failure means that the simulated card is wrong, not the pack: what runs on it shows nothing."""
    assert not found[kind][check], found[kind][check]
