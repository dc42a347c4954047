"""Character sets from Python's codecs, and the rule by which items are taken from a list."""

import hashlib
from collections.abc import Callable, Iterable


def by_digest(kind: str, texts: Iterable[str]) -> list[str]:
    """A fixed random order that needs no random number generator: by SHA-256 of "every-character:KIND:TEXT"."""
    return sorted(texts, key=lambda text: hashlib.sha256(f"every-character:{kind}:{text}".encode()).digest())


def _rows(codec: str, first: int, last: int) -> tuple[str, ...]:
    """The characters of a 94 x 94 set's rows, first to last byte inclusive."""
    cells = (bytes([a, b]) for a in range(first, last + 1) for b in range(0xA1, 0xFF))
    return tuple(text for cell in cells if (text := cell.decode(codec, "ignore")))


def han_level_one() -> tuple[str, ...]:
    """GB 2312's 3,755 common characters."""
    return _rows("gb2312", 0xB0, 0xD7)


def han_level_two() -> tuple[str, ...]:
    """GB 2312's 3,008 rarer characters."""
    return _rows("gb2312", 0xD8, 0xF7)


def han() -> tuple[str, ...]:
    """All 6,763 characters of GB 2312."""
    return han_level_one() + han_level_two()


def hangul() -> tuple[str, ...]:
    """All 2,350 syllables of KS X 1001."""
    return _rows("euc_kr", 0xB0, 0xC8)


def kana() -> tuple[str, ...]:
    """Hiragana and katakana of JIS X 0208."""
    return _rows("euc_jp", 0xA4, 0xA5)


def latin() -> tuple[str, ...]:
    """The letters of ISO 8859-1 beyond ASCII."""
    return tuple(c for c in bytes(range(0xC0, 0x100)).decode("latin-1") if c.isalpha())


def letters() -> tuple[str, ...]:
    """Kana, the letters beyond ASCII, and ASCII's own."""
    return kana() + latin() + tuple(c for c in map(chr, range(128)) if c.isalnum())


def logos() -> tuple[str, ...]:
    """The numbers of the 500 logos."""
    return tuple(str(number) for number in range(500))


CHARACTER_SETS: dict[str, Callable[[], tuple[str, ...]]] = {
    "han": han,
    "hangul": hangul,
    "kana": letters,
    "latin": letters,
    "logo": logos,
}
