"""Saving B-LoRAs into the host's loras folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...rechar_core.errors import LoraError
from ...rechar_core.images import jpeg, rgb
from ...rechar_core.lora import files
from .folders import LORAS, inside, roots

if TYPE_CHECKING:
    from ...rechar_core.lora.blora import BLora


def save(name: str, parts: dict[str, BLora | None], thumbnail: Any = None) -> list[str]:
    """Writes each B-LoRA as NAME_PART.safetensors; returns the names as the load nodes list them.

    thumbnail: IMAGE (B, H, W, C) in 0..1, or None. Raises LoraError if there is none, FileError on a bad name.
    """
    connected = {part: blora for part, blora in parts.items() if blora is not None}
    if not connected:
        raise LoraError("There is nothing to save: connect a structure or a style BLORA.")
    folder = roots(LORAS)[0]
    path = inside(folder, name)
    preview = None if thumbnail is None else jpeg(rgb(thumbnail[0]))
    names = []
    for part, blora in connected.items():
        file = path.with_name(f"{path.name}_{part}.safetensors")
        files.write(blora, file, thumbnail=preview, title=file.stem)
        names.append(str(file.relative_to(folder)))
    return names
