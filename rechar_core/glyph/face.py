"""Opens and checks a font file: one face, with given values of its variation axes."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from unicodedata import normalize

from ..errors import FileError
from .library import SUFFIXES, is_font_name

if TYPE_CHECKING:
    import uharfbuzz as hb

_OUTLINES = {"glyf", "CFF ", "CFF2"}
_COLOURED = {"CBDT", "sbix", "COLR", "SVG ", "EBDT"}
_HEADERS = (b"\0\1\0\0", b"OTTO", b"true")
_AXIS_NAMES = {"weight": "wght", "width": "wdth", "slant": "slnt", "italic": "ital"}
_SETTING = re.compile(r"([A-Za-z]\w{3,})\s*[=:\s]\s*([-+]?(?:\d+\.?\d*|\.\d+))(?![\w.])")


@dataclass(frozen=True)
class Face:
    """An opened font. All lengths are in font units; an em has `upem` units."""

    name: str
    upem: int
    coloured: bool  # has colour or bitmap glyphs, which we cannot draw
    font: hb.Font

    def has(self, character: str) -> bool:
        """Whether the font maps the character to a glyph."""
        return bool(self.font.get_nominal_glyph(ord(character)))


def open_face(path: Path, index: int = 0, variations: str = "") -> Face:
    """Opens face `index` of a font file (a .ttc or .otc has several), with variations, see `_written`.

    Raises FileError if the file is missing or damaged, or has no outlines, no such face or no such axis.
    """
    import uharfbuzz as hb

    data = _read(path)
    tables = _checked(path, data, index)
    face = hb.Face(hb.Blob(data), index)
    if not face.glyph_count:
        raise FileError(f"The font {path.name} is damaged: it has no glyphs. Install it again.")
    font = hb.Font(face)
    if settings := _settings(path.name, face, variations):
        font.set_variations(settings)
    return Face(path.name, face.upem, bool(_COLOURED & set(tables)), font)


def _read(path: Path) -> bytes:
    if not is_font_name(path.name):
        raise FileError(f"{path.name} is not a font that can be read; use one of {', '.join(SUFFIXES)}.")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise FileError(f"There is no font file at {path}; check the path.") from None
    except OSError as error:
        raise FileError(f"The font {path} cannot be read ({error.strerror or error}).") from None


def _checked(path: Path, data: bytes, index: int) -> dict[str, tuple[int, int]]:
    """The tables of face `index`. Raises FileError if the font is cut short or cannot be drawn."""
    import io

    tables = read_tables(path, io.BytesIO(data), index)
    for tag, (offset, length) in tables.items():
        if offset + length > len(data):
            raise FileError(
                f"The font {path.name} is cut short (its table '{tag.strip()}'); install it again."
            )
    if not _OUTLINES & set(tables):
        what = "only bitmap or colour glyphs" if _COLOURED & set(tables) else "no outlines"
        raise FileError(f"The font {path.name} holds {what}; choose an outline font.")
    return tables


def read_tables(path: Path, file: BinaryIO, index: int = 0) -> dict[str, tuple[int, int]]:
    """Tag to (offset, length) of the tables of face `index`. Raises FileError if this is not a font."""
    try:
        start, header = 0, file.read(12)
        if header[:4] == b"ttcf":
            count = struct.unpack(">I", header[8:12])[0]
            if not 0 <= index < count:
                raise FileError(
                    f"{path.name} holds {count} faces, numbered from 0; there is no face {index}."
                )
            file.seek(12 + 4 * index)
            start = struct.unpack(">I", file.read(4))[0]
            file.seek(start)
            header = file.read(12)
        elif index:
            raise FileError(f"{path.name} is a single font, not a collection; set the face to 0.")
        if header[:4] not in _HEADERS:
            raise FileError(f"{path.name} is not a font file or is damaged; install it again.")
        records = [struct.unpack(">4sIII", file.read(16)) for _ in range(struct.unpack(">H", header[4:6])[0])]
    except struct.error:
        raise FileError(f"The font {path.name} is cut short; install it again.") from None
    return {tag.decode("latin-1"): (offset, length) for tag, _, offset, length in records}


def _settings(name: str, face: Any, variations: str) -> dict[str, float]:
    """ "wght=700, wdth=85" as {"wght": 700.0, ...}, each within its axis. Raises FileError."""
    axes = {axis.tag: axis for axis in face.axis_infos}
    legal = ", ".join(f"{t}={a.min_value:g}..{a.max_value:g}" for t, a in axes.items())
    settings = {}
    for tag, number in _written(variations):
        if not axes:
            raise FileError(f"{name} is not a variable font; leave its variations empty.")
        axis = axes.get(tag) or axes.get(_AXIS_NAMES.get(tag.lower(), tag.lower())) or axes.get(tag.upper())
        if axis is None or number is None:
            what = tag if number is None else f"{tag}={number:g}"
            raise FileError(f"'{what}' is not a variation of {name}; it has {legal}.")
        if not axis.min_value <= number <= axis.max_value:
            raise FileError(
                f"{tag} of {name} runs from {axis.min_value:g} to {axis.max_value:g}, not {number:g}."
            )
        settings[axis.tag] = number
    return settings


def _written(variations: str) -> list[tuple[str, float | None]]:
    """Axes with their values in any usual spelling; what is none of them comes with None.

    "wght=700, wdth=85" (fontTools), 'font-variation-settings: "wght" 700' (CSS), "wdth,wght@85,700" (Google Fonts),
    {"wght": 700} (JSON), full-width signs.
    """
    text = normalize("NFKC", variations).replace("\u3001", ",")
    text = re.sub(r"font-variation-settings|[{}\"']", " ", text)
    if "@" in text:
        tags, numbers = (half.split(",") for half in text.split("@", 1))
        text = ", ".join(f"{tag} {number}" for tag, number in zip_longest(tags, numbers, fillvalue="?"))
    found: list[tuple[str, float | None]] = [(t, float(n)) for t, n in _SETTING.findall(text)]
    rest = re.sub(r"[\s,;:]+", " ", _SETTING.sub(",", text)).strip()
    return [*found, (rest, None)] if rest else found


def covering(characters: Iterable[str], fonts: Mapping[str, Path]) -> list[str]:
    """Names of the fonts that have all `characters`. Reads only their character maps; skips damaged files."""
    codes = [ord(character) for character in characters]
    return [name for name, path in fonts.items() if _covers(path, codes)]


def _covers(path: Path, codes: list[int]) -> bool:
    import uharfbuzz as hb

    try:
        with path.open("rb") as file:
            tables = read_tables(path, file)
            if "cmap" not in tables or not _OUTLINES & set(tables):
                return False
            file.seek(tables["cmap"][0])
            cmap = file.read(tables["cmap"][1])
    except (FileError, OSError, struct.error):
        return False
    face = hb.Face.create_for_tables(lambda _, tag, __: cmap if tag == "cmap" else None, None)
    font = hb.Font(face)
    return all(font.get_nominal_glyph(code) for code in codes)
