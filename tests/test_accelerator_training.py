"""Training on the simulated card, in a host with dynamic VRAM and in one without: the CPU's result, nothing left over.

Every pair of host, memory mode, precision and start; `python -m tests.accelerator.matrix` runs every combination.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from accelerator import cases, checking

pytestmark = pytest.mark.host


Found = Callable[[str], dict[str, str]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What is wrong by case, for one kind of host; found out when it is first asked for."""
    folder = Path(tmp_path_factory.mktemp("training"))

    @cache
    def results(kind: str) -> dict[str, str]:
        if kind != "cpu":
            results("cpu")  # what the others are compared with
        return checking.results("check_training.py", folder, kind, in_host=True)

    return results


@pytest.mark.parametrize("case", cases.pairwise(), ids=str)
def test_training(found: Found, case: cases.Case):
    """A failure means that Train B-LoRA fails, gives another LoRA, or leaves MODEL or memory changed on a card."""
    checking.skip_unless_known(case.host)
    wrong = found(case.host)[str(case)]
    assert not wrong, wrong


def test_the_cases_hold_every_pair():
    pairs = {pair for case in cases.every() for pair in cases._pairs(case)}
    assert pairs == {pair for case in cases.pairwise() for pair in cases._pairs(case)}
    assert len(cases.pairwise()) < 20 < len(cases.every()) == 90
