"""Element prompting: which words of a prompt stay in the cross-attention.

ReChar's extraction module (a): the prompt's decorative tokens are kept, its normal tokens dropped
(SIGGRAPH Asia 2025, doi 10.1145/3757376.3771409, framework figure). A dropped token leaves the context sequence
altogether; the pooled embedding still is of the whole prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import RecipeError

KeepMode = Literal["auto", "brackets", "all"]
Role = Literal["normal", "trigger", "element"]
_Span = tuple[str, Role, float]  # text, its role, its weight
KEEP_MODES: tuple[str, ...] = get_args(KeepMode)

STRUCTURE_SLOT, STYLE_SLOT, ELEMENT_SLOT = "[c]", "[s]", "[e]"

# Words that decorate nothing. Only whole words of the elements are compared with it.
_FUNCTION_WORDS = frozenset(
    (
        "a",
        "an",
        "the",
        "of",
        "and",
        "or",
        "with",
        "in",
        "on",
        "at",
        "by",
        "from",
        "to",
        "some",
        "many",
        "its",
        "their",
    )
)
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_SEPARATORS = re.compile(r"[,;\n，、；]")
_MARKS = re.compile(r"\\[()]|[()]|[^()\\]+|\\")
_EMPHASIS = 1.1  # of ( ) without a number, as in ComfyUI (comfy/sd1_clip.py, token_weights)
# "embedding:name" is one piece, for the host to look up
_PIECES = re.compile(r"\[|\]|embedding:[\w./\\-]+|\w+(?:['’-]\w+)*|[^\w\s\[\]]")


@dataclass(frozen=True)
class PromptToken:
    """One word or mark of a prompt. weight: its emphasis, 1 = none. kept: it stays in the cross-attention."""

    text: str
    role: Role
    weight: float = 1.0
    kept: bool = True


def split_elements(text: str) -> tuple[str, ...]:
    """The elements of a list in text: separated by commas, semicolons or lines (CJK ones too), but not within ( )."""
    found, depth = [""], 0
    for mark in _MARKS.findall(text):
        depth = max(0, depth + (mark == "(") - (mark == ")"))
        first, *more = [mark] if depth else _SEPARATORS.split(mark)
        found[-1] += first
        found += more
    return tuple(e.strip() for e in found if e.strip())


def emphasised(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """The parts of a text with their weights: (more), (much more:1.5), nested too; \\( and \\) are parentheses.

    As ComfyUI reads a prompt (comfy/sd1_clip.py, token_weights): a number replaces what holds outside, parentheses
    without one multiply it by 1.1. One that is never closed is an ordinary mark.
    """
    found: list[tuple[str, float]] = []
    marks = _MARKS.findall(text)
    while marks:
        mark = marks.pop(0)
        length = _closing(marks) if mark == "(" else None
        if length is None:
            found.append((mark.removeprefix("\\") or mark, weight))
            continue
        inner, marks = "".join(marks[:length]), marks[length + 1 :]
        body, colon, number = inner.rpartition(":")
        given = _number(number) if colon and body else None
        found += emphasised(inner, weight * _EMPHASIS) if given is None else emphasised(body, given)
    return found


def _closing(marks: list[str]) -> int | None:
    """How many marks stand before the parenthesis that closes an opened one; None if none does."""
    depth = 1
    for place, mark in enumerate(marks):
        depth += (mark == "(") - (mark == ")")
        if depth == 0:
            return place
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def build_prompt(
    template: str,
    structure_trigger: str = "",
    style_trigger: str = "",
    elements: str = "",
    mode: KeepMode = "auto",
    weight: float = 1.0,
) -> tuple[PromptToken, ...]:
    """The prompt as words, each marked kept or dropped.

    template: text in which [c] stands for the structure trigger, [s] for the style trigger and [e] for the elements
    (appended after "with" where [e] is missing). Triggers are given as trained ("A [v]"); a leading article is left
    out, nothing else in them is read. weight: emphasis of the elements, 0..10, times that of ( ). mode: "auto" keeps
    triggers and the elements' content words, "brackets" keeps what stands in [ ], "all" keeps everything.
    Raises RecipeError on an unknown mode, a weight outside 0..10, or if nothing would be kept.
    """
    if mode not in KEEP_MODES:
        raise RecipeError(f"There is no keep mode '{mode}'; choose one of {', '.join(KEEP_MODES)}.")
    if not 0 <= weight <= 10:
        raise RecipeError(f"The element weight is {weight}; it must be from 0 to 10.")
    listed: list[_Span] = []
    for item in split_elements(elements):
        listed += [(",", "normal", 1.0)] if listed else []
        listed += [(part, "element", own * weight) for part, own in emphasised(item)]
    slots: dict[str, list[_Span]] = {
        STRUCTURE_SLOT: [(_ARTICLE.sub("", structure_trigger.strip()) or STRUCTURE_SLOT, "trigger", 1.0)],
        STYLE_SLOT: [(_ARTICLE.sub("", style_trigger.strip()) or STYLE_SLOT, "trigger", 1.0)],
        ELEMENT_SLOT: listed,
    }
    spans = _filled(template, slots)
    if listed and ELEMENT_SLOT not in template:
        spans += [("with", "element", 1.0)] if template.strip() else []
        spans += listed
    words = _words(spans, mode)
    if not any(w.kept for w in words):
        raise RecipeError(
            f"Nothing of '{prompt(words)}' would be kept in mode '{mode}'; "
            "name elements, put [ ] around words to keep, or choose 'all'."
        )
    return tuple(words)


def prompt(words: Sequence[PromptToken]) -> str:
    """The words as one text."""
    return " ".join(w.text for w in words)


def kept_text(words: Sequence[PromptToken]) -> str:
    """The kept words as one text."""
    return " ".join(w.text for w in words if w.kept)


def without_elements(words: Sequence[PromptToken]) -> tuple[PromptToken, ...]:
    """The same prompt without its elements, for what lies outside their region."""
    return tuple(w for w in words if w.role != "element")


def packed(
    groups: Sequence[Sequence[Any]], words: Sequence[PromptToken], length: int
) -> tuple[list[list[Any]], list[int]]:
    """The words' tokens in chunks of `length` - 2, none torn apart unless longer than a chunk; rows of the kept ones.

    groups: each word's tokens. A row counts the start token of its chunk, and `length` rows for each chunk before.
    """
    chunks: list[list[Any]] = [[]]
    rows = []
    for group, word in zip(groups, words, strict=True):
        if len(chunks[-1]) + len(group) > length - 2 and chunks[-1]:
            chunks.append([])
        for token in group:
            if len(chunks[-1]) == length - 2:
                chunks.append([])
            chunks[-1].append(token)
            if word.kept:
                rows.append((len(chunks) - 1) * length + len(chunks[-1]))
    return chunks, rows


def _filled(template: str, slots: dict[str, list[_Span]]) -> list[_Span]:
    """The template with its slots filled; emphasis around a slot holds for what fills it."""
    pattern = "(" + "|".join(re.escape(slot) for slot in slots) + ")"
    found: list[_Span] = []
    for text, weight in emphasised(template):
        for part in re.split(pattern, text):
            filling: list[_Span] = slots.get(part, [(part, "normal", 1.0)])
            found += [(t, role, own * weight) for t, role, own in filling]
    return found


def _words(spans: Sequence[_Span], mode: KeepMode) -> list[PromptToken]:
    """The words of all spans. Brackets mark what to keep in mode "brackets" and are no words of their own there.

    A trigger stands in brackets in the template, so that it is kept in every mode.
    """
    words, depth = [], 0
    for text, role, weight in spans:
        for piece in _PIECES.findall(text):
            if piece in "[]" and mode == "brackets" and role != "trigger":
                depth = max(0, depth + (1 if piece == "[" else -1))
                continue
            words.append(
                PromptToken(piece, role, weight, role == "trigger" or _kept(piece, role, mode, depth > 0))
            )
    return words


def _kept(piece: str, role: Role, mode: KeepMode, bracketed: bool) -> bool:
    if mode == "all":
        return True
    if mode == "brackets":
        return bracketed
    return role == "element" and piece[0].isalnum() and piece.lower() not in _FUNCTION_WORDS
