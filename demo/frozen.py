"""What the demo model's training never draws, in any face: fixed before the training started.

- every item of the "Every Character" benchmark (benchmarks/every_character);
- all of GB 2312's second level, 40 Hangul syllables, 20 Arabic words, 20 Devanagari clusters and 20 logos of our own;
- the twenty glyphs that the first demo model was measured on.
None is chosen: items come in the order of a digest.
"""

import hashlib
from functools import lru_cache

from benchmarks.every_character import candidates, items
from benchmarks.every_character.lists import by_digest, han_level_two, hangul

from .catalog import HELD_OUT_GLYPHS

FIRST_LOGO = 500  # logos 500 to 519 are held out; training draws from 1000 on
FIRST_TRAINED_LOGO = 1000
COUNTS = {"hangul": 40, "arabic": 20, "devanagari": 20}


@lru_cache(maxsize=1)
def held_out() -> dict[str, tuple[str, ...]]:
    """The demo model's own held-out glyphs by kind, none of them in the benchmark."""
    taken = {(item.kind, item.text) for item in items()}
    found = {"han": tuple(c for c in han_level_two() if ("han", c) not in taken)}
    for kind, count in COUNTS.items():
        texts = hangul() if kind == "hangul" else candidates(kind)
        rest = [text for text in by_digest(f"demo {kind}", texts) if (kind, text) not in taken]
        found[kind] = tuple(rest[:count])
    found["logo"] = tuple(str(FIRST_LOGO + number) for number in range(20))
    return found


@lru_cache(maxsize=1)
def never_drawn() -> frozenset[str]:
    """Every text that training must not draw (logos go by number)."""
    texts = {item.text for item in items() if item.kind != "logo"}
    texts |= {text for kind, found in held_out().items() if kind != "logo" for text in found}
    return frozenset(texts | {character for _, character in HELD_OUT_GLYPHS})


def fingerprint() -> str:
    """SHA-256 over the held-out lists, for the test that they stay as they are."""
    rows = [f"{kind}:{text}" for kind, texts in sorted(held_out().items()) for text in texts]
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
