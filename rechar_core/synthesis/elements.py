"""Element prompting: decides which tokens of a prompt stay in the cross-attention.

ReChar's extraction module (a) keeps the prompt's decorative tokens and drops its normal tokens (SIGGRAPH Asia 2025,
doi 10.1145/3757376.3771409, framework figure). A dropped token is removed from the context sequence; the pooled
embedding remains that of the whole prompt.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..errors import RecipeError, check_choice

KeepMode = Literal["auto", "brackets", "all"]
Role = Literal["normal", "trigger", "element"]
_Span = tuple[str, Role, float]  # text, its role, its weight
KEEP_MODES: tuple[str, ...] = get_args(KeepMode)

STRUCTURE_SLOT, STYLE_SLOT, ELEMENT_SLOT = "[c]", "[s]", "[e]"
PUBLISHED_TRIGGER = (
    "[v]"  # what the published LoRAs are trained with: it counts as a trigger wherever it is typed
)

# Words that are dropped from the elements.
_FUNCTION_WORD = re.compile("a|an|the|of|and|or|with|in|on|at|by|from|to|some|many|its|their")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)
_SEPARATORS = re.compile(r"[,;\n，、；]")
_HALF_WIDTH = str.maketrans("（）：", "():")
_MARKS = re.compile(r"\\[()]|[()]|[^()\\]+|\\")
_EMPHASIS = 1.1  # weight of ( ) without a number, as in ComfyUI (comfy/sd1_clip.py, token_weights)
# "embedding:name" is one piece, which ComfyUI looks up; so is an emoji with its colour and what it is joined to
_PIECES = re.compile(
    r"\[|\]|embedding:[\w./\\-]+|\w+(?:['’-]\w+)*"
    "|[^\\w\\s\\[\\]][\ufe0f\U0001f3fb-\U0001f3ff]*(?:\u200d[^\\w\\s\\[\\]][\ufe0f\U0001f3fb-\U0001f3ff]*)*"
)


@dataclass(frozen=True)
class PromptToken:
    """A word or mark of a prompt. weight: prompt weight, 1 is neutral. kept: it stays in the cross-attention."""

    text: str
    role: Role
    weight: float = 1.0
    kept: bool = True


def split_elements(text: str) -> tuple[str, ...]:
    """The elements in a text, split at commas, semicolons and line breaks (also CJK ones), but not inside ( )."""
    elements, depth = [""], 0
    for mark in _MARKS.findall(text):
        depth = max(0, depth + (mark == "(") - (mark == ")"))
        first, *more = [mark] if depth else _SEPARATORS.split(mark)
        elements[-1] += first
        elements += more
    return tuple(e.strip() for e in elements if e.strip())


def emphasised(text: str, weight: float = 1.0) -> list[tuple[str, float]]:
    """The parts of a text with their weights: (more), (much more:1.5), also nested; \\( and \\) are parentheses.

    As in ComfyUI (comfy/sd1_clip.py, token_weights): a number replaces the weight outside, parentheses without a
    number multiply it by 1.1. A parenthesis that is not closed is an ordinary character.
    """
    parts: list[tuple[str, float]] = []
    marks = _MARKS.findall(text)
    while marks:
        mark = marks.pop(0)
        length = _closing(marks) if mark == "(" else None
        if length is None:
            parts.append((mark.removeprefix("\\") or mark, weight))
            continue
        inner, marks = "".join(marks[:length]), marks[length + 1 :]
        body, colon, number = inner.rpartition(":")
        explicit = _number(number) if colon and body else None
        parts += emphasised(inner, weight * _EMPHASIS) if explicit is None else emphasised(body, explicit)
    return parts


def _closing(marks: list[str]) -> int | None:
    """The number of marks before the matching closing parenthesis; None if there is none."""
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
    """The prompt as tokens, each marked as kept or dropped.

    template: text in which [c] is replaced by the structure trigger, [s] by the style trigger and [e] by the elements
    (without [e] they are appended after "with"); capitals count too. Triggers are given as trained ("A [v]"); a leading
    article is removed, the rest is used unchanged. A trigger typed in the template is one there as well, and so is [v].
    Parentheses and colons of weights may be CJK ones. weight: prompt weight of the elements, 0..10; weights in ( )
    multiply it. mode: "auto" keeps the triggers and the elements' content words, "brackets" keeps what is inside [ ],
    "all" keeps everything. Raises RecipeError for an unknown mode, a weight outside 0..10, or if nothing would be kept.
    """
    check_choice("keep mode", mode, KEEP_MODES, RecipeError)
    if not 0 <= weight <= 10:
        raise RecipeError(f"The element weight is {weight}; it must be from 0 to 10.")
    template, elements = template.translate(_HALF_WIDTH), elements.translate(_HALF_WIDTH)
    listed = _listed(elements, weight)
    triggers = [_ARTICLE.sub("", trigger.strip()) for trigger in (structure_trigger, style_trigger)]
    slots: dict[str, list[_Span]] = {
        STRUCTURE_SLOT: [(triggers[0] or STRUCTURE_SLOT, "trigger", 1.0)],
        STYLE_SLOT: [(triggers[1] or STYLE_SLOT, "trigger", 1.0)],
        ELEMENT_SLOT: listed,
    }
    spans = _filled(template, slots, [*filter(None, triggers), PUBLISHED_TRIGGER])
    if listed and ELEMENT_SLOT not in template.lower():
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
    """All tokens as one text."""
    return " ".join(w.text for w in words)


def kept_text(words: Sequence[PromptToken]) -> str:
    """The kept tokens as one text."""
    return " ".join(w.text for w in words if w.kept)


def dropped_text(words: Sequence[PromptToken]) -> str:
    """The elements' own words that are not kept, as one text; "with" in front of them is not theirs."""
    dropped = (w.text for w in words if w.role == "element" and not w.kept)
    return " ".join(text for text in dropped if text[0].isalnum() and text != "with")


def without_elements(words: Sequence[PromptToken]) -> tuple[PromptToken, ...]:
    """The prompt without its elements, for the picture outside the elements' region."""
    return tuple(w for w in words if w.role != "element")


def packed(
    groups: Sequence[Sequence[Any]], words: Sequence[PromptToken], length: int
) -> tuple[list[list[Any]], list[int]]:
    """The text encoder's tokens in chunks of `length` - 2, and the context rows of the kept ones.

    groups: the text encoder's tokens of each word; a word is not split over two chunks unless it is longer than one.
    Row numbers count the start token of each chunk, so a chunk has `length` rows.
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


def _listed(elements: str, weight: float) -> list[_Span]:
    """The elements with commas between them; weight: of all, multiplied by that of each."""
    spans: list[_Span] = []
    for item in split_elements(elements):
        spans += [(",", "normal", 1.0)] if spans else []
        spans += [(part, "element", emphasis * weight) for part, emphasis in emphasised(item)]
    return spans


def _filled(template: str, slots: dict[str, list[_Span]], triggers: Sequence[str]) -> list[_Span]:
    """The template with its slots filled in and its triggers found; a weight around a slot applies to its contents."""
    typed = [rf"(?<!\w){re.escape(trigger)}(?!\w)" for trigger in sorted(triggers, key=len, reverse=True)]
    pattern = re.compile(f"({'|'.join([*map(re.escape, slots), *typed])})", re.IGNORECASE)
    spans: list[_Span] = []
    for text, weight in emphasised(template):
        for number, part in enumerate(pattern.split(text)):
            contents: list[_Span] = slots.get(
                part.lower(), [(part, "trigger" if number % 2 else "normal", 1.0)]
            )
            spans += [(t, role, inner * weight) for t, role, inner in contents]
    return spans


def _words(spans: Sequence[_Span], mode: KeepMode) -> list[PromptToken]:
    """The tokens of all spans. In mode "brackets", [ and ] mark what to keep and are not tokens themselves.

    Triggers are kept in every mode.
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
    shown = (
        piece[0].isalnum() or unicodedata.category(piece[0]) == "So"
    )  # a word, or a picture such as an emoji
    return role == "element" and shown and not _FUNCTION_WORD.fullmatch(piece.lower())
