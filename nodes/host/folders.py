"""Files in the host's folders: names from a graph never leave them."""

from __future__ import annotations

import os
from pathlib import Path

from ...rechar_core.errors import FileError

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
    """`folder / name`, for an absolute folder. Raises FileError if the name is empty or leads out of it."""
    clean = name.strip().replace("\\", "/").removesuffix(".safetensors")
    path = Path(os.path.normpath(folder / clean))  # not resolved: symbolic links in the folder are the user's
    forbidden = any(c in '<>:"|?*' or ord(c) < 32 for c in clean)
    if not clean or clean.endswith("/") or forbidden or folder not in path.parents:
        raise FileError(
            f"'{name}' cannot be a file name in {folder.name}; use letters, digits and '/' for a subfolder."
        )
    return path


def cache_folder() -> Path:
    """Where finished trainings are kept, so that an unchanged job is never trained twice."""
    import folder_paths

    folder = Path(folder_paths.get_user_directory()) / "rechar" / "trainings"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
