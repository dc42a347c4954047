"""Files in the host's folders: names from a graph never leave them."""

from __future__ import annotations

import os
from pathlib import Path

from ...rechar_core.errors import FileError, readable

LORAS = "loras"


def roots(category: str) -> list[Path]:
    """The folders of a category, models/CATEGORY among them; users may set others. New files go into the first."""
    import folder_paths

    folder_paths.add_model_folder_path(category, str(Path(folder_paths.models_dir) / category))
    return [Path(os.path.abspath(folder)) for folder in folder_paths.get_folder_paths(category)]


def file_names(category: str) -> list[str]:
    """The .safetensors files of a category, as the host lists them."""
    import folder_paths

    roots(category)  # the host must know the category
    return [n for n in folder_paths.get_filename_list(category) if n.lower().endswith(".safetensors")]


def file_path(category: str, name: str, kind: str) -> Path:
    """The file of a listed name. Raises FileError if it is not there. kind: what it is, for the error."""
    import folder_paths

    path = folder_paths.get_full_path(category, name)
    if path is None:
        folder = roots(category)[0]
        raise FileError(
            f"There is no {kind} '{name}' in {folder}; put it there, or refresh the page and choose one from the list."
        )
    return Path(path)


def inside(folder: Path, name: str) -> Path:
    """`folder / name` without ".safetensors", for an absolute folder.

    Raises FileError, saying why, if the name leads out of the folder or is none on every system: what is saved on Linux
    is copied to Windows.
    """
    clean = name.strip().replace("\\", "/").removesuffix(".safetensors")
    path = Path(os.path.normpath(folder / clean))  # not resolved: symbolic links in the folder are the user's
    why = next((why for part in clean.split("/") if (why := _no_name(part))), "")
    if why or folder not in path.parents:
        raise FileError(
            f"'{name}' cannot be a file name in {folder.name}: {why or 'it leads out of that folder'}. "
            "Use letters, digits and '/' for a subfolder."
        )
    return path


_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³")}
_LONGEST = 200  # bytes of a part in UTF-8: most file systems allow 255, and endings are added


def _no_name(part: str) -> str:
    """Why this part of a path cannot be a name on every system; "" if it can."""
    if not part:
        return "it has an empty part"
    if part in (".", ".."):
        return f"it has a part '{part}'"
    if readable(part) != part or any(c in '<>:"|?*' for c in part):
        return "it has a character that file names cannot have, or cannot show"
    if part != part.strip(" ").rstrip("."):
        return "a part of it begins with a space, or ends with a space or dot"
    if part.split(".")[0].rstrip().lower() in _RESERVED:
        return f"'{part}' is the name of a device on Windows"
    if len(part.encode("utf-8")) > _LONGEST:
        return f"it is longer than {_LONGEST} bytes"
    return ""


def cache_folder() -> Path:
    """Where finished trainings are kept, so that an unchanged job is never trained twice."""
    import folder_paths

    folder = Path(folder_paths.get_user_directory()) / "rechar" / "trainings"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
