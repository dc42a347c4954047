"""The structure of a language's grammar table, which english.py, chinese.py and japanese.py fill in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """One sentence form: a pattern over the whole text with the groups s (style), o (object) and, if any, p (part).

    weak: matches too much to be used for a half of a joined instruction.
    """

    pattern: re.Pattern[str]
    weak: bool = False


def form(pattern: str, weak: bool = False) -> Form:
    """A form from its pattern, which is matched without regard to case."""
    return Form(re.compile(pattern, re.IGNORECASE), weak)


@dataclass(frozen=True)
class Language:
    """One language's table. The patterns below see the text with uniform punctuation.

    kept: clauses about what stays as it is; noise: politeness and the like; joints: where two requests may be joined;
    verb: what the second of them may have left out; style_edges, object_edges: (start, end) of what is trimmed;
    whole: words that name no single object; head: the noun of an object.
    """

    kept: re.Pattern[str]
    noise: re.Pattern[str]
    joints: re.Pattern[str]
    verb: re.Pattern[str]
    forms: tuple[Form, ...]
    style_edges: tuple[re.Pattern[str], re.Pattern[str]]
    object_edges: tuple[re.Pattern[str], re.Pattern[str]]
    whole: re.Pattern[str]
    head: Callable[[str], str]
