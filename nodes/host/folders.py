"""LoRA files in the host's folders: names from a graph never leave them."""

from __future__ import annotations

from pathlib import Path

from ...rechar_core.errors import FileError


def lora_names() -> list[str]:
    """Names of all LoRA files the host knows, as its own loader lists them."""
    import folder_paths

    return [name for name in folder_paths.get_filename_list("loras") if name.endswith(".safetensors")]


def lora_path(name: str) -> Path:
    """The file of a listed name. Raises FileError if it is gone."""
    import folder_paths

    found = folder_paths.get_full_path("loras", name)
    if found is None:
        raise FileError(
            f"There is no LoRA file '{name}' in models/loras; refresh the page and choose one from the list."
        )
    return Path(found)


def new_lora_path(name: str) -> Path:
    """Where a LoRA called `name` ("glyph" or "folder/glyph") is to be saved, in the first LoRA folder.

    Raises FileError if the name is empty or would leave that folder.
    """
    import folder_paths

    folder = Path(folder_paths.get_folder_paths("loras")[0]).resolve()
    return inside(folder, name)


def inside(folder: Path, name: str) -> Path:
    """`folder / name`. Raises FileError if the name is empty, absolute, or leads out of the folder."""
    clean = name.strip().replace("\\", "/").removesuffix(".safetensors")
    path = (folder / clean).resolve()
    if (
        not clean
        or clean.endswith("/")
        or any(c in clean for c in '<>:"|?*')
        or not path.is_relative_to(folder)
    ):
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
