"""Lists the fonts: ours, the user's and the system's. Only file names are read, no font is opened."""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import FileError

SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_SHIPPED = Path(__file__).parents[1] / "fonts"
SHIPPED: dict[str, Path] = {
    "ReChar CJK": _SHIPPED / "ReCharCJK.otf",
    "ReChar Arabic": _SHIPPED / "ReCharArabic.ttf",
    "ReChar Devanagari": _SHIPPED / "ReCharDevanagari.ttf",
}


def is_font_name(name: str) -> bool:
    """Whether a file of this name can be an outline font that we read."""
    return name.lower().endswith(SUFFIXES)


def known(more: Mapping[str, Path] | None = None) -> dict[str, Path]:
    """Name -> file: our fonts, then `more` (as from `fonts_in`), then the system's as "system/<file name>"."""
    return {**SHIPPED, **dict(more or {}), **_system_fonts(_system_folders())}


def fonts_in(folder: Path) -> dict[str, Path]:
    """Every font file below the folder: relative path -> file, sorted. Symbolic links are followed."""
    fonts = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in filter(is_font_name, names):
            path = Path(parent, name)
            fonts[path.relative_to(folder).as_posix()] = path
    return dict(sorted(fonts.items()))


def find(name: str, fonts: Mapping[str, Path]) -> Path:
    """The file of a known name, or of the full path of a font file on this computer.

    Relative paths and network paths are refused: a name from a graph never leaves the listed folders.
    Raises FileError.
    """
    name = name.strip().strip('"')  # Windows' file manager copies paths with quotes
    if name in fonts:
        return fonts[name]
    path = Path(name)
    network = set(name[:2]) <= {"\\", "/"} and len(name) > 1  # Windows takes either slash, mixed too
    if path.is_absolute() and not network and is_font_name(name):
        if not path.is_file():
            raise FileError(f"There is no font file at {name}; check the path.")
        return path
    if path.is_absolute() or network:
        raise FileError(f"'{name}' is not the full path of a font file here ({', '.join(SUFFIXES)}).")
    near = difflib.get_close_matches(name, list(fonts), n=3, cutoff=0.5)
    hint = f" Similar: {', '.join(near)}." if near else ""
    raise FileError(
        f"There is no font '{name}'.{hint} Put the file into models/fonts, or give its full path."
    )


def fallback(names: str, fonts: Mapping[str, Path], first: Path) -> list[Path]:
    """The files that draw what the font `first` lacks: `names`, separated by commas or line breaks, then ours.

    A path that holds a comma stands in double quotes. Raises FileError for a name that `find` does not know.
    """
    written = re.findall(r'"([^"]+)"|([^",;，、；\n]+)', names)
    named = [find(name, fonts) for name in map("".join, written) if name.strip()]
    return [path for path in dict.fromkeys([*named, *SHIPPED.values()]) if path != first]


def _system_folders() -> tuple[Path, ...]:
    """The font folders of this system, those of the user first."""
    home = Path.home()
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
        windows = Path(os.environ.get("WINDIR", "C:/Windows"))
        return (local / "Microsoft" / "Windows" / "Fonts", windows / "Fonts")
    if sys.platform == "darwin":
        return (home / "Library" / "Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts"))
    data = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
    return (data / "fonts", home / ".fonts", Path("/usr/local/share/fonts"), Path("/usr/share/fonts"))


def _system_fonts(folders: Iterable[Path]) -> dict[str, Path]:
    """Every font file below `folders`, sorted by name; of two with the same name, that of the first folder."""
    fonts: dict[str, Path] = {}
    for folder in folders:
        for parent, inner, names in os.walk(folder):  # os.walk skips folders that it may not read
            inner.sort()
            for name in filter(is_font_name, names):
                fonts.setdefault(f"system/{name}", Path(parent, name))
    return dict(sorted(fonts.items()))
