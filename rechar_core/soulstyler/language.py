"""The structure of a language's grammar table, which english.py, chinese.py and japanese.py fill in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


def pattern(text: str) -> re.Pattern[str]:
    """A regular expression that is matched without regard to case."""
    return re.compile(text, re.IGNORECASE)


def patterns(*texts: str) -> tuple[re.Pattern[str], ...]:
    """`pattern` of each."""
    return tuple(map(pattern, texts))


@dataclass(frozen=True)
class Language:
    """One language's table. The patterns below see the text with uniform punctuation.

    unchanged: clauses about what stays as it is; filler: politeness and the like; joints: where two requests may be
    joined; verb: what the second of them may have left out; forms: sentence forms over the whole text, in the order of
    matching, with the groups s (style), o (object) and, if any, p (part); weak: those of them that match too much to be
    used for a half of a joined instruction; style_edges, object_edges: (start, end) of what is trimmed; whole: words
    that name no single object; head: the noun of an object.
    """

    unchanged: re.Pattern[str]
    filler: re.Pattern[str]
    joints: re.Pattern[str]
    verb: re.Pattern[str]
    forms: tuple[re.Pattern[str], ...]
    weak: tuple[re.Pattern[str], ...]
    style_edges: tuple[re.Pattern[str], ...]
    object_edges: tuple[re.Pattern[str], ...]
    whole: re.Pattern[str]
    head: Callable[[str], str]
