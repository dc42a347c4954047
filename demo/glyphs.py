"""Glyph masks: one character or a random shape, white on black, float32 (128, 128) in 0..1."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from .catalog import HELD_OUT_GLYPHS, PIXELS

Array = np.ndarray
FONT_ROOT = Path("/usr/share/fonts")
CANVAS = 2 * PIXELS

FONTS: dict[str, tuple[str, ...]] = {
    "cjk": (
        "opentype/noto/NotoSansCJK-Bold.ttc",
        "opentype/noto/NotoSerifCJK-Bold.ttc",
        "opentype/noto/NotoSansCJK-Regular.ttc",
        "truetype/lxgw-wenkai/LXGWWenKai-Bold.ttf",
        "truetype/arphic/ukai.ttc",
        "truetype/wqy/wqy-microhei.ttc",
    ),
    "latin": (
        "truetype/dejavu/DejaVuSans-Bold.ttf",
        "truetype/dejavu/DejaVuSerif-Bold.ttf",
        "opentype/lobster/lobster.otf",
        "opentype/cabin/Cabin-Bold.otf",
        "truetype/noto/NotoSerif-BoldItalic.ttf",
    ),
    "greek": ("truetype/dejavu/DejaVuSans-Bold.ttf", "truetype/dejavu/DejaVuSerif-Bold.ttf"),
    "arabic": (
        "opentype/fonts-hosny-amiri/Amiri-Bold.ttf",
        "truetype/noto/NotoKufiArabic-Bold.ttf",
        "truetype/noto/NotoNaskhArabic-Bold.ttf",
    ),
    "devanagari": (
        "truetype/noto/NotoSansDevanagari-Bold.ttf",
        "truetype/noto/NotoSerifDevanagari-Bold.ttf",
    ),
    "thai": ("truetype/noto/NotoSansThai-Bold.ttf", "truetype/noto/NotoSerifThai-Bold.ttf"),
    "hebrew": ("truetype/noto/NotoSansHebrew-Bold.ttf", "truetype/noto/NotoSerifHebrew-Bold.ttf"),
    "korean": ("truetype/nanum/NanumGothicBold.ttf", "truetype/nanum/NanumMyeongjoBold.ttf"),
}


def _gb2312_level_one() -> str:
    rows = (bytes([a, b]).decode("gb2312", "ignore") for a in range(0xB0, 0xD8) for b in range(0xA1, 0xFF))
    return "".join(row for row in rows if len(row) == 1)


CHARACTERS: dict[str, str] = {
    "cjk": _gb2312_level_one(),
    "latin": "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789?!&@#$%",
    "greek": "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπστφχψω",
    "arabic": "ابتثجحخدرزسشصضطظعغفقكلمنهوي",
    "devanagari": "अआइईउऊएऐओऔकखगघचछजझटठडढणतथदधनपफबभमयरलवशषसह",
    "thai": "กขคฆงจฉชซญฎฐณดตถทนบปผพฟภมยรลวศษสหอฮ",
    "hebrew": "אבגדהוזחטיכלמנסעפצקרשת",
    "korean": "".join(chr(0xAC00 + i * 41) for i in range(270)),
}
SCRIPT_SHARE = {
    "cjk": 0.44,
    "latin": 0.16,
    "korean": 0.08,
    "arabic": 0.06,
    "devanagari": 0.05,
    "thai": 0.04,
    "hebrew": 0.04,
    "greek": 0.03,
    "shape": 0.10,
}
_HELD_OUT = {character for _, character in HELD_OUT_GLYPHS}


@lru_cache(maxsize=256)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(FONT_ROOT / name), size)


def _draw_character(character: str, font_name: str, extent: float, shift: tuple[float, float]) -> Image.Image:
    """The character fitted into `extent` (share of the canvas), its middle moved by `shift` (canvas pixels)."""
    image = Image.new("L", (CANVAS, CANVAS), 0)
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = draw.textbbox((0, 0), character, font=_font(font_name, 200))
    size = 200 * min(extent * CANVAS / max(right - left, bottom - top, 1), 2.2)
    font = _font(font_name, max(8, round(size / 8) * 8))
    left, top, right, bottom = draw.textbbox((0, 0), character, font=font)
    corner = (CANVAS / 2 - (left + right) / 2 + shift[0], CANVAS / 2 - (top + bottom) / 2 + shift[1])
    draw.text(corner, character, font=font, fill=255)
    return image


def _to_mask(image: Image.Image) -> Array:
    small = image.resize((PIXELS, PIXELS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32) / 255


def canonical_mask(character: str, script: str = "cjk") -> Array:
    """The one fixed drawing of a character: first font of its script, centred, 66 % of the picture."""
    return _to_mask(_draw_character(character, FONTS[script][0], 0.66, (0.0, 0.0)))


def _random_shape(rng: np.random.Generator) -> Image.Image:
    """A logo-like shape: two to five ellipses, polygons, thick strokes or holes."""
    image = Image.new("L", (CANVAS, CANVAS), 0)
    draw = ImageDraw.Draw(image)
    for index in range(rng.integers(2, 6)):
        centre = rng.uniform(0.3, 0.7, 2) * CANVAS
        fill = 0 if index and rng.random() < 0.3 else 255
        kind = rng.integers(3)
        if kind == 0:
            radius = rng.uniform(0.06, 0.24, 2) * CANVAS
            draw.ellipse((*(centre - radius), *(centre + radius)), fill=fill)
        elif kind == 1:
            angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 8)))
            radius = rng.uniform(0.08, 0.28, len(angles)) * CANVAS
            points = [(centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)) for r, a in zip(radius, angles)]
            draw.polygon(points, fill=fill)
        else:
            points = [tuple(p) for p in rng.uniform(0.18, 0.82, (rng.integers(2, 5), 2)) * CANVAS]
            draw.line(points, fill=fill, width=int(rng.integers(12, 34)), joint="curve")
    return image


def _vary(image: Image.Image, rng: np.random.Generator) -> Array:
    """Rotate a little and move the outline in or out, as another pen would."""
    image = image.rotate(rng.uniform(-7, 7), resample=Image.Resampling.BILINEAR)
    mask = _to_mask(image)
    sigma = rng.uniform(0.6, 1.3)
    level = rng.uniform(0.25, 0.6)
    return np.clip((ndimage.gaussian_filter(mask, sigma) - level) * 3 + 0.5, 0, 1)


def random_mask(rng: np.random.Generator) -> Array:
    """A random character of a random script and font, or a random shape; held-out characters never occur."""
    while True:
        script = str(rng.choice(list(SCRIPT_SHARE), p=list(SCRIPT_SHARE.values())))
        if script == "shape":
            mask = _vary(_random_shape(rng), rng)
        else:
            character = CHARACTERS[script][rng.integers(len(CHARACTERS[script]))]
            if character in _HELD_OUT:
                continue
            font = FONTS[script][rng.integers(len(FONTS[script]))]
            shift = rng.uniform(-8, 8, 2)
            mask = _vary(_draw_character(character, font, rng.uniform(0.58, 0.84), (shift[0], shift[1])), rng)
        if 0.02 < mask.mean() < 0.5:
            return mask.astype(np.float32)


MaskSource = Callable[[np.random.Generator], Array]
