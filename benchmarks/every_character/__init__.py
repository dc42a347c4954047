"""The set of the "Every Character" benchmark, frozen: which glyphs, under which ids, and that nobody changed them.

`items.json` holds the items and, for words and clusters, the fixed list of 500 that the nearest one is looked for in;
for Han and Hangul that list is the character set itself (Python's codecs), for logos the numbers 0 to 499.
`make.py` says where every item comes from.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("items.json")
VERSION = 1
SHA256 = "555b8f0cfac63c2f0d87e760cf1dae61ad1d083d87f5fc9823f443da299f9d20"  # of items.json


@dataclass(frozen=True)
class Item:
    """One glyph. id: for file names, e.g. "han_5ee1"; kind: "han", "hangul", ...; text: what is drawn; a logo's is its
    number in `logos.py`."""

    id: str
    kind: str
    text: str


@lru_cache(maxsize=1)
def _content() -> dict[str, Any]:
    data = FILE.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{FILE} is not the frozen set of version {VERSION} (SHA-256 {found[:12]}..., expected {SHA256[:12]}...). "
            "Restore it with git; a changed set needs a new version."
        )
    return json.loads(data)


def items() -> tuple[Item, ...]:
    """All items in the file's order. Raises ValueError if the file was changed."""
    return tuple(Item(*row) for row in _content()["items"])


def candidates(kind: str) -> tuple[str, ...]:
    """Everything of a kind that the nearest glyph is looked for in: 6,763 Han, 2,350 Hangul, else 500 (kana and Latin:
    both lists whole). Raises ValueError for an unknown kind or a changed file.
    """
    from . import lists

    if kind in lists.CHARACTER_SETS:
        return lists.CHARACTER_SETS[kind]()
    if kind in _content()["lists"]:
        return tuple(_content()["lists"][kind])
    raise ValueError(f'There is no kind "{kind}" in this benchmark.')
