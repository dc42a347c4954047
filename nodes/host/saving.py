"""Saving B-LoRAs into the host's loras folder."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...rechar_core.errors import FileError, LoraError, check_choice
from ...rechar_core.images import jpeg, rgb
from ...rechar_core.lora import files
from .folders import LORAS, inside, roots

if TYPE_CHECKING:
    from ...rechar_core.lora.blora import BLora


IF_EXISTS = ("next free name", "overwrite", "error")


def save(
    name: str, parts: dict[str, BLora | None], thumbnail: Any = None, if_exists: str = IF_EXISTS[0]
) -> list[str]:
    """Writes each B-LoRA as NAME_PART.safetensors; returns the names as the load nodes list them.

    name: "" for one made of the trigger. thumbnail: IMAGE (B, H, W, C) in 0..1, or None. if_exists: for files of these
    names; the next free name is NAME_2, NAME_3, ... for all parts. Raises LoraError if there is no B-LoRA, FileError on
    a bad name, or for a file that exists with "error".
    """
    check_choice("choice for files that exist", if_exists, IF_EXISTS, FileError)
    connected = {part: blora for part, blora in parts.items() if blora is not None}
    if not connected:
        raise LoraError("There is nothing to save: connect a structure or a style BLORA.")
    folder = roots(LORAS)[0]
    path = inside(folder, name if name.strip() else _name_of(connected.values()))
    preview = None if thumbnail is None else jpeg(rgb(thumbnail[0]))
    names = []
    for part, file in _files(path, list(connected), if_exists).items():
        files.write(connected[part], file, thumbnail=preview, title=file.stem)
        names.append(str(file.relative_to(folder)))
    return names


def _files(path: Path, parts: Sequence[str], if_exists: str) -> dict[str, Path]:
    """The file of each part. Raises FileError."""
    for number in itertools.count(1):
        stem = path.name if number == 1 else f"{path.name}_{number}"
        named = {part: path.with_name(f"{stem}_{part}.safetensors") for part in parts}
        there = [file.name for file in named.values() if file.exists()]
        if not there or if_exists == "overwrite":
            return named
        if if_exists == "error":
            raise FileError(
                f"'{there[0]}' is there already; choose another name, or 'next free name' or 'overwrite'."
            )
    raise AssertionError


def _name_of(bloras: Iterable[BLora]) -> str:
    """The trigger's letters and digits, of any script; "b-lora" if there is none."""
    words = next((re.findall(r"\w+", blora.trigger) for blora in bloras if blora.trigger), [])
    return "_".join(words)[:60] or "b-lora"
