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

from .errors import RecipeError

KeepMode = Literal["auto", "brackets", "all"]
Role = Literal["normal", "trigger", "element"]
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
_SEPARATORS = re.compile(r"[,;\n，、；]+")
_PIECES = re.compile(r"\[|\]|\w+(?:['’-]\w+)*|[^\w\s\[\]]")


@dataclass(frozen=True)
class Word:
    """One word or mark of a prompt. weight: its emphasis, 1 = none. kept: it stays in the cross-attention."""

    text: str
    role: Role
    weight: float = 1.0
    kept: bool = True


def split_elements(text: str) -> tuple[str, ...]:
    """The elements of a list in text: separated by commas, semicolons or lines (CJK ones too)."""
    return tuple(e.strip() for e in _SEPARATORS.split(text) if e.strip())


def compose(
    template: str,
    structure_trigger: str = "",
    style_trigger: str = "",
    elements: str = "",
    mode: KeepMode = "auto",
    weight: float = 1.0,
) -> tuple[Word, ...]:
    """The prompt as words, each marked kept or dropped.

    template: text in which [c] stands for the structure trigger, [s] for the style trigger and [e] for the elements
    (appended after "with" where [e] is missing). Triggers are given as trained ("A [v]"); a leading article is left
    out. weight: emphasis of the elements, 0..10. mode: "auto" keeps triggers and the elements' content words,
    "brackets" keeps what stands in [ ], "all" keeps everything.
    Raises RecipeError on an unknown mode, a weight outside 0..10, or if nothing would be kept.
    """
    if mode not in KEEP_MODES:
        raise RecipeError(f"There is no keep mode '{mode}'; choose one of {', '.join(KEEP_MODES)}.")
    if not 0 <= weight <= 10:
        raise RecipeError(f"The element weight is {weight}; it must be from 0 to 10.")
    listed = split_elements(elements)
    slots = {
        STRUCTURE_SLOT: _Filling((structure_trigger or STRUCTURE_SLOT,), "trigger", 1.0),
        STYLE_SLOT: _Filling((style_trigger or STYLE_SLOT,), "trigger", 1.0),
        ELEMENT_SLOT: _Filling(listed, "element", weight),
    }
    parts = _split_slots(template, slots)
    if listed and ELEMENT_SLOT not in template:
        joint = [("with", _Filling(("with",), "element", 1.0))] if template.strip() else []
        parts += [*joint, (ELEMENT_SLOT, slots[ELEMENT_SLOT])]
    words = [word for text, filling in parts for word in _words(text, filling, mode)]
    if not any(w.kept for w in words):
        raise RecipeError(
            f"Nothing of '{prompt(words)}' would be kept in mode '{mode}'; "
            "name elements, put [ ] around words to keep, or choose 'all'."
        )
    return tuple(words)


def prompt(words: Sequence[Word]) -> str:
    """The words as one text."""
    return " ".join(w.text for w in words)


def kept_text(words: Sequence[Word]) -> str:
    """The kept words as one text."""
    return " ".join(w.text for w in words if w.kept)


def without_elements(words: Sequence[Word]) -> tuple[Word, ...]:
    """The same prompt without its elements, for what lies outside their region."""
    return tuple(w for w in words if w.role != "element")


def packed(
    groups: Sequence[Sequence[Any]], words: Sequence[Word], length: int
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


@dataclass(frozen=True)
class _Filling:
    texts: tuple[str, ...]
    role: Role
    weight: float


def _split_slots(template: str, slots: dict[str, _Filling]) -> list[tuple[str, _Filling | None]]:
    parts = re.split("(" + "|".join(re.escape(s) for s in slots) + ")", template)
    return [(part, slots.get(part)) for part in parts if part]


def _words(text: str, filling: _Filling | None, mode: KeepMode) -> list[Word]:
    if filling is None:
        return _marked(text, "normal", 1.0, mode)
    words: list[Word] = []
    for i, item in enumerate(filling.texts):
        words += [Word(",", "normal", 1.0, mode == "all")] if i else []
        text = _ARTICLE.sub("", item.strip()) if filling.role == "trigger" else item
        # a trigger stands in brackets in the template, so that it is kept in mode "brackets" as well
        words += _marked(text, filling.role, filling.weight, "all" if filling.role == "trigger" else mode)
    return words


def _marked(text: str, role: Role, weight: float, mode: KeepMode) -> list[Word]:
    """The words of one text. Brackets mark what to keep in mode "brackets" and are no words of their own there."""
    words, depth = [], 0
    for piece in _PIECES.findall(text):
        if piece in "[]" and mode == "brackets":
            depth += 1 if piece == "[" else -1
            continue
        words.append(Word(piece, role, weight, _kept(piece, role, mode, depth > 0)))
    return words


def _kept(piece: str, role: Role, mode: KeepMode, bracketed: bool) -> bool:
    if mode == "all":
        return True
    if mode == "brackets":
        return bracketed
    return role == "element" and piece[0].isalnum() and piece.lower() not in _FUNCTION_WORDS
