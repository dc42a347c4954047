"""CLIP's tokenizer, shipped so that nothing has to be downloaded: SDXL's two differ only in their padding."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

FOLDER = Path(__file__).parent


def tokenizers() -> tuple[CLIPTokenizer, CLIPTokenizer]:
    """SDXL's first tokenizer (padded with the end token) and its second (padded with "!", token 0)."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(FOLDER)), CLIPTokenizer.from_pretrained(
        str(FOLDER), pad_token="!"
    )
