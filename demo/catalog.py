"""Every name the demo model knows: glyphs, colours, style families, palettes, elements, and what is held out."""

from dataclasses import dataclass

PIXELS = 128  # art is drawn at this size and shown at twice the size

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (18, 16, 20),
    "white": (250, 250, 248),
    "red": (205, 40, 36),
    "orange": (240, 130, 30),
    "yellow": (248, 214, 60),
    "green": (54, 150, 70),
    "teal": (20, 140, 140),
    "cyan": (60, 225, 240),
    "blue": (40, 90, 200),
    "navy": (14, 24, 66),
    "sky": (150, 205, 240),
    "purple": (120, 60, 180),
    "pink": (250, 110, 180),
    "brown": (130, 82, 44),
    "cream": (246, 236, 212),
    "mint": (180, 236, 210),
}

FAMILIES = ("plain", "ink", "neon", "metal", "stripes", "dots", "shadow", "outline", "gradient", "stone")
ELEMENTS = ("flowers", "stars", "hearts", "leaves", "waves")


@dataclass(frozen=True)
class Palette:
    """Colour names of a style: the glyph, the ground, and the decorative elements (not named in text)."""

    glyph: str
    ground: str
    accent: str


PALETTES: dict[str, tuple[Palette, ...]] = {
    "plain": (Palette("black", "white", "black"), Palette("red", "cream", "blue")),
    "ink": (
        Palette("black", "cream", "red"),
        Palette("navy", "white", "orange"),
        Palette("red", "white", "green"),
    ),
    "neon": (
        Palette("pink", "black", "cyan"),
        Palette("cyan", "navy", "yellow"),
        Palette("green", "black", "pink"),
    ),
    "metal": (
        Palette("yellow", "red", "white"),
        Palette("yellow", "black", "red"),
        Palette("sky", "navy", "white"),
    ),
    "stripes": (
        Palette("red", "cream", "green"),
        Palette("blue", "white", "orange"),
        Palette("purple", "mint", "pink"),
    ),
    "dots": (
        Palette("blue", "yellow", "red"),
        Palette("black", "orange", "white"),
        Palette("teal", "pink", "white"),
    ),
    "shadow": (
        Palette("red", "white", "orange"),
        Palette("navy", "sky", "white"),
        Palette("orange", "teal", "yellow"),
    ),
    "outline": (
        Palette("white", "blue", "cyan"),
        Palette("yellow", "navy", "sky"),
        Palette("brown", "cream", "red"),
    ),
    "gradient": (
        Palette("purple", "sky", "white"),
        Palette("green", "yellow", "brown"),
        Palette("pink", "white", "teal"),
    ),
    "stone": (
        Palette("sky", "black", "yellow"),
        Palette("brown", "mint", "red"),
        Palette("green", "brown", "cream"),
    ),
}

NAMED_GLYPHS = tuple(
    "木火水土金山川日月人大小中天心手口目耳田石竹花草鸟鱼虎马牛羊门车舟雨风云星光春夏秋冬福寿喜和东字美国王力女子白"
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
)

# Never drawn for training, in any font: the unseen glyphs of the evaluation and of the sample pictures.
HELD_OUT_GLYPHS: tuple[tuple[str, str], ...] = (
    ("cjk", "羅"),
    ("cjk", "永"),
    ("cjk", "道"),
    ("cjk", "雪"),
    ("cjk", "夢"),
    ("cjk", "龍"),
    ("cjk", "書"),
    ("cjk", "北"),
    ("arabic", "ع"),
    ("arabic", "ش"),
    ("arabic", "ك"),
    ("korean", "한"),
    ("korean", "빛"),
    ("devanagari", "ह"),
    ("devanagari", "क"),
    ("thai", "ก"),
    ("hebrew", "ש"),
    ("hebrew", "א"),
    ("greek", "Ω"),
    ("latin", "&"),
)


def named_styles() -> list[tuple[str, Palette]]:
    """All (family, palette) pairs that the text encoders know by name."""
    return [(family, palette) for family, palettes in PALETTES.items() for palette in palettes]


def content_text(glyph: str) -> str:
    """The words for a named glyph."""
    if glyph.isascii():
        return f"the {'number' if glyph.isdigit() else 'letter'} {glyph}"
    return f"the character {glyph}"


def style_text(family: str, palette: Palette) -> str:
    """The words for a named style."""
    return f"{palette.glyph} {family} style on {palette.ground}"


def element_text(elements: tuple[str, ...]) -> str:
    """The words for zero, one or two elements, with a leading space ('' for none)."""
    return f" with {' and '.join(elements)}" if elements else ""
