"""Model folders in transformers' layout: what is in them, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FileError, ModelError


def need_files(folder: Path, names: Iterable[str], what: str) -> None:
    """Raises FileError naming the folder and every file it lacks; what: what belongs there, and where it is from."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileError(
            f"The folder {folder} lacks {', '.join(missing)}: put {what} there. Nothing is downloaded for you."
        )


def model_type(folder: Path) -> str:
    """What the folder's config.json calls its model ("clip", "clipseg", "llama"), "" if it says nothing."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def folders_of(root: Path, kinds: Iterable[str]) -> list[str]:
    """Names of the folders directly in `root` that hold a model of one of these types."""
    kinds = set(kinds)
    if not root.is_dir():
        return []
    return sorted(f.name for f in root.iterdir() if f.is_dir() and model_type(f) in kinds)


@contextmanager
def reading(folder: Path, what: str) -> Iterator[None]:
    """Whatever transformers raises over an unreadable folder, as one ModelError that names it and `what` it is not."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(f"{folder} is not {what} that transformers can read: {first}") from None
