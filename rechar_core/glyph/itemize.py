"""Divides a line into runs of one direction, one script and one font, each of which HarfBuzz shapes (itemization)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from unicodedata import category, normalize

from .bidi import base_level, levels, visual_order
from .errors import GlyphError
from .face import Face

VERTICAL = (
    "Mong",
    "Phag",
)  # scripts of vertical lines from left to right; their fonts hold the letters lying
# Scripts whose letters stand upright in vertical text; letters of other scripts join or attach along the line.
_UPRIGHT_AMONG_VERTICAL = {"Bopo", "Hang", "Hani", "Hira", "Kana", "Yiii"}
_STACKING = {"Armn", "Cyrl", "Geor", "Grek", "Hebr", "Latn", *_UPRIGHT_AMONG_VERTICAL}
_JOINERS = "\u200c\u200d\u180e"  # zero width non-joiner and joiner, Mongolian vowel separator


@dataclass(frozen=True)
class Run:
    """text[start:end]. level: of UAX #9, odd is right-to-left. turned: set along a vertical line, lying."""

    start: int
    end: int
    level: int
    script: str | None
    face: Face
    turned: bool


def writing_mode(text: str, direction: str) -> str:
    """CSS's "horizontal-tb", "vertical-rl" or "vertical-lr" for a direction of `shaping.DIRECTIONS`.

    A text whose first letter is Mongolian or Phags-pa is vertical, unless the direction is horizontal or rtl.
    """
    first = next((script for script in map(script_of, text) if script), None)
    if direction in ("auto", "vertical") and first in VERTICAL:
        return "vertical-lr"
    return "vertical-rl" if direction == "vertical" else "horizontal-tb"


def runs_of(text: str, where: tuple[int, int], direction: str, mode: str, faces: Sequence[Face]) -> list[Run]:
    """The runs of text[start:end], in visual order. mode: from `writing_mode`. faces: the first that has it draws it.

    Raises GlyphError for scripts that cannot be set vertically.
    """
    start, end = where
    line = text[start:end]
    scripts, fonts = _scripts(line), _fonts(line, faces)
    turned = [_turned(script, mode) for script in scripts]
    if mode == "horizontal-tb":
        at = levels(line, {"auto": base_level(line), "horizontal": 0, "rtl": 1}[direction])
    elif mode == "vertical-lr":
        at = levels(line, 0)
    else:
        at = [0] * len(line)
    runs = []
    keys = list(zip(at, scripts, fonts, turned))
    for (level, script, font, turn), group in groupby(range(len(line)), key=keys.__getitem__):
        inside = list(group)
        runs.append(Run(start + inside[0], start + inside[-1] + 1, level, script, faces[font], turn))
    return visual_order(runs, [run.level for run in runs])


def _turned(script: str | None, mode: str) -> bool:
    """Whether a script's letters lie in lines of this mode. Raises GlyphError if they can neither lie nor stand."""
    if mode == "horizontal-tb" or script in _UPRIGHT_AMONG_VERTICAL:
        return False
    if mode == "vertical-lr" or script in VERTICAL:
        return True
    if script and script not in _STACKING:
        raise GlyphError(
            f"Letters of this script ({script}) hang together along a horizontal line; "
            "choose the direction auto instead of vertical."
        )
    return False


def _scripts(line: str) -> list[str | None]:
    """The script of every character; punctuation, digits and marks get that of the letter before, else after."""
    scripts = [script_of(character) for character in line]
    for order, neighbour in ((range(1, len(scripts)), -1), (range(len(scripts) - 2, -1, -1), 1)):
        for i in order:
            scripts[i] = scripts[i] or scripts[i + neighbour]
    return scripts


@cache
def script_of(character: str) -> str | None:
    """HarfBuzz's script of a character ("Latn"); None for characters that scripts share."""
    import uharfbuzz as hb

    buffer = hb.Buffer()
    buffer.add_codepoints([ord(character)])
    buffer.guess_segment_properties()
    script = buffer.script
    return None if script in (None, "", "Zyyy", "Zinh", "Zzzz") else str(script)


def _fonts(line: str, faces: Sequence[Face]) -> list[int]:
    """For every character, the number of the face that draws it. Spaces stay with what is before them."""
    numbers: list[int] = []
    for cluster in _clusters(line):
        if cluster.isspace() and numbers:
            number = numbers[-1]
        else:
            number = _first_with(cluster, faces)
        numbers += [number] * len(cluster)
    return numbers


def _first_with(cluster: str, faces: Sequence[Face]) -> int:
    """The number of the first face that has all of a cluster, else of the first that has its letter, else 0."""
    whole = (n for n, face in enumerate(faces) if _has(face, cluster))
    letter = (n for n, face in enumerate(faces) if _has(face, cluster[0]))
    return next(whole, next(letter, 0))


def _clusters(line: str) -> list[str]:
    """The line in pieces that one font must draw: a character with the marks, selectors and joiners after it."""
    clusters: list[str] = []
    for character in line:
        if clusters and (character in _JOINERS or category(character).startswith("M")):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def _has(face: Face, cluster: str) -> bool:
    """Whether the face has all of a cluster that is drawn, as it is or composed (é for e and an accent)."""
    return any(
        all(face.has(c) or c in _JOINERS or _is_selector(c) for c in form)
        for form in (cluster, normalize("NFC", cluster))
    )


def _is_selector(character: str) -> bool:
    """Variation selectors choose a form of a glyph; a font without the form draws its usual one."""
    code = ord(character)
    return 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or 0x180B <= code <= 0x180F
