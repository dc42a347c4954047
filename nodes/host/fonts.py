"""The user's own fonts, in models/fonts and wherever else the host's configuration names fonts."""

from __future__ import annotations

from pathlib import Path

from ...rechar_core.glyph.library import fonts_in, known

CATEGORY = "fonts"


def all_fonts() -> dict[str, Path]:
    """Name to file of every font: shipped, the user's, the system's. A listing; no file is opened.

    The host's own listing is not used: where its category "fonts" is for .ttf and .otf alone, it leaves out .ttc.
    """
    import folder_paths

    folders = [Path(folder_paths.models_dir) / "fonts"]
    if CATEGORY in folder_paths.folder_names_and_paths:
        folders += map(Path, folder_paths.get_folder_paths(CATEGORY))
    fonts: dict[str, Path] = {}
    for folder in reversed(list(dict.fromkeys(folders))):  # of two of the same name, the first folder's
        fonts |= fonts_in(folder)
    return known(fonts)
