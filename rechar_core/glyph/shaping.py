"""Shapes text with HarfBuzz: lines, runs of one direction, script and font, positioned glyphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import name as unicode_name

from ..errors import check_choice, listed
from .errors import GlyphError
from .face import Face, covering
from .itemize import Run, runs_of, script_of, writing_mode

if TYPE_CHECKING:
    import uharfbuzz as hb

DIRECTIONS = ("auto", "horizontal", "vertical", "rtl")
MOST_CHARACTERS = 1000
# CSS Text 3, "cursive scripts", and those whose letters hang from one line
_JOINED = {"Adlm", "Arab", "Mand", "Mong", "Nkoo", "Phag", "Rohg", "Sogd", "Syrc", "Beng", "Deva", "Guru"}


@dataclass(frozen=True)
class Placed:
    """A glyph and its position relative to the start of the line, in units of the first font, y upwards."""

    glyph: int
    face: Face
    x: float
    y: float
    cluster: int  # where in the text its character begins
    turned: bool = False  # by 90 degrees clockwise


@dataclass(frozen=True)
class Line:
    """One line of text from left to right, or one column from top to bottom."""

    glyphs: tuple[Placed, ...]
    advance: float  # units of the first font along the line, never negative


@dataclass(frozen=True)
class Shaping:
    """How a text is shaped. See `shape` for the fields."""

    direction: str = "auto"
    language: str = ""
    letter_spacing: float = 0.0

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, DIRECTIONS, GlyphError)
        if not -0.5 <= self.letter_spacing <= 4:
            raise GlyphError(f"The letter spacing is {self.letter_spacing:g} em; it must be -0.5 to 4.")


def shape(
    text: str, faces: Sequence[Face], settings: Shaping, fonts: Mapping[str, Path] | None = None
) -> tuple[tuple[Line, ...], str]:
    """Shapes every line of `text` (separated by newlines); the lines, and CSS's writing mode of all of them.

    faces: at least one; each character is drawn by the first that has it, on the same baseline and at the same em.
    direction: "auto" (vertical if the first letter of all is Mongolian or Phags-pa, else by the first letter of each
    line), "horizontal" (left to right), "rtl", "vertical". language: a BCP 47 tag that selects regional forms
    ("zh-Hant", "ur"); empty is the font's default. letter_spacing: em between two characters, -0.5..4; letters that
    join stay joined.
    fonts: fonts to search and suggest if a character is missing.
    Raises GlyphError if the text is empty or too long, or a character has no glyph.
    """
    if not text.strip():
        raise GlyphError("The text is empty; write one or several characters.")
    if len(text) > MOST_CHARACTERS:
        raise GlyphError(f"The text has {len(text)} characters; at most {MOST_CHARACTERS} can be drawn.")
    mode = writing_mode(text, settings.direction)
    lines, missing, start = [], "", 0
    for part in text.split("\n"):
        runs = runs_of(text, (start, start + len(part)), settings.direction, mode, faces)
        line = _LineShaper(text, faces[0].upem, settings, vertical=mode != "horizontal-tb")
        for run in runs:
            line.add(run)
        lines.append(line.line())
        missing += line.missing
        start += len(part) + 1
    if missing:
        in_order = "".join(character for character in text if character in missing)
        raise GlyphError(_missing_message(in_order, faces, fonts or {}))
    return tuple(lines), mode


class _LineShaper:
    """Collects the glyphs of a line, run after run."""

    def __init__(self, text: str, upem: int, settings: Shaping, *, vertical: bool) -> None:
        self.text, self.upem, self.settings, self.vertical = text, upem, settings, vertical
        self.glyphs: list[Placed] = []
        self.missing = ""
        self._at = 0.0  # along the line
        self._last = -1, False, 0.0  # the last cluster, whether its letter joins, where it begins

    def line(self) -> Line:
        """What was collected."""
        return Line(tuple(self.glyphs), abs(self._at))

    def add(self, run: Run) -> None:
        """Shape a run and put its glyphs at the end of the line."""
        upright = self.vertical and not run.turned
        way = "ttb" if upright else ("rtl" if run.level % 2 else "ltr")
        infos, positions = _shape_run(self.text, run, way, self.settings)
        scale = self.upem / run.face.upem
        extents = run.face.font.get_font_extents("ltr")
        middle = (extents.ascender + extents.descender) / 2  # lies on the centre of a column
        for info, at in zip(infos, positions):
            self._space(info.cluster)
            if upright:
                x, y = at.x_offset * scale, at.y_offset * scale - self._at
            elif run.turned:
                x, y = (at.y_offset - middle) * scale, -self._at - at.x_offset * scale
            else:
                x, y = self._at + at.x_offset * scale, at.y_offset * scale
            if info.codepoint:
                self.glyphs.append(Placed(info.codepoint, run.face, x, y, info.cluster, run.turned))
            self._at += (-at.y_advance if upright else at.x_advance) * scale
        self.missing += _missing(self.text, run, infos)

    def _space(self, cluster: int) -> None:
        """Letter spacing before a new character, unless it joins the one before; never back behind that one."""
        before, joined, start = self._last
        if before == cluster:
            return
        joins = script_of(self.text[cluster]) in _JOINED
        if self.glyphs and not (joins and joined):
            self._at = max(start, self._at + self.settings.letter_spacing * self.upem)
        self._last = cluster, joins, self._at


def _shape_run(
    text: str, run: Run, way: str, settings: Shaping
) -> tuple[Sequence[hb.GlyphInfo], Sequence[hb.GlyphPosition]]:
    """HarfBuzz's glyph infos and positions, left to right or top to bottom."""
    import uharfbuzz as hb

    buffer = hb.Buffer()  # with the whole text as context, because letters join across runs
    buffer.add_codepoints([ord(character) for character in text], run.start, run.end - run.start)
    buffer.direction = way
    if run.script:
        buffer.script = run.script
    buffer.guess_segment_properties()
    buffer.language = settings.language or "und"  # never the locale of the machine
    # letters that are spaced form no ligature
    hb.shape(run.face.font, buffer, {"liga": False, "clig": False} if settings.letter_spacing else {})
    return buffer.glyph_infos, buffer.glyph_positions or []


def _missing(text: str, run: Run, infos: Sequence[hb.GlyphInfo]) -> str:
    """The characters of the run without a glyph; a missing space does not count."""
    starts = sorted({info.cluster for info in infos} | {run.end})
    missing = ""
    for cluster in (info.cluster for info in infos if not info.codepoint):
        characters = text[cluster : starts[starts.index(cluster) + 1]].strip()
        missing += "".join(c for c in characters if not run.face.has(c)) or characters
    return missing


def _missing_message(missing: str, faces: Sequence[Face], fonts: Mapping[str, Path]) -> str:
    unique = list(dict.fromkeys(missing))
    named = listed((f"'{c}' (U+{ord(c):04X} {unicode_name(c, 'without a name')})" for c in unique), 5)
    names = listed((face.name for face in faces), 5)
    who = f"The font {names} has" if len(faces) == 1 else f"The fonts {names} have"
    return f"{who} no glyph for {named}. {_advice(unique, fonts)}"


def _advice(characters: list[str], fonts: Mapping[str, Path]) -> str:
    """Names the fonts that have all characters or, if there are none, fonts for each character."""
    if having := covering(characters, fonts):
        it = "it" if len(characters) == 1 else "them"
        return f"Fonts that have {it}: {listed(having, 6)}. Choose one, or write it into fallback_fonts."
    if len(characters) == 1:
        return "No font known here has it: put one that does into models/fonts."
    each = (f"'{c}' {listed(covering([c], fonts), 2) or 'in none'}" for c in characters[:5])
    return f"No font known here has them all; found: {'; '.join(each)}."
