"""Training on the simulated card, in a host with dynamic VRAM and in one without: the CPU's result, nothing left over.

Every pair of host, memory mode, precision and start; `python -m tests.accelerator.matrix` runs every combination.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerator import cases, checking

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = Path(tmp_path_factory.mktemp("training"))
    made: dict[str, str] = {}
    for kind in ("cpu", *cases.HOSTS):
        made |= checking.results("check_training.py", folder, kind, in_host=True)
    return made


@pytest.mark.parametrize("case", cases.pairwise(), ids=str)
def test_training(found: dict[str, str], case: cases.Case):
    """A failure means that Train B-LoRA fails, gives another LoRA, or leaves MODEL or memory changed on a card."""
    assert not found[str(case)], found[str(case)]


def test_the_cases_hold_every_pair():
    pairs = {pair for case in cases.every() for pair in cases._pairs(case)}
    assert pairs == {pair for case in cases.pairwise() for pair in cases._pairs(case)}
    assert len(cases.pairwise()) < 20 < len(cases.every()) == 90
