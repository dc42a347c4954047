"""Shapes text with HarfBuzz: lines, runs of one direction and script, positioned glyphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import name as unicode_name

from ..errors import check_choice, listed
from .bidi import base_level, levels, visual_order
from .errors import GlyphError
from .face import Face, covering

if TYPE_CHECKING:
    import uharfbuzz as hb

DIRECTIONS = ("auto", "horizontal", "vertical", "rtl")
MOST_CHARACTERS = 1000
# Scripts whose letters can be set vertically; letters of other scripts join or attach along the line.
_STACKING = {"Armn", "Bopo", "Cyrl", "Geor", "Grek", "Hang", "Hani", "Hebr", "Hira", "Kana", "Latn", "Yiii"}


@dataclass(frozen=True)
class Placed:
    """A glyph and its position relative to the start of the line, in font units, y upwards."""

    glyph: int
    x: float
    y: float
    cluster: int  # where in the text its character begins


@dataclass(frozen=True)
class Line:
    """One line of text from left to right, or one column from top to bottom."""

    glyphs: tuple[Placed, ...]
    advance: float  # font units along the line, never negative


@dataclass(frozen=True)
class _Run:
    start: int
    end: int
    level: int
    script: str | None


def shape(
    text: str, face: Face, direction: str, language: str = "", fonts: Mapping[str, Path] | None = None
) -> tuple[Line, ...]:
    """Shapes every line of `text` (separated by newlines).

    direction: "auto" (by the first letter of each line), "horizontal" (left to right), "rtl", "vertical".
    language: a BCP 47 tag that selects regional forms ("zh-Hant", "ur"); empty is the font's default.
    fonts: fonts to search and suggest if a character is missing.
    Raises GlyphError if the text is empty or too long, a character has no glyph, or a setting is unknown.
    """
    check_choice("direction", direction, DIRECTIONS, GlyphError)
    if not text.strip():
        raise GlyphError("The text is empty; write one or several characters.")
    if len(text) > MOST_CHARACTERS:
        raise GlyphError(f"The text has {len(text)} characters; at most {MOST_CHARACTERS} can be drawn.")
    lines, missing, start = [], "", 0
    for part in text.split("\n"):
        glyphs, advance, lacking = _line(text, (start, start + len(part)), face, direction, language)
        lines.append(Line(glyphs, advance))
        missing += lacking
        start += len(part) + 1
    if missing:
        in_order = "".join(character for character in text if character in missing)
        raise GlyphError(_missing_message(in_order, face, fonts or {}))
    return tuple(lines)


def _line(
    text: str, where: tuple[int, int], face: Face, direction: str, language: str
) -> tuple[tuple[Placed, ...], float, str]:
    """Glyphs and advance of text[start:end], and its characters without a glyph."""
    x = y = 0.0
    placed: list[Placed] = []
    missing = ""
    for run in _runs(text, where, direction):
        way = "ttb" if direction == "vertical" else ("rtl" if run.level % 2 else "ltr")
        infos, positions = _shape_run(text, run, face, way, language)
        for info, at in zip(infos, positions):
            if info.codepoint:
                placed.append(Placed(info.codepoint, x + at.x_offset, y + at.y_offset, info.cluster))
            x, y = x + at.x_advance, y + at.y_advance
        missing += _missing(text, run, face, infos)
    return tuple(placed), abs(y) if direction == "vertical" else abs(x), missing


def _runs(text: str, where: tuple[int, int], direction: str) -> list[_Run]:
    """Runs of one direction and one script, in visual order."""
    start, end = where
    line = text[start:end]
    scripts = _scripts(line)
    if direction == "vertical":
        if others := sorted({script for script in scripts if script} - _STACKING):
            raise GlyphError(
                f"Letters of this script ({', '.join(others)}) hang together along a horizontal line; "
                "choose the direction auto instead of vertical."
            )
        at = [0] * len(line)
    else:
        at = levels(line, {"auto": base_level(line), "horizontal": 0, "rtl": 1}[direction])
    runs = []
    for (level, script), group in groupby(range(len(line)), key=lambda i: (at[i], scripts[i])):
        inside = list(group)
        runs.append(_Run(start + inside[0], start + inside[-1] + 1, level, script))
    return visual_order(runs, [run.level for run in runs])


def _scripts(line: str) -> list[str | None]:
    """The script of every character; punctuation, digits and marks get that of the letter before, else after."""
    scripts = [_script(character) for character in line]
    for order, neighbour in ((range(1, len(scripts)), -1), (range(len(scripts) - 2, -1, -1), 1)):
        for i in order:
            scripts[i] = scripts[i] or scripts[i + neighbour]
    return scripts


@cache
def _script(character: str) -> str | None:
    """HarfBuzz's script of a character ("Latn"); None for characters that scripts share."""
    import uharfbuzz as hb

    buffer = hb.Buffer()
    buffer.add_codepoints([ord(character)])
    buffer.guess_segment_properties()
    script = buffer.script
    return None if script in (None, "", "Zyyy", "Zinh", "Zzzz") else str(script)


def _shape_run(
    text: str, run: _Run, face: Face, way: str, language: str
) -> tuple[Sequence[hb.GlyphInfo], Sequence[hb.GlyphPosition]]:
    """HarfBuzz's glyph infos and positions, left to right or top to bottom."""
    import uharfbuzz as hb

    buffer = hb.Buffer()  # with the whole text as context, because letters join across runs
    buffer.add_codepoints([ord(character) for character in text], run.start, run.end - run.start)
    buffer.direction = way
    if run.script:
        buffer.script = run.script
    buffer.guess_segment_properties()
    buffer.language = language or "und"  # never the locale of the machine
    hb.shape(face.font, buffer)
    return buffer.glyph_infos, buffer.glyph_positions or []


def _missing(text: str, run: _Run, face: Face, infos: Sequence[hb.GlyphInfo]) -> str:
    """The characters of the run without a glyph; a missing space does not count."""
    starts = sorted({info.cluster for info in infos} | {run.end})
    missing = ""
    for cluster in (info.cluster for info in infos if not info.codepoint):
        characters = text[cluster : starts[starts.index(cluster) + 1]].strip()
        missing += "".join(c for c in characters if not face.has(c)) or characters
    return missing


def _missing_message(missing: str, face: Face, fonts: Mapping[str, Path]) -> str:
    unique = list(dict.fromkeys(missing))
    named = listed((f"'{c}' (U+{ord(c):04X} {unicode_name(c, 'without a name')})" for c in unique), 5)
    return f"The font {face.name} has no glyph for {named}. {_advice(unique, fonts)}"


def _advice(characters: list[str], fonts: Mapping[str, Path]) -> str:
    """Names the fonts that have all characters or, if there are none, fonts for each character."""
    if having := covering(characters, fonts):
        return f"Fonts that have {'it' if len(characters) == 1 else 'them'}: {listed(having, 6)}."
    if len(characters) == 1:
        return "No font known here has it: put one that does into models/fonts."
    each = (f"'{c}' {listed(covering([c], fonts), 2) or 'in none'}" for c in characters[:5])
    return f"No font known here has them all; found: {'; '.join(each)}."
