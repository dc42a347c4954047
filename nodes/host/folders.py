"""LoRA files in the host's folders: names from a graph never leave them."""

from __future__ import annotations

import os
from pathlib import Path

from ...rechar_core.errors import FileError


def lora_names() -> list[str]:
    """Names of all LoRA files the host knows, as its own loader lists them."""
    import folder_paths

    return [name for name in folder_paths.get_filename_list("loras") if name.lower().endswith(".safetensors")]


def lora_path(name: str) -> Path:
    """The file of a listed name. Raises FileError if it is gone."""
    import folder_paths

    found = folder_paths.get_full_path("loras", name)
    if found is None:
        raise FileError(
            f"There is no LoRA file '{name}' in models/loras; refresh the page and choose one from the list."
        )
    return Path(found)


def new_lora_folder() -> Path:
    """Where new LoRA files go: the first of the host's LoRA folders."""
    import folder_paths

    return Path(os.path.abspath(folder_paths.get_folder_paths("loras")[0]))


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, for an absolute folder. Raises FileError if the name is empty or leads out of it."""
    clean = name.strip().replace("\\", "/").removesuffix(".safetensors")
    path = Path(os.path.normpath(folder / clean))  # links inside the folder are the user's own and stay
    odd = any(c in '<>:"|?*' or ord(c) < 32 for c in clean)
    if not clean or clean.endswith("/") or odd or folder not in path.parents:
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
