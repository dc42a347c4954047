"""Glyph masks for training: characters, words, clusters and logos that are not held out, in Debian's fonts."""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features
from scipy import ndimage

from benchmarks.every_character import candidates
from benchmarks.every_character.lists import han_level_one, hangul, kana
from benchmarks.every_character.logos import logo

from ..frozen import FIRST_TRAINED_LOGO, never_drawn
from .fields import SIZE

Array = np.ndarray
ROOT = Path("/usr/share/fonts")
CARRIED = os.environ.get("DEMO_FONTS", "")  # a folder of `demo.pictures.carried_fonts` to draw from instead

# Font files below ROOT; a collection's face follows "#". Weights: light faces are drawn, but seldom.
FONTS: dict[str, tuple[str, ...]] = {
    "han": (
        "opentype/noto/NotoSansCJK-Regular.ttc#2",
        "opentype/noto/NotoSansCJK-Bold.ttc#2",
        "opentype/noto/NotoSansCJK-Black.ttc#2",
        "opentype/noto/NotoSansCJK-Light.ttc#2",
        "opentype/noto/NotoSerifCJK-Regular.ttc#2",
        "opentype/noto/NotoSerifCJK-Bold.ttc#2",
        "opentype/noto/NotoSerifCJK-Black.ttc#2",
        "truetype/lxgw-wenkai/LXGWWenKai-Bold.ttf",
        "truetype/lxgw-wenkai/LXGWWenKai-Regular.ttf",
        "truetype/arphic/ukai.ttc",
        "truetype/arphic/uming.ttc",
        "truetype/wqy/wqy-microhei.ttc",
    ),
    "kana": (
        "opentype/noto/NotoSansCJK-Bold.ttc",
        "opentype/noto/NotoSerifCJK-Bold.ttc",
        "opentype/noto/NotoSansCJK-Regular.ttc",
        "opentype/ipafont-mincho/ipam.ttf",
    ),
    "hangul": (
        "truetype/nanum/NanumGothicBold.ttf",
        "truetype/nanum/NanumMyeongjoBold.ttf",
        "truetype/nanum/NanumBrush.ttf",
        "truetype/nanum/NanumGothic.ttf",
        "opentype/noto/NotoSansCJK-Bold.ttc#1",
    ),
    "arabic": (
        "opentype/fonts-hosny-amiri/Amiri-Bold.ttf",
        "opentype/fonts-hosny-amiri/Amiri-Regular.ttf",
        "truetype/noto/NotoKufiArabic-Bold.ttf",
        "truetype/noto/NotoNaskhArabic-Bold.ttf",
        "truetype/noto/NotoSansArabic-Regular.ttf",
    ),
    "devanagari": (
        "truetype/noto/NotoSansDevanagari-Bold.ttf",
        "truetype/noto/NotoSerifDevanagari-Bold.ttf",
        "truetype/noto/NotoSansDevanagari-Regular.ttf",
    ),
    "thai": (
        "truetype/noto/NotoSansThai-Bold.ttf",
        "truetype/noto/NotoSerifThai-Bold.ttf",
        "truetype/noto/NotoLoopedThai-Regular.ttf",
    ),
    "hebrew": ("truetype/noto/NotoSansHebrew-Bold.ttf", "truetype/noto/NotoSerifHebrew-Bold.ttf"),
    "latin": (
        "truetype/dejavu/DejaVuSans-Bold.ttf",
        "truetype/dejavu/DejaVuSerif-Bold.ttf",
        "opentype/lobster/lobster.otf",
        "opentype/cabin/Cabin-Bold.otf",
        "truetype/noto/NotoSerif-BoldItalic.ttf",
        "truetype/noto/NotoSans-Regular.ttf",
    ),
}
GREEK = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπστφχψω"
ASCII = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789?!@#$%"
SHARED_STYLES = {
    "han": 0.56,
    "latin": 0.11,
    "hangul": 0.08,
    "arabic": 0.07,
    "devanagari": 0.05,
    "thai": 0.03,
    "kana": 0.03,
    "hebrew": 0.02,
    "logo": 0.05,
}
SHAPED = ("arabic", "devanagari", "thai")
EXTENT = (0.5, 0.86)  # of the picture, the glyph's longer side


def _han() -> tuple[str, ...]:
    """GB 2312's first level, and Big5's common characters that GB 2312 lacks (dense traditional forms)."""
    cells = (bytes([a, b]) for a in range(0xA4, 0xC7) for b in [*range(0x40, 0x7F), *range(0xA1, 0xFF)])
    common = (text for cell in cells if (text := cell.decode("big5", "ignore")))
    return han_level_one() + tuple(c for c in common if "\u4e00" <= c <= "\u9fff" and not _in_gb2312(c))


def _in_gb2312(character: str) -> bool:
    return bool(character.encode("gb2312", "ignore"))


@lru_cache(maxsize=1)
def trained_texts() -> dict[str, tuple[str, ...]]:
    """What training may draw, by kind; logos are numbers without end and not listed."""
    found = {
        "han": _han(),
        "kana": kana(),
        "hangul": hangul(),
        "arabic": candidates("arabic"),
        "devanagari": candidates("devanagari"),
        "thai": candidates("thai"),
        "hebrew": tuple("אבגדהוזחטיכלמנסעפצקרשת"),
        "latin": tuple(ASCII + GREEK),
    }
    return {kind: tuple(t for t in texts if t not in never_drawn()) for kind, texts in found.items()}


def carried_name(name: str) -> str:
    """The file of a face in a folder of carried fonts."""
    return name.replace("/", "_").replace("#", "_face")


@lru_cache(maxsize=1)
def kinds() -> tuple[list[str], list[float]]:
    """The kinds that can be drawn here, and their shares: some scripts need Pillow's raqm, and that FriBiDi."""
    able = {
        kind: share for kind, share in SHARED_STYLES.items() if kind not in SHAPED or features.check("raqm")
    }
    return list(able), [share / sum(able.values()) for share in able.values()]


@lru_cache(maxsize=128)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A face at a size in px; shaped by raqm where the script needs it."""
    path, _, face = name.partition("#")
    if CARRIED:
        return ImageFont.truetype(str(Path(CARRIED) / carried_name(name)), size)
    return ImageFont.truetype(str(ROOT / path), size, index=int(face or 0))


@dataclass(frozen=True)
class Placing:
    """extent: longer side as a share of the picture; shift: of the middle, in shares; turn: degrees; bolder: px."""

    extent: float = 0.7
    shift: tuple[float, float] = (0.0, 0.0)
    turn: float = 0.0
    bolder: float = 0.0


@lru_cache(maxsize=16)
def faces_of(kind: str) -> tuple[str, ...]:
    """The faces of a kind that are here: all of FONTS, or those that were carried along."""
    if not CARRIED:
        return FONTS[kind]
    return tuple(face for face in FONTS[kind] if (Path(CARRIED) / carried_name(face)).exists())


def _drawn(kind: str, text: str, face: str) -> Image.Image | None:
    """The glyph, tightly cropped, about 320 px; None where the face lacks it."""
    if kind == "logo":
        image = Image.new("L", (400, 400), 0)
        draw = ImageDraw.Draw(image)
        for outline, painted in logo(int(text)):
            draw.polygon([(200 + 190 * x, 200 + 190 * y) for x, y in outline], fill=255 if painted else 0)
    else:
        drawn = font(face, 300 if len(text) < 3 else 200)
        box = drawn.getbbox(text)
        width, height = int(box[2] - box[0]) + 8, int(box[3] - box[1]) + 8
        if min(width, height) < 12:
            return None
        image = Image.new("L", (width, height), 0)
        ImageDraw.Draw(image).text((4 - box[0], 4 - box[1]), text, fill=255, font=drawn)
    found = image.getbbox()
    return image.crop(found) if found else None


def mask(kind: str, text: str, face: str, placing: Placing = Placing(), size: int = SIZE) -> Array | None:
    """A glyph's coverage (size, size), uint8; None where the face draws nothing."""
    image = _drawn(kind, text, face)
    if image is None:
        return None
    if placing.turn:
        image = image.rotate(placing.turn, Image.Resampling.BICUBIC, expand=True)
    scale = placing.extent * size / max(image.size)
    image = image.resize(
        [max(1, round(scale * side)) for side in image.size], Image.Resampling.BOX if scale < 1 else 3
    )
    canvas = Image.new("L", (size, size), 0)
    corner = [round(size * (0.5 + s) - side / 2) for s, side in zip(placing.shift, image.size)]
    canvas.paste(image, tuple(corner))
    values = np.asarray(canvas)
    if placing.bolder:
        values = (255 * (signed_distance(values) + placing.bolder + 0.5).clip(0, 1)).astype(np.uint8)
    return values


def signed_distance(values: Array) -> Array:
    """Distance to the glyph's edge in px, positive inside, float32, exact to a fraction of a pixel."""
    inside = values > 127
    if not inside.any():
        return np.full(values.shape, -99, np.float32)
    distance = ndimage.distance_transform_edt(inside) - ndimage.distance_transform_edt(~inside)
    edge = np.abs(distance) <= 1.01
    fine = values / np.float32(255) - 0.5
    return np.where(edge, fine, distance - 0.5 * np.sign(distance)).astype(np.float32)


def random_glyph(rng: np.random.Generator) -> tuple[str, str, Array]:
    """Kind, text and coverage of a glyph that training may draw, in a random face, size, place and weight."""
    while True:
        names, shares = kinds()
        kind = str(rng.choice(names, p=shares))
        text, face = str(FIRST_TRAINED_LOGO + rng.integers(1_000_000)), ""
        if kind != "logo":
            texts, faces = trained_texts()[kind], faces_of(kind)
            text, face = texts[rng.integers(len(texts))], faces[rng.integers(len(faces))]
        extent = rng.uniform(*EXTENT) if rng.random() < 0.8 else rng.uniform(0.68, 0.84)
        room = (1 - extent) / 2 * 0.8
        placing = Placing(
            extent,
            (rng.uniform(-room, room), rng.uniform(-room, room)) if rng.random() < 0.5 else (0.0, 0.0),
            rng.uniform(-12, 12) if rng.random() < 0.3 else 0.0,
            rng.uniform(-0.8, 2.5) if rng.random() < 0.35 else 0.0,
        )
        values = mask(kind, text, face, placing)
        if values is not None and (values > 127).sum() > 250:
            return kind, text, values
