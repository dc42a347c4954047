"""The named materials: which function draws them, on which grounds, in which named palettes."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from .crafts import CRAFTS
from .minerals import MINERALS
from .paints import PAINTS
from .scene import Scene

MATERIALS: dict[str, Callable[[Scene, Tensor], Tensor]] = {**PAINTS, **MINERALS, **CRAFTS}


@dataclass(frozen=True)
class Palette:
    """The words for a palette, and its colours as RRGGBB: glyph, its second colour, ground, its second colour."""

    words: str
    ink: str
    ink2: str
    ground: str
    ground2: str


@dataclass(frozen=True)
class Family:
    """One material: its own ground and its named palettes."""

    ground: str
    palettes: tuple[Palette, ...]


def _family(ground: str, *palettes: str) -> Family:
    """Palettes as "words: ink ink2 ground ground2"."""
    found = []
    for text in palettes:
        words, _, colours = text.partition(": ")
        found.append(Palette(words, *colours.split()))
    return Family(ground, tuple(found))


FAMILIES: dict[str, Family] = {
    "plain": _family(
        "plain",
        "black on white: 0e0e10 0e0e10 fcfcfa fcfcfa",
        "red on cream: c8281e c8281e f6ecd4 f6ecd4",
        "white on blue: fafafa fafafa 1f4fa8 1f4fa8",
    ),
    "ink wash": _family(
        "paper",
        "black on rice paper: 17171b 17171b f1e9d6 e6dcc4",
        "vermilion on rice paper: c2331f d9652f f4ecdb e9dfc8",
        "indigo on grey paper: 1d2b57 3c5590 dcdcd6 cfcfc8",
    ),
    "watercolour": _family(
        "paper",
        "blue and violet: 2f63b5 7d4aa6 f7f4ec efeae0",
        "green and yellow: 3c8a4b d8b23a f8f5ea f0ecdf",
        "rose and orange: d64a6c ee9a4a faf5ee f2ebe2",
    ),
    "woodblock": _family(
        "paper",
        "indigo on cream: 1c3568 3f74a8 efe3c8 e6d8b8",
        "red on cream: b2301f d88a3c f1e6cf e8dabd",
        "black on ochre: 1d1a1a 3d3630 d9b36a cfa75c",
    ),
    "chalk": _family(
        "slate",
        "white on blackboard: f4f4ee f4f4ee 24332c 24332c",
        "yellow on black: f5d95c f5d95c 26262a 26262a",
        "pink on blue: f59cb6 f59cb6 27405f 27405f",
    ),
    "riso print": _family(
        "paper",
        "pink and teal: f0467e 1f9e96 f7f1e1 f0e8d4",
        "blue and orange: 2a4fb0 f58a3c f6f0e0 efe7d3",
        "green and red: 1e7d4e f25c4e f8f2e4 f0e9d8",
    ),
    "oil paint": _family(
        "clouds",
        "yellow on blue: f2c12e e08a1e 27508f 3f86b5",
        "white on green: f4efe2 cfd8c0 2f5b3c 5f8a4a",
        "red on ochre: b92a1e e0602e c99a45 a87432",
    ),
    "porcelain": _family(
        "glaze",
        "blue and white: 1f3f9e 5f86cf f3f6f8 e6edf2",
        "iron red and white: b03a22 d98a62 f6f2ea ece4d8",
        "green and white: 1f7a52 7fbf9a f3f7f2 e4eee6",
    ),
    "graffiti": _family(
        "brick",
        "pink and cyan: ff4fa0 36d0e8 8a4a38 201a2c",
        "lime and yellow: a8e02f f6ee4a 6a5a55 1d2422",
        "orange and white: ff8a1e ffe9c8 4c5a6a 16181e",
    ),
    "gold leaf": _family(
        "lacquer",
        "on red lacquer: e0ae3e b07a1e 9c1f1a 6e1210",
        "on black lacquer: e3b548 a8761e 16141a 0c0b10",
        "on green silk: deb14a a8761e 1e5a44 123c30",
    ),
    "chrome": _family(
        "gradient",
        "on blue: b8cbe0 28344e 2a4a9c 0e1c4a",
        "on magenta: d6c8e4 34204a b0307e 4a1050",
        "on black: c4ccd4 20242c 1c1e24 050608",
    ),
    "copper": _family(
        "rock",
        "with patina on slate: c46a35 4fae98 4a5058 363b42",
        "with patina on sand: b8622f 5cb7a4 c8b48c a89068",
        "with verdigris on brown: b05c30 3f9f8c 50382c 38261e",
    ),
    "jade": _family(
        "silk",
        "green on dark red: 3f9f6a d8ecd0 6e1a20 4a0e14",
        "white on green: cfe3cf f2f4e6 1e4c3a 12342a",
        "green on cream: 4aa877 dff0d8 e8dcc0 d8c8a4",
    ),
    "celadon": _family(
        "plain",
        "sea green: 9fc9b2 9fc9b2 a9cdb6 3c5a4c",
        "grey blue: a3bfc6 a3bfc6 adc6cc 3c525c",
        "honey: d2b278 d2b278 d6b984 5e4424",
    ),
    "carved stone": _family(
        "plain",
        "grey granite: 54545a 54545a a4a4a2 7c7c7c",
        "red sandstone: 6a3424 6a3424 c4805c a4603f",
        "with gilding: c89a34 c89a34 6a6c70 505256",
    ),
    "marble": _family(
        "plain",
        "white on navy: ecebe8 7c7c84 1e2c50 1e2c50",
        "black on cream: 26262a d8d4cc ece0c8 ece0c8",
        "green on rose: 2e6450 c8dccc e2b4ac e2b4ac",
    ),
    "mosaic": _family(
        "plain",
        "blue on gold: 1f56b0 40a8d8 d8a83a b07c20",
        "white on teal: f2efe4 d8e0dc 1c8484 0f5a66",
        "red on turquoise: c2281e e87838 3fb4b0 1f7f90",
    ),
    "stained glass": _family(
        "plain",
        "red on blue: d81e28 f06a1e 1e4cb8 2f9ad0",
        "yellow on purple: f6c82a f59a1e 5a2a9c 9a4ab8",
        "green on amber: 1fa04e 7ecf3a e08a1e f0b83c",
    ),
    "ice": _family(
        "gradient",
        "on deep blue: 9ed4f0 e4f6ff 12386e 0a1c40",
        "on teal: a8e4ea f0ffff 0f6070 063440",
        "on violet: b8c8f4 f0f0ff 40307e 1c1444",
    ),
    "lava": _family(
        "rock",
        "on black rock: f05a14 ffc83c 2c2826 1a1716",
        "on grey ash: e8401a ffb02e 54504e 3c3938",
        "on blue rock: f06a1e ffd858 26303e 161d28",
    ),
    "neon": _family(
        "brick",
        "pink: ff3f9e ff9ed0 4e3038 1a1016",
        "cyan: 28d8f0 a8f6ff 28384a 0c141e",
        "green: 4cf05a c0ffc0 2e3a34 0e1612",
        "orange: ff8a28 ffd08a 402c2c 170e0e",
    ),
    "nebula": _family(
        "stars",
        "violet: b04ae0 3f8af0 14102e 2c1a50",
        "orange: f0843c e04a8a 0e1424 1c2c4a",
        "green: 3fe0a0 3f9af0 081420 10303c",
    ),
    "paper-cut": _family(
        "paper",
        "red on white: d2231f f4b8a4 f6f1e6 ece5d6",
        "teal on peach: 13808a 8fd0c8 f8d4b8 f0c4a4",
        "yellow on navy: f6c33a f08a3c 1d2e5c 162448",
    ),
    "embroidery": _family(
        "weave",
        "red on linen: c8242c e8606a dccfae c4b48c",
        "gold on navy: e0b24c f6e0a0 1e2a54 2c3a6c",
        "blue on white: 2a58b4 7fb0e4 eeeae0 dcd6c8",
    ),
    "denim": _family(
        "denim",
        "red felt on blue: c42a2a f4e8d0 2f4f86 2f4f86",
        "yellow felt on blue: f0bc30 c84a1e 34558a 34558a",
        "white felt on black: eeeae2 c42a2a 30343c 30343c",
    ),
    "wood": _family(
        "wood",
        "walnut on maple: 6a4026 3e2414 e0bc88 cca068",
        "maple on walnut: e2bf8c c0905c 5e3a24 432818",
        "cherry on grey oak: a8542e 7a3418 b0a694 948a78",
    ),
    "mother-of-pearl": _family(
        "lacquer",
        "on black lacquer: dfe6e8 dfe6e8 141216 0a090c",
        "on red lacquer: e6e2e4 e6e2e4 7c1618 540c10",
        "on green lacquer: e2e8e2 e2e8e2 12402e 0a281e",
    ),
    "fur": _family(
        "silk",
        "orange on blue: e08a34 f8e8d0 3a5c90 24406c",
        "white on red: f2efe8 c8c4bc a4242c 701418",
        "spotted on green: d8a85c 3a2618 4a7a4e 305a38",
    ),
    "moss": _family(
        "rock",
        "on grey stone: 4a8a2e 9ecf4a 90908c 70706c",
        "on brown earth: 3f7f34 8ec04a 6a4c34 4c3422",
        "on pale sand: 4f8f3a a8d05a e0d2b0 c8b890",
    ),
    "balloon": _family(
        "gradient",
        "red on sky: e8343c ffb0a0 9ed4f4 e4f4fc",
        "gold on pink: e8b23a fff0b0 f4a8c0 fce0e8",
        "blue on mint: 3a70e8 b0e0ff b4ecd0 e8fcf0",
    ),
    "sequin": _family(
        "silk",
        "silver on purple: c8ccd8 8a90a8 4c2a72 301850",
        "gold on black: e4b84a a8741e 1c1a20 0e0d12",
        "pink on white: f060a0 a83ad0 f2ecec e0d6d8",
    ),
    "knitted": _family(
        "plain",
        "white on red: f4f0e8 f4f0e8 b4222a a01c24",
        "green on cream: 2f7a4a 2f7a4a f0e6d0 e6dac0",
        "yellow on navy: f0c040 f0c040 22305c 1c284e",
    ),
}


def named_styles() -> list[tuple[str, Palette]]:
    """All (family, palette) pairs that the text encoders know by name."""
    return [(name, palette) for name, family in FAMILIES.items() for palette in family.palettes]


def style_text(family: str, palette: Palette) -> str:
    """The words for a named style: "gold leaf style, on red lacquer"."""
    return f"{family} style, {palette.words}"
