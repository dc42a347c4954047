"""The training cases on the simulated card: every combination, and few of them that hold every pair of values."""

from __future__ import annotations

import itertools
from typing import NamedTuple


class Case(NamedTuple):
    """host: its weights' handling. start: from nothing; again after a cancelled run; on a MODEL with another LoRA;
    cancelled after two steps; out of memory in the second step."""

    host: str
    mode: str
    precision: str
    start: str

    def __str__(self) -> str:
        return "-".join(self)


HOSTS = ("plain", "dynamic")
AXES = (
    HOSTS,
    ("fast", "normal", "low"),
    ("fp32", "bf16", "fp16"),
    ("fresh", "resumed", "over", "cancelled", "oom"),
)


def every() -> list[Case]:
    return [Case(*values) for values in itertools.product(*AXES)]


def pairwise() -> list[Case]:
    """Every pair of values of two axes is in one of these at least; each case is the one with the most new pairs."""
    left = {pair for case in every() for pair in _pairs(case)}
    chosen = []
    while left:
        best = max(every(), key=lambda case: len(left & _pairs(case)))
        chosen.append(best)
        left -= _pairs(best)
    return sorted(chosen)


def _pairs(case: Case) -> set[tuple[tuple[int, str], ...]]:
    return set(itertools.combinations(enumerate(case), 2))
