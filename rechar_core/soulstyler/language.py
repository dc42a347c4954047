"""What one language's table holds; english.py, chinese.py and japanese.py fill it in."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """One way to say it: a pattern over the whole text with groups s, o and perhaps p.

    weak: too loose to be half of a joined instruction.
    """

    pattern: re.Pattern[str]
    weak: bool = False


def form(pattern: str, weak: bool = False) -> Form:
    """A form from its pattern, in which upper and lower case are one."""
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
