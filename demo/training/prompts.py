"""Random prompts with what they mean, and from which token on it is known."""

from dataclasses import dataclass

import numpy as np

from ..catalog import NAMED_GLYPHS, content_text
from ..pictures.elements import ELEMENTS
from ..pictures.families import Palette, named_styles, style_text

NEUTRAL_CONTENT = (
    "A [v]", "A [c]", "A [s]", "a character", "a glyph", "a letter", "[v]", "a picture of [v]", "art", "a logo",
)  # fmt: skip
NEUTRAL_STYLE = ("in [s] style", "in the style of [v]", "in the style of [s]", "style", "")
FILLERS = (
    "beautiful", "photo of", "a drawing of", "logo", "poster of", "high quality", "simple", "decorated", "art of",
)  # fmt: skip
# What people write into a negative prompt: read as nothing at all, like the empty prompt.
NEGATIVE = (
    "blurry", "low quality", "worst quality", "bad", "ugly", "deformed", "watermark", "text", "jpeg artifacts",
    "low resolution", "noise", "distorted",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """Words in order. Each part holds its text and what it settles: "content", "style", "elements" or nothing.

    blank: nothing is said (the empty prompt, and words that only negate).
    """

    parts: tuple[tuple[str, str], ...]
    glyph: str | None = None
    style: tuple[str, Palette] | None = None
    elements: tuple[str, ...] = ()
    blank: bool = False

    @property
    def text(self) -> str:
        return " ".join(words for words, _ in self.parts if words)

    def before(self, what: str) -> str:
        """The text up to the end of the part that settles `what` (the whole text if none does)."""
        words, kinds = [part for part, _ in self.parts], [kind for _, kind in self.parts]
        last = kinds.index(what) + 1 if what in kinds else len(words)
        return " ".join(word for word in words[:last] if word)


def element_text(elements: tuple[str, ...]) -> str:
    """The words for one or two elements."""
    return f"with {' and '.join(elements)}"


def random_blank(rng: np.random.Generator) -> Prompt:
    """The empty prompt, or a list of what is not wanted."""
    count = int(rng.integers(1, 5)) if rng.random() < 0.6 else 0
    words = ", ".join(str(word) for word in rng.choice(NEGATIVE, count, replace=False))
    return Prompt(((words, ""),), blank=True)


def random_prompt(rng: np.random.Generator) -> Prompt:
    """Content 80 %, style 72 %, elements 40 %; mostly in the order content, elements, style."""
    if rng.random() < 0.08:
        return random_blank(rng)
    glyph = NAMED_GLYPHS[rng.integers(len(NAMED_GLYPHS))] if rng.random() < 0.8 else None
    styles = named_styles()
    style = styles[rng.integers(len(styles))] if rng.random() < 0.72 else None
    count = int(rng.choice((0, 1, 2), p=(0.6, 0.25, 0.15)))
    names = tuple(str(name) for name in rng.choice(ELEMENTS, count, replace=False))
    neutral = NEUTRAL_CONTENT[rng.integers(len(NEUTRAL_CONTENT))]
    parts: list[tuple[str, str]] = [(content_text(glyph), "content") if glyph else (neutral, "")]
    if glyph and rng.random() < 0.1:
        parts = [(glyph, "content")]
    if names:
        parts.append((element_text(names), "elements"))
    if style:
        parts.append((f"{'in' if rng.random() < 0.7 else ','} {style_text(*style)}", "style"))
    elif rng.random() < 0.3:
        parts.append((NEUTRAL_STYLE[rng.integers(len(NEUTRAL_STYLE))], ""))
    if len(parts) == 3 and rng.random() < 0.2:
        parts[1], parts[2] = parts[2], parts[1]
    if rng.random() < 0.1:
        parts.insert(0, (FILLERS[rng.integers(len(FILLERS))], ""))
    if not glyph and style and rng.random() < 0.3:
        parts = [(style_text(*style), "style")] + [part for part in parts if part[1] == "elements"]
    return Prompt(tuple(parts), glyph, style, names)
