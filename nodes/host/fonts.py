"""The user's own fonts, in models/fonts and wherever else the host's configuration names fonts."""

from __future__ import annotations

from pathlib import Path

from ...rechar_core.glyph.library import is_font_name, known

CATEGORY = "fonts"


def all_fonts() -> dict[str, Path]:
    """Name to file of every font: shipped, the user's, the system's. A listing; no file is opened."""
    import folder_paths

    folder_paths.add_model_folder_path(CATEGORY, str(Path(folder_paths.models_dir) / "fonts"))
    own = {}
    for name in filter(is_font_name, folder_paths.get_filename_list(CATEGORY)):
        if path := folder_paths.get_full_path(CATEGORY, name):
            own[name] = Path(path)
    return known(own)
