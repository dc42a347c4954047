"""Text in several fonts, vertical scripts, letter spacing, variations; against the single fonts and geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("uharfbuzz")
from test_glyph import ARABIC, CJK, DEVANAGARI, box, iou, plus

from rechar_core.errors import FileError
from rechar_core.glyph import GlyphError, fallback, known, library, open_face, render
from rechar_core.glyph.face import _written

__all__ = ["plus"]  # a fixture
MONGOLIAN = Path(__file__).parent / "data" / "fonts" / "mongolian.ttf"
WORD = "\u182e\u1823\u1829\u182d\u1823\u182f"  # "Mongol"
HAN = "羅"


def draw(text, *paths, size=(256, 256), **settings):
    return render(text, [open_face(path) for path in paths], size, **settings)


# Fallback


@pytest.mark.parametrize(
    ("text", "by"),
    [
        ("محبة (12)", {"ReCharArabic.ttf": "م ح ب ة", "ReCharCJK.otf": "( 1 2 )"}),
        ("羅 Love", {"ReCharCJK.otf": "羅 L o v e"}),
        ("किताब 12", {"ReCharDevanagari.ttf": "कि ता ब", "ReCharCJK.otf": "1 2"}),
        ("क羅ع", {"ReCharDevanagari.ttf": "क", "ReCharCJK.otf": "羅", "ReCharArabic.ttf": "ع"}),
    ],
)
def test_the_first_font_that_has_a_character_draws_it(text, by):
    first = next(path for path in library.SHIPPED.values() if path.name == next(iter(by)))
    others = fallback("", known(), first)
    drawing = draw(text, first, *others, size=(256, 1024))
    assert drawing.report() == "\n".join(f"{font}: {what}" for font, what in by.items())
    assert float((drawing.parts.sum(dim=0) - drawing.mask).abs().max()) < 1e-5


def test_each_character_is_its_own_fonts_at_the_same_em():
    """The em of one font may have another number of units than the other's."""
    mixed = draw(f"{HAN}ع", CJK, ARABIC, fit="em", size=(200, 800))
    heights = [box(part)[1] - box(part)[0] for part in mixed.parts]
    for number, (text, path) in enumerate(((HAN, CJK), ("ع", ARABIC))):
        alone, face = draw(text, path, size=(1000, 1000), margin=0).mask, open_face(path)
        top, bottom, left, right = box(mixed.parts[number])
        cut = mixed.parts[number][top:bottom, left:right]
        high = box(alone)
        whole = alone[high[0] : high[1], high[2] : high[3]]
        small = torch.nn.functional.interpolate(whole[None, None], cut.shape, mode="area")[0, 0]
        assert iou(cut, small) > 0.9
        extents = face.font.get_glyph_extents(face.font.get_nominal_glyph(ord(text)))
        heights[number] /= abs(extents.height) / face.upem
    assert heights[0] == pytest.approx(heights[1], rel=0.04)


def test_one_font_for_a_letter_and_its_marks_and_joiners():
    accented = draw("e\N{COMBINING ACUTE ACCENT}", CJK, ARABIC)
    assert accented.fonts == ("ReCharCJK.otf",)
    joined = draw("م\N{ZERO WIDTH JOINER}", ARABIC, CJK)
    assert joined.fonts == ("ReCharArabic.ttf",)
    assert iou(draw(HAN + "\N{VARIATION SELECTOR-17}", ARABIC, CJK).mask, draw(HAN, CJK).mask) > 0.999


def test_letters_of_the_main_font_are_as_without_fallback():
    assert torch.equal(draw("محبة", ARABIC, CJK).parts, draw("محبة", ARABIC).parts)


def test_a_letter_is_drawn_by_the_font_that_has_it_where_none_has_its_accent():
    """A failure means that the message names a letter which a font has."""
    with pytest.raises(GlyphError, match=r"no glyph for '\u0302' \(U\+0302"):
        draw("x\N{COMBINING CIRCUMFLEX ACCENT}", ARABIC, CJK)


def test_what_no_font_has_is_an_error_that_names_all_fonts():
    with pytest.raises(GlyphError, match=r"fonts ReCharArabic.ttf, ReCharCJK.otf have no glyph for 'क'"):
        draw("कع", ARABIC, CJK)


def test_the_fallback_list_is_read():
    fonts = known()
    assert fallback("", fonts, CJK) == [ARABIC, DEVANAGARI]
    assert fallback(f"ReChar Devanagari，{CJK}\n", fonts, ARABIC) == [DEVANAGARI, CJK]
    with pytest.raises(FileError, match="There is no font file at /a, b/c.ttf"):
        fallback('"/a, b/c.ttf", ReChar CJK', fonts, ARABIC)
    with pytest.raises(FileError, match="There is no font 'Times'"):
        fallback("ReChar CJK, Times", fonts, CJK)


# Vertical scripts


@pytest.mark.parametrize("direction", ["auto", "vertical"])
def test_mongolian_runs_downwards_as_its_letters_lie_turned(direction):
    lying = draw(WORD, MONGOLIAN, direction="horizontal", size=(128, 512)).mask
    standing = draw(WORD, MONGOLIAN, direction=direction, size=(512, 128)).mask
    assert iou(standing, torch.rot90(lying, -1)) > 0.99


def test_mongolian_columns_run_from_left_to_right():
    first, second = (
        parts.amax(dim=0) for parts in draw(f"{WORD}\n{WORD}", MONGOLIAN, size=(256, 256)).parts.split(6)
    )
    assert box(first)[3] <= box(second)[2]
    assert box(first)[0] == box(second)[0]


def test_in_a_mongolian_column_han_stands_and_latin_lies():
    mixed = draw(f"{WORD}{HAN}L", MONGOLIAN, CJK, size=(512, 128))
    han, latin = mixed.parts[-2:]
    for part, turned in ((han, draw(HAN, CJK).mask), (latin, torch.rot90(draw("L", CJK).mask, -1))):
        cut = [mask[slice(*box(mask)[:2]), slice(*box(mask)[2:])] for mask in (part, turned)]
        small = torch.nn.functional.interpolate(cut[1][None, None], cut[0].shape, mode="area")[0, 0]
        assert iou(cut[0], small) > 0.75


# Letter spacing


@pytest.mark.parametrize(("direction", "axis"), [("horizontal", 2), ("vertical", 0)])
@pytest.mark.parametrize("spacing", [1, 0.25, -0.1])
def test_letter_spacing_is_added_between_characters(direction, axis, spacing):
    """A Han character is an em wide and high: with spacing s, one begins 1 + s em after the other."""
    size = (256, 2048) if axis == 2 else (2048, 256)
    pitch, width = [], []
    for s in (0, spacing):
        drawing = draw("日日日", CJK, direction=direction, fit="em", letter_spacing=s, margin=0, size=size)
        boxes = [box(part) for part in drawing.parts]
        pitch.append(np.diff([found[axis] for found in boxes]))
        width.append(boxes[0][axis + 1] - boxes[0][axis])
    assert pitch[1] / width[1] * width[0] / pitch[0] == pytest.approx(2 * [1 + spacing], rel=0.03)


def test_narrow_letters_stay_in_their_order_whatever_the_spacing():
    lefts = [box(part)[2] for part in draw("Hil", CJK, size=(64, 256), letter_spacing=-0.5).parts]
    assert lefts == sorted(lefts)


def test_what_is_spaced_forms_no_ligature_and_digits_after_arabic_are_spaced():
    size = (128, 1024)
    joined, apart = (draw("fi", CJK, size=size, letter_spacing=s) for s in (0, 0.01))
    assert (len(joined.characters), len(apart.characters)) == (1, 2)
    ratio = []
    for s in (0, 1):
        first, last = (box(part) for part in draw("م12", ARABIC, CJK, size=size, letter_spacing=s).parts[1:])
        ratio.append((last[2] - first[2]) / (first[1] - first[0]))
    assert ratio[1] > 1.5 * ratio[0]


def test_joined_letters_stay_joined():
    plain = draw("محبة", ARABIC, size=(128, 512))
    assert torch.equal(draw("محبة", ARABIC, size=(128, 512), letter_spacing=1).mask, plain.mask)
    words, apart = (draw("محبة وسلام", ARABIC, size=(128, 1024), letter_spacing=s) for s in (0, 1))
    ratio = [(box(d.mask)[3] - box(d.mask)[2]) / (box(d.mask)[1] - box(d.mask)[0]) for d in (words, apart)]
    assert ratio[1] > 1.3 * ratio[0]


@pytest.mark.parametrize("spacing", [-0.6, 5, float("nan")])
def test_a_spacing_out_of_range_is_refused(spacing):
    with pytest.raises(GlyphError, match="letter spacing is"):
        draw("a", CJK, letter_spacing=spacing)


# Variations


@pytest.mark.parametrize(
    "variations",
    [
        "wght=650",
        "wght 650",
        "wght:650",
        'font-variation-settings: "wght" 650;',
        "'wght' 650.0",
        "wght@650",
        '{"wght": 650}',
        "ｗｇｈｔ＝６５０",
        "WGHT = +650",
        "weight=650",
    ],
)
def test_every_usual_spelling_of_a_variation_is_read(plus, variations):
    mask = render("+", [open_face(plus, variations=variations)], (200, 200), margin=0).mask
    assert float(mask.mean()) == pytest.approx(0.51, abs=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "wdth=85, wght=700",
        "wdth=85,\twght=700\r\n",
        "wdth=85 wght=700",
        "wdth 85; wght 700",
        "wdth,wght@85,700",
        "wdth：85，wght：700",
    ],
)
def test_several_axes_are_read(text):
    assert _written(text) == [("wdth", 85), ("wght", 700)]


@pytest.mark.parametrize(
    "text", ["wght", "wght=", "wght=700px", "wght=700, bold", "wght@", "wght@700,85", "700"]
)
def test_what_is_no_variation_is_named(plus, text):
    with pytest.raises(FileError, match=r"is not a variation of plus.ttf; it has wght=400..900"):
        open_face(plus, variations=text)
