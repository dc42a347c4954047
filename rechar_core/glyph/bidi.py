"""The direction of each character: the Unicode bidirectional algorithm (UAX #9) without embeddings and brackets.

Covered: base direction (P2, P3), numbers (W2, W4, W5, W7), neutrals (N1, N2), reordering (L1, L2).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby
from typing import TypeVar
from unicodedata import bidirectional

_STRONG = {"L": "L", "R": "R", "AL": "R"}
_NUMBER = ("EN", "AN")
T = TypeVar("T")


def base_level(text: str) -> int:
    """The paragraph level: 1 if the first letter with a direction is right-to-left, else 0."""
    first = next((_STRONG[kind] for kind in map(bidirectional, text) if kind in _STRONG), "L")
    return int(first == "R")


def levels(text: str, base: int) -> list[int]:
    """The embedding level of every character of one line: even is left-to-right, odd is right-to-left."""
    kinds = _neutrals(_numbers(_kinds(text, base), base), base)
    higher = {"L": (0, 2), "R": (1, 1), "EN": (2, 2), "AN": (2, 2)}
    raised = [higher[kind][base] for kind in kinds]
    end = len(text.rstrip())
    return raised[:end] + [base] * (len(text) - end)


def visual_order(items: Sequence[T], item_levels: Sequence[int]) -> list[T]:
    """Items of one line from left to right (L2): from the highest level down, reverse runs of that level or above."""
    order = list(range(len(items)))
    for level in range(max(item_levels, default=0), 0, -1):
        groups = groupby(order, key=lambda i: item_levels[i] >= level)
        turned = (list(group)[:: -1 if inside else 1] for inside, group in groups)
        order = list(chain.from_iterable(turned))
    return [items[i] for i in order]


def _kinds(text: str, base: int) -> list[str]:
    """The bidirectional class of every character; a combining mark gets that of its letter (W1)."""
    kinds: list[str] = []
    for character in text:
        kind = bidirectional(character) or "L"
        kinds.append((kinds[-1] if kinds else "LR"[base]) if kind == "NSM" else kind)
    return kinds


def _numbers(kinds: list[str], base: int) -> list[str]:
    """Resolves numbers with their separators and signs (W2, W4, W5, W7)."""
    resolved, strong = list(kinds), "LR"[base]
    for i, kind in enumerate(kinds):
        strong = kind if kind in _STRONG else strong
        if kind == "EN" and strong == "AL":
            resolved[i] = "AN"
        elif kind in ("ES", "CS") and 0 < i < len(kinds) - 1 and kinds[i + 1] == "EN" == kinds[i - 1]:
            resolved[i] = resolved[i - 1]
    # signs next to a number belong to it: first those after it, then those before
    for order, neighbour in ((range(1, len(kinds)), -1), (range(len(kinds) - 2, -1, -1), 1)):
        for i in order:
            if resolved[i] == "ET" and resolved[i + neighbour] == "EN":
                resolved[i] = "EN"
    strong = "LR"[base]
    for i, kind in enumerate(resolved):
        strong = _STRONG.get(kind, strong)
        if kind == "EN" and strong == "L":
            resolved[i] = "L"
    return [_STRONG.get(kind, kind) for kind in resolved]


def _neutrals(kinds: list[str], base: int) -> list[str]:
    """Neutral characters get the direction of both sides if it is the same, else that of the line (N1, N2)."""
    direction = "LR"[base]
    resolved: list[str] = []
    groups = [(strong, list(g)) for strong, g in groupby(kinds, key=lambda k: k in ("L", "R", *_NUMBER))]
    for i, (strong, group) in enumerate(groups):
        if strong:
            resolved += group
            continue
        before = groups[i - 1][1][-1] if i else direction
        after = groups[i + 1][1][0] if i + 1 < len(groups) else direction
        sides = {"R" if side in _NUMBER else side for side in (before, after)}
        resolved += [sides.pop() if len(sides) == 1 else direction] * len(group)
    return resolved
