"""Model folders in transformers' layout: loading, and errors that name the missing files."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import FileError, ModelError, first_line, listed

WEIGHTS = ("config.json", "model.safetensors")
WITH_WORDS = (*WEIGHTS, "tokenizer_config.json")  # of a model that reads text
_SAFELY = {"local_files_only": True, "trust_remote_code": False}


def pretrained(kind: str, folder: Path, what: str) -> Any:
    """transformers' model of class `kind` from a local folder, frozen; nothing is downloaded, none of its code is run.

    It is loaded outside inference_mode, or no gradient could ever pass it. Raises ModelError if the installed
    transformers has no such class, if the folder does not contain `what`, or if a weight is missing
    (transformers would initialise it at random).
    """
    import torch
    import transformers

    if not hasattr(transformers, kind):
        raise ModelError(
            f"transformers {transformers.__version__} is too old for {what} (it has no {kind}): upgrade it with "
            "'pip install --upgrade transformers'."
        )
    with torch.inference_mode(False), _reading(folder, what):
        model, report = getattr(transformers, kind).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **_SAFELY
        )
    if lacking := sorted(report["missing_keys"]):
        raise ModelError(f"{folder} is not {what} that can be used: its weights lack {listed(lacking, 3)}.")
    return model.eval().requires_grad_(False)


def tokenizer_of(folder: Path, what: str) -> Any:
    """The tokenizer in a model's folder. Raises ModelError if it cannot be read."""
    from transformers import AutoTokenizer

    with _reading(folder, what):
        return AutoTokenizer.from_pretrained(folder, **_SAFELY)


def need_files(folder: Path, names: Iterable[str], what: str) -> None:
    """Raises FileError naming the folder and every file it lacks; what: what belongs there, and where it is from."""
    missing = [name for name in names if not (folder / name).is_file()]
    pickled = " (pytorch_model.bin is never loaded; save it as .safetensors with transformers)"
    if missing:
        hint = pickled if (folder / "pytorch_model.bin").is_file() else ""
        raise FileError(
            f"The folder {folder} lacks {', '.join(missing)}{hint}: put {what} there. Nothing is downloaded for you."
        )


def model_type(folder: Path) -> str:
    """The model_type in the folder's config.json ("clip", "clipseg", "llama"), "" if there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    return str(config.get("model_type", "")) if isinstance(config, dict) else ""


def folders_of(root: Path, kinds: Iterable[str]) -> list[str]:
    """Names of the folders directly in `root` that contain a model of one of these types."""
    kinds = set(kinds)
    if not root.is_dir():
        return []
    return sorted(f.name for f in root.iterdir() if f.is_dir() and model_type(f) in kinds)


@contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    """Turns any error of transformers about a folder into a ModelError that names it and `what` it should be."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        raise ModelError(f"{folder} is not {what} that transformers can read: {first_line(error)}") from None
