"""Random prompts with what they mean, and from which token on it is known."""

from dataclasses import dataclass

import numpy as np

from .catalog import ELEMENTS, NAMED_GLYPHS, Palette, content_text, element_text, named_styles, style_text

NEUTRAL_CONTENT = (
    "A [v]",
    "A [c]",
    "A [s]",
    "a character",
    "a glyph",
    "a letter",
    "[v]",
    "a picture of [v]",
    "art",
)
NEUTRAL_STYLE = ("in [s] style", "in the style of [v]", "in the style of [s]", "style", "")
FILLERS = (
    "beautiful",
    "photo of",
    "a drawing of",
    "logo",
    "poster of",
    "high quality",
    "simple",
    "decorated",
    "art of",
)


@dataclass(frozen=True)
class Prompt:
    """Words in order. Each part holds its text and what it settles: "content", "style", "elements" or nothing."""

    parts: tuple[tuple[str, str], ...]
    glyph: str | None
    style: tuple[str, Palette] | None
    elements: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(words for words, _ in self.parts if words)

    def before(self, what: str) -> str:
        """The text up to the end of the part that settles `what` (the whole text if none does)."""
        words = [part for part, _ in self.parts]
        kinds = [kind for _, kind in self.parts]
        last = kinds.index(what) + 1 if what in kinds else len(words)
        return " ".join(word for word in words[:last] if word)


def random_prompt(rng: np.random.Generator) -> Prompt:
    """Content 80 %, style 70 %, elements 40 %; mostly in the order content, elements, style."""
    if rng.random() < 0.03:
        return Prompt((), None, None, ())
    glyph = NAMED_GLYPHS[rng.integers(len(NAMED_GLYPHS))] if rng.random() < 0.8 else None
    styles = named_styles()
    style = styles[rng.integers(len(styles))] if rng.random() < 0.7 else None
    names = tuple(
        str(name) for name in rng.choice(ELEMENTS, rng.choice((0, 1, 2), p=(0.6, 0.25, 0.15)), replace=False)
    )
    neutral = NEUTRAL_CONTENT[rng.integers(len(NEUTRAL_CONTENT))]
    parts: list[tuple[str, str]] = [(content_text(glyph), "content") if glyph else (neutral, "")]
    if glyph and rng.random() < 0.1:
        parts = [(glyph, "content")]
    if names:
        parts.append((element_text(names).strip(), "elements"))
    if style:
        joint = "in" if rng.random() < 0.8 else ","
        parts.append((f"{joint} {style_text(*style)}", "style"))
    elif rng.random() < 0.3:
        parts.append((NEUTRAL_STYLE[rng.integers(len(NEUTRAL_STYLE))], ""))
    if len(parts) == 3 and rng.random() < 0.25:
        parts[1], parts[2] = parts[2], parts[1]
    if rng.random() < 0.1:
        parts.insert(0, (FILLERS[rng.integers(len(FILLERS))], ""))
    if not glyph and style and rng.random() < 0.2:
        parts = [(style_text(*style), "style")] + [part for part in parts if part[1] == "elements"]
    return Prompt(tuple(parts), glyph, style, names)
