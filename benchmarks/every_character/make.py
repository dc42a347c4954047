"""Make items.json: `python -m benchmarks.every_character.make [WORDS]`.

Run once, before the demo model's training that the items are held out of. Every item is the first of its list in the
order of `lists.by_digest`, so that nobody chose it:

    200 Han of GB 2312's second level, 60 Hangul of KS X 1001, 20 kana of JIS X 0208, 20 Latin letters beyond ASCII,
    60 Arabic words, 40 Devanagari and 20 Thai clusters, 20 logos.

Arabic words, and the clusters of Hindi and Thai, are those of the names that Unicode's CLDR gives to languages,
countries, scripts, currencies and cities (Unicode License v3), as the package babel 2.19 carries them. WORDS, a JSON
file {"ar": [...], "hi": [...], "th": [...]} of such names, is written by `names` where babel is installed. Without
WORDS the lists of 500 are taken from the items.json that is there.
"""

import json
import sys
from pathlib import Path

import regex

from . import FILE, VERSION, lists

COUNTS = {
    "han": 200,
    "hangul": 60,
    "arabic": 60,
    "devanagari": 40,
    "thai": 20,
    "kana": 20,
    "latin": 20,
    "logo": 20,
}
LIST = 500


def names(locale: str) -> list[str]:
    """What CLDR calls languages, countries, scripts, currencies and cities in a language; needs babel."""
    from babel import Locale

    found = Locale(locale)
    cities = [zone["city"] for zone in found.time_zones.values() if "city" in zone]
    tables = (found.languages, found.territories, found.scripts, found.currencies)
    return [name for table in tables for name in table.values()] + cities


def arabic_words(texts: list[str]) -> set[str]:
    """Words of 3 to 7 letters, of Arabic letters alone."""
    return {word for text in texts for word in regex.findall(r"\p{L}[\p{L}\p{M}]*", text) if _arabic(word)}


def _arabic(word: str) -> bool:
    return 3 <= len(word) <= 7 and regex.fullmatch(r"[\u0621-\u063A\u0641-\u064A]+", word) is not None


def clusters(texts: list[str], script: str) -> set[str]:
    """Orthographic clusters of two characters and more: a consonant with conjuncts, vowel signs and tone marks."""
    if script == "Devanagari":
        pattern = r"(?:[क-ह]\u093C?\u094D)*[क-ह]\u093C?[\u093E-\u094C]?[\u0901-\u0903]?"
    else:
        pattern = r"[เ-ไ]?[ก-ฮ][\u0E31\u0E34-\u0E3A\u0E47-\u0E4D]*[ะาำ]?"
    return {found for text in texts for found in regex.findall(pattern, text) if len(found) > 1}


def word_lists(texts: dict[str, list[str]]) -> dict[str, list[str]]:
    """The fixed lists of 500: words and clusters in the digest's order."""
    found = {
        "arabic": arabic_words(texts["ar"]),
        "devanagari": clusters(texts["hi"], "Devanagari"),
        "thai": clusters(texts["th"], "Thai"),
    }
    return {kind: _filled(kind, lists.by_digest(kind, sorted(words))) for kind, words in found.items()}


def _filled(kind: str, words: list[str]) -> list[str]:
    """The first 500; CLDR has 402 Thai clusters, so the rest is consonant, vowel and tone mark put together by rule."""
    if kind == "thai":
        known = set(words)
        made = (c + v + tone for c in map(chr, range(0x0E01, 0x0E2F)) for v in "ัิีึืุู" for tone in ("", "่", "้"))
        words = words + lists.by_digest(kind, (cluster for cluster in made if cluster not in known))
    return words[:LIST]


def take(kind: str, words: dict[str, list[str]]) -> list[str]:
    """A kind's items."""
    sources = {"han": lists.han_level_two, "hangul": lists.hangul, "kana": lists.kana, "latin": lists.latin}
    source = sources.get(kind, lists.logos)() if kind not in words else words[kind]
    return lists.by_digest(f"{kind} items", source)[: COUNTS[kind]]


def identity(kind: str, text: str) -> str:
    """A file name's worth of identity: the kind and the text's code points, or the logo's number."""
    if kind == "logo":
        return f"logo_{int(text):03d}"
    return f"{kind}_" + "-".join(f"{ord(character):04x}" for character in text)


def content(words: dict[str, list[str]]) -> bytes:
    """items.json as it is stored."""
    rows = [[identity(kind, text), kind, text] for kind in COUNTS for text in take(kind, words)]
    body = {"version": VERSION, "items": rows, "lists": words}
    return (json.dumps(body, ensure_ascii=False, indent=0) + "\n").encode()


def main() -> None:
    if sys.argv[1:]:
        words = word_lists(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    else:
        words = json.loads(FILE.read_text(encoding="utf-8"))["lists"]
    FILE.write_bytes(content(words))


if __name__ == "__main__":
    main()
