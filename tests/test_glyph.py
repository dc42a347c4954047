"""Glyphs against things outside our code: FreeType and raqm (through PIL), geometry, the font files themselves."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont, features
from server import find_host

pytest.importorskip("uharfbuzz")
from rechar_core.errors import FileError, ImageError
from rechar_core.glyph import (
    GlyphError,
    colour,
    find,
    from_picture,
    known,
    library,
    open_face,
    paint,
    picture,
    render,
)
from rechar_core.glyph.bidi import base_level, levels, visual_order
from rechar_core.glyph.raster import coverage

CJK, ARABIC, DEVANAGARI = library.SHIPPED.values()
ROOT = Path(__file__).resolve().parents[1]
raqm = pytest.mark.skipif(not features.check("raqm"), reason="this Pillow has no raqm")

# A variable font of 784 bytes with one glyph, "+": two bars that overlap, 200 units wide at wght=400, 400 at 900.
PLUS = """
eNqFUr9LHEEU/mZnvTujJh6coKJgJEHBIkSjlaCRFGliRBEhEJLldt092NPjfkRt5MSDNAmIWIjcH2CZMo3YKFwgTRorS8GDiFVS
meT8Zm4MGgi+Zb553/sx772ZhQDQjCIkxl/OPBp82jvxGhDPaX2bTDsZ+lbJP5E/mX/nZFe7U5uA9Zn8gR+uzG91LZToPyPv9+nf
e/jhkP5j8sHAc9zHLw5eUf/KNRLQEP0mvzPeVvlBOr/coCIhdgmxcDHpIKH5CSGSdpYzaMAd8n7yngUn7c0mRy54vopayyzm8uyb
Ym0rP9QsXB93Ss/e3Bv9CSmrynvat//l+i6r2i5hoS5C2eoegwI3xdIWCzGTY+Ffkda52GC3Nm6XG6ePUbgN8Puf9DDlx1V3uraa
OkEUerdVBNHWfKBWq2Pt6FqlxFXXenqJKBAfvt8m4kNxWf29WxEblcqfjKz+aldBEUyaXKEnEqZy1NRQEEGT6sBuJIkhbnQLd9FR
14X6s/qmwkJu2vMLoZOd81J+kMcUQhSQwzQ8+NRCOMhijixFHiAPM+Ftd9iq30VNFlviwbx/qCVLJkD87bzTvFinxuai4F/VUsQ4
sC7LZdclum75PXAJK85peg==
"""


def draw(text, path=CJK, size=(256, 256), **settings):
    return render(text, [open_face(path)], size, **settings)


def box(mask):
    """Top, bottom (past the last), left, right of what is at least half covered."""
    rows, columns = (
        np.nonzero(np.asarray(mask).max(axis=1) >= 0.5)[0],
        np.nonzero(np.asarray(mask).max(axis=0) >= 0.5)[0],
    )
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def iou(a, b):
    a, b = np.asarray(a) >= 0.5, np.asarray(b) >= 0.5
    return (a & b).sum() / (a | b).sum()


def freetype(text, path, **settings):
    """The text as FreeType draws it, a pixel for every font unit (no advance is rounded), cut to its ink."""
    engine = ImageFont.Layout.RAQM if settings else ImageFont.Layout.BASIC
    font = ImageFont.truetype(str(path), 1000, layout_engine=engine)
    left, top, right, bottom = font.getbbox(text, **settings)
    page = Image.new("L", (int(right - left) + 100, int(bottom - top) + 100))
    ImageDraw.Draw(page).text((50 - left, 50 - top), text, font=font, fill=255, **settings)
    mask = np.asarray(page, dtype=np.float32) / 255
    top, bottom, left, right = box(mask)
    return mask[top:bottom, left:right]


@pytest.fixture
def plus(tmp_path):
    path = tmp_path / "plus.ttf"
    path.write_bytes(zlib.decompress(base64.b64decode(PLUS)))
    return path


# The raster is FreeType's


@pytest.mark.parametrize("text", list("ReChargB&g羅永龍愛書한"))
def test_a_character_is_what_freetype_draws(text):
    theirs = freetype(text, CJK)
    ours = draw(text, size=theirs.shape, margin=0).mask
    assert iou(ours, theirs) > 0.99
    assert abs(float(ours.mean()) - theirs.mean()) < 0.005


@raqm
@pytest.mark.parametrize(
    ("text", "path", "settings"),
    [
        ("ReChar AVATAR", CJK, {"direction": "ltr"}),
        ("عربي", ARABIC, {"direction": "rtl", "language": "ar"}),
        ("محبة وسلام", ARABIC, {"direction": "rtl", "language": "ar"}),
        ("किताब", DEVANAGARI, {"direction": "ltr", "language": "hi"}),
        ("क्षत्रिय हिन्दी", DEVANAGARI, {"direction": "ltr", "language": "hi"}),
    ],
)
def test_a_word_is_what_raqm_and_freetype_draw(text, path, settings):
    theirs = freetype(text, path, **settings)
    assert iou(draw(text, path, theirs.shape, margin=0).mask, theirs) > 0.98


@raqm
def test_vertical_text_is_what_raqm_and_freetype_draw():
    theirs = freetype("日本語の「愛」", CJK, direction="ttb", language="ja")
    assert iou(draw("日本語の「愛」", CJK, theirs.shape, margin=0, direction="vertical").mask, theirs) > 0.98


def test_coverage_of_a_box_is_its_exact_area():
    square = np.array([[1.25, 2.5], [6.75, 2.5], [6.75, 5.25], [1.25, 5.25]])
    found = coverage([square], (8, 8))
    assert found[3, 1] == pytest.approx(0.75)
    assert found[2, 3] == pytest.approx(0.5)
    assert found[5, 6] == pytest.approx(0.75 * 0.25)
    assert found.sum() == pytest.approx(5.5 * 2.75)
    assert found[:2].sum() == found[6:].sum() == found[:, 0].sum() == found[:, 7].sum() == 0


def test_overlapping_contours_do_not_cut_holes_and_contrary_ones_do():
    square = np.array([[0, 0], [4, 0], [4, 4], [0, 4]], dtype=float)
    assert coverage([square, square + 2], (8, 8)).sum() == 16 + 16 - 4
    assert coverage([square * 2, square[::-1] + 2], (8, 8)).sum() == 64 - 16


def test_what_lies_outside_the_canvas_is_cut():
    square = np.array([[-4, -4], [4, -4], [4, 4], [-4, 4]], dtype=float)
    assert coverage([square], (8, 8)).sum() == 16
    assert coverage([square - 100], (8, 8)).sum() == 0


# Shaping


def test_arabic_letters_join():
    word = draw("محبة", ARABIC, (256, 512))
    apart = draw("م‌ح‌ب‌ة", ARABIC, (256, 512))  # zero-width non-joiners between
    assert iou(word.mask, apart.mask) < 0.5
    assert word.characters == ("م", "ح", "ب", "ة")


def test_text_from_the_right_begins_at_the_right():
    lefts = [box(part)[2] for part in draw("عربي", ARABIC, (128, 512)).parts]
    assert lefts == sorted(lefts, reverse=True)


def test_devanagari_vowels_move_before_their_consonant_and_stay_with_it():
    drawing = draw("किताब", DEVANAGARI, (256, 512))
    assert drawing.characters == ("कि", "ता", "ब")
    alone = draw("क", DEVANAGARI, (256, 512), fit="em").mask
    with_i = draw("कि", DEVANAGARI, (256, 512), fit="em").mask
    assert iou(alone, with_i) < 0.6


def test_vertical_characters_stack_from_top_to_bottom():
    parts = draw("日本語", direction="vertical").parts
    boxes = [box(part) for part in parts]
    assert [b[1] <= after[0] for b, after in pairwise(boxes)] == [True, True]


def test_the_long_vowel_mark_turns_in_vertical_text():
    lying, standing = (box(draw("ー", direction=way).mask) for way in ("horizontal", "vertical"))
    assert lying[3] - lying[2] > 3 * (lying[1] - lying[0])
    assert standing[1] - standing[0] > 3 * (standing[3] - standing[2])


def test_columns_run_from_right_to_left_and_lines_from_top_to_bottom():
    first, second = draw("日\n月", direction="vertical").parts
    assert box(first)[2] >= box(second)[3]
    first, second = draw("日\n月").parts
    assert box(first)[1] <= box(second)[0]


def test_lines_are_centred():
    first, second = draw("W\ni", size=(512, 256)).parts
    middles = [(b[2] + b[3]) / 2 for b in (box(first), box(second))]
    assert abs(middles[0] - middles[1]) <= 1


@pytest.mark.parametrize(
    ("text", "base", "shown"),
    [
        ("abc", 0, "abc"),
        ("אבג", 1, "גבא"),
        ("abc אבג 123", 0, "abc 123 גבא"),
        ("abc אבג def", 0, "abc גבא def"),
        ("אבג abc", 1, "abc גבא"),
        ("אב 12.5 גד", 1, "דג 12.5 בא"),
        ("אב 12-30!", 1, "!12-30 בא"),
        ("12 אב", 0, "12 בא"),
        ("אב (גד)", 1, ")דג( בא"),  # the brackets are then mirrored by HarfBuzz
        ("مر ١٢", 1, "١٢ رم"),
        ("price $5 אב", 0, "price $5 בא"),
    ],
)
def test_mixed_directions_are_ordered_as_unicode_asks(text, base, shown):
    """Expected strings by hand from UAX #9; fribidi's command line gives the same."""
    assert "".join(visual_order(list(text), levels(text, base))) == shown


def test_the_first_letter_gives_the_direction():
    assert [base_level(text) for text in ("abc", "12 אב", "¡", "(مر abc")] == [0, 1, 0, 1]


# Fit


@pytest.mark.parametrize("size", [(256, 256), (200, 300), (1024, 64)])
@pytest.mark.parametrize("text", ["羅", "g", "ReChar", "一", "|", "日\n月"])
@pytest.mark.parametrize("stroke", [0, 3])
def test_the_ink_fills_the_canvas_to_its_margin(size, text, stroke):
    mask = draw(text, size=size, margin=0.1, stroke=stroke).mask
    top, bottom, left, right = box(mask)
    gaps = np.array([top, size[0] - bottom, left, size[1] - right]) - 0.1 * min(size)
    assert gaps.min() >= -1
    assert min(max(gaps[:2]), max(gaps[2:])) <= 1  # one direction is filled
    assert abs(gaps[0] - gaps[1]) <= 1 and abs(gaps[2] - gaps[3]) <= 1  # centred


def test_without_a_margin_nothing_is_clipped():
    mask = draw("永", margin=0).mask
    top, bottom, left, right = box(mask)
    assert bottom - top >= 255 or right - left >= 255
    smaller = draw("永", margin=0.05).mask
    assert float(mask.mean()) * 0.9**2 == pytest.approx(float(smaller.mean()), rel=0.01)


def test_em_fit_keeps_relative_sizes():
    heights = [box(draw(text, fit="em").mask) for text in "aA"]
    small, large = (b[1] - b[0] for b in heights)
    font = ImageFont.truetype(str(CJK), 1000)
    a, b = (font.getbbox(text) for text in "aA")
    assert small / large == pytest.approx((a[3] - a[1]) / (b[3] - b[1]), abs=0.02)


def test_a_stroke_grows_the_shape_by_its_width_and_an_outline_leaves_it_hollow(plus):
    grown = draw("+", plus, (256, 256), margin=0, stroke=8)
    arm = np.asarray(grown.mask)[:, 40] >= 0.5
    assert arm.sum() == pytest.approx(240 * 0.2 + 16, abs=1)
    hollow = draw("+", plus, (256, 256), margin=0, stroke=8, outline_only=True).mask
    plain = draw("+", plus, (256, 256), margin=8 / 256).mask
    assert torch.equal(hollow, grown.mask - plain)
    assert float(hollow[128, 128]) == 0  # nor does the overlap of the bars show


def test_a_round_stroke_has_the_area_of_steiners_formula(plus):
    """Area of a shape grown by r: A + L r + pi r² for a convex shape; the plus has 4 inner corners of r² each."""
    r, side = 8, 240
    area, length = 0.36 * side**2, 4 * side
    grown = float(draw("+", plus, (256, 256), margin=0, stroke=r).mask.sum())
    convex, concave = 8, 4
    expected = area + length * r + convex * np.pi * r**2 / 4 - concave * r**2
    assert grown == pytest.approx(expected, rel=0.002)


# Character by character


@pytest.mark.parametrize(
    ("text", "path", "settings", "count"),
    [
        ("羅", CJK, {}, 1),
        ("ReChar", CJK, {}, 6),
        ("春 雪\n花", CJK, {"direction": "vertical"}, 3),
        ("عربي", ARABIC, {}, 4),
        ("لا", ARABIC, {}, 2),
        ("الله", ARABIC, {}, 2),  # a ligature is one
        ("किताब", DEVANAGARI, {}, 3),
        ("e\N{COMBINING ACUTE ACCENT}a", CJK, {}, 2),
        ("محبة", ARABIC, {"stroke": 9}, 4),
        ("محبة", ARABIC, {"stroke": 5, "outline_only": True}, 4),
    ],
)
def test_character_masks_add_up_to_the_whole(text, path, settings, count):
    drawing = draw(text, path, **settings)
    assert drawing.parts.shape == (count, 256, 256)
    assert len(drawing.characters) == count
    assert float((drawing.parts.sum(dim=0) - drawing.mask).abs().max()) < 1e-5
    assert float(drawing.parts.min()) >= 0 and float(drawing.mask.max()) <= 1
    assert all(float(part.sum()) > 1 for part in drawing.parts)


def test_the_same_text_is_the_same_picture():
    assert torch.equal(draw("羅 a", stroke=2).parts, draw("羅 a", stroke=2).parts)


# Font files


def test_variable_fonts_have_no_holes_and_follow_their_axes(plus):
    for variations, area in (("", 0.36), ("wght=900", 0.64), ("wght = 650", 0.51)):
        mask = render("+", [open_face(plus, variations=variations)], (200, 200), margin=0).mask
        assert float(mask.mean()) == pytest.approx(area, abs=1e-3)


@pytest.mark.parametrize("variations", ["wdth=100", "wght=bold", "wght=1000", "heavy"])
def test_a_variation_that_does_not_exist_is_told_with_those_that_do(plus, variations):
    with pytest.raises(FileError, match="wght.*400.*900"):
        open_face(plus, variations=variations)


def test_a_static_font_takes_no_variations():
    with pytest.raises(FileError, match="not a variable font"):
        open_face(CJK, variations="wght=700")


def collection(*paths):
    """A .ttc of whole fonts, their table offsets moved."""
    start = 12 + 4 * len(paths)
    offsets, body = [], b""
    for data in (path.read_bytes() for path in paths):
        at = start + len(body)
        offsets.append(at)
        count = struct.unpack(">H", data[4:6])[0]
        records = b""
        for i in range(count):
            tag, checksum, offset, length = struct.unpack(">4sIII", data[12 + 16 * i : 28 + 16 * i])
            records += struct.pack(">4sIII", tag, checksum, offset + at, length)
        body += data[:12] + records + data[12 + 16 * count :]
    return (
        struct.pack(">4sII", b"ttcf", 0x10000, len(paths)) + struct.pack(f">{len(paths)}I", *offsets) + body
    )


def test_every_face_of_a_collection_can_be_had(tmp_path):
    path = tmp_path / "two.ttc"
    path.write_bytes(collection(ARABIC, DEVANAGARI))
    for index, text, single in ((0, "عربي", ARABIC), (1, "किताब", DEVANAGARI)):
        assert torch.equal(
            render(text, [open_face(path, index)], (64, 64)).mask, draw(text, single, (64, 64)).mask
        )
    with pytest.raises(FileError, match=r"2 faces.*no face 2"):
        open_face(path, 2)
    with pytest.raises(FileError, match="not a collection"):
        open_face(CJK, 1)


@pytest.mark.parametrize("kept", [0, 3, 11, 40, 1000, -1000])
def test_a_font_cut_short_is_told(tmp_path, kept):
    path = tmp_path / "cut.otf"
    path.write_bytes(CJK.read_bytes()[:kept])
    with pytest.raises(FileError, match=r"cut\.otf.*(cut short|damaged)"):
        open_face(path)


@pytest.mark.parametrize("seed", range(12))
def test_a_font_with_wrong_bytes_never_does_worse_than_a_clear_error(tmp_path, seed):
    random = np.random.default_rng(seed)
    data = bytearray(ARABIC.read_bytes())
    for at in random.integers(0, len(data) if seed % 2 else 400, 60):
        data[at] = random.integers(256)
    path = tmp_path / "bad.ttf"
    path.write_bytes(data)
    try:
        drawing = draw("عربي", path, (64, 64))
    except (FileError, GlyphError):
        return
    assert bool(torch.isfinite(drawing.mask).all())


@pytest.mark.parametrize(("tag", "message"), [(b"CBDT", "bitmap or colour"), (b"cmap", "no outlines")])
def test_a_font_without_outlines_is_told(tmp_path, tag, message):
    path = tmp_path / "emoji.ttf"
    path.write_bytes(
        b"\0\1\0\0" + struct.pack(">HHHH", 1, 0, 0, 0) + struct.pack(">4sIII", tag, 0, 28, 4) + bytes(4)
    )
    with pytest.raises(FileError, match=f"{message}.*choose an outline font"):
        open_face(path)


def test_other_files_are_not_fonts(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"<html>" + bytes(100))
    with pytest.raises(FileError, match="not a font file or is damaged"):
        open_face(tmp_path / "a.ttf")
    with pytest.raises(FileError, match="is not a font that can be read"):
        open_face(tmp_path / "a.woff2")
    with pytest.raises(FileError, match="There is no font file"):
        open_face(tmp_path / "b.ttf")
    (tmp_path / "c.ttf").mkdir()
    with pytest.raises(FileError, match="cannot be read"):
        open_face(tmp_path / "c.ttf")


def test_the_shipped_fonts_are_small_and_bring_their_licence():
    folder = CJK.parent
    assert sum(path.stat().st_size for path in library.SHIPPED.values()) < 600_000
    licence = (folder / "OFL.txt").read_text(encoding="utf-8")
    assert "SIL OPEN FONT LICENSE" in licence and "Copyright 2019 Google" in licence
    face = open_face(CJK)
    wanted = "羅字書永東愛龍福壽春花風雪山水木火土金日月ABCxyz0189あアー、。「」é"
    assert [c for c in wanted if not face.has(c)] == []


# Which fonts there are


def test_the_list_is_quick_and_begins_with_what_is_shipped():
    import time

    known()
    start = time.perf_counter()
    names = list(known({"mine/a.otf": Path("/x/mine/a.otf")}))
    assert time.perf_counter() - start < 0.3
    assert names[:4] == ["ReChar CJK", "ReChar Arabic", "ReChar Devanagari", "mine/a.otf"]


def test_system_fonts_are_listed_by_name_alone(tmp_path):
    for name in ("b/two.OTF", "a/one.ttf", "a/readme.txt", "c/one.ttf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"rubbish")
    found = library._system_fonts([tmp_path / "a", tmp_path / "b", tmp_path / "c", tmp_path / "none"])
    assert found == {"system/one.ttf": tmp_path / "a/one.ttf", "system/two.OTF": tmp_path / "b/two.OTF"}


def test_a_name_never_leaves_the_list(tmp_path):
    font, other = tmp_path / "a.ttf", tmp_path / "a.txt"
    font.write_bytes(b"")
    other.write_bytes(b"")
    assert find("x.ttf", {"x.ttf": font}) == font
    assert find(f' "{font}" ', {}) == font
    for name in (
        "../a.ttf",
        "a.ttf",
        "",
        "..",
        str(other),
        str(tmp_path),
        "/etc/passwd",
        "//server/share/a.ttf",
    ):
        with pytest.raises(FileError):
            find(name, {})
    with pytest.raises(FileError, match=r"There is no font file at .*b\.ttf"):
        find(str(tmp_path / "b.ttf"), {})
    with pytest.raises(FileError, match=r"Similar: NotoSans\.ttf"):
        find("NotoSnas.ttf", {"NotoSans.ttf": font})


# What is told


def test_a_missing_character_is_named_with_the_fonts_that_have_it(tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"rubbish")
    fonts = {"Broken": broken, "Gone": tmp_path / "gone.ttf", **library.SHIPPED}
    with pytest.raises(GlyphError) as error:
        draw("羅ي", CJK, fonts=fonts)
    assert str(error.value) == (
        "The font ReCharCJK.otf has no glyph for 'ي' (U+064A ARABIC LETTER YEH). Fonts that have it: ReChar Arabic. "
        "Choose one, or write it into fallback_fonts."
    )
    with pytest.raises(GlyphError, match="No font known here has it: put one that does into models/fonts"):
        draw("\N{SLIGHTLY SMILING FACE}", fonts=fonts)
    with pytest.raises(GlyphError, match="has them all; found: 'क' ReChar Devanagari; 'ي' ReChar Arabic"):
        draw("कaي", fonts=fonts)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("", {}, "text is empty"),
        (" \n\t ", {}, "text is empty"),
        ("\N{IDEOGRAPHIC SPACE}", {}, "text is empty"),
        ("a" * 1001, {}, "1001 characters; at most 1000"),
        ("\N{ZERO WIDTH JOINER}", {}, "draws nothing"),
        ("\a", {}, r"U\+0007 without a name"),
        ("a", {"size": (0, 256)}, "256 x 0 pixels; each side must be 1 to 8192"),
        ("a", {"size": (9000, 256)}, "1 to 8192"),
        ("a", {"margin": 0.5}, "margin is 0.5"),
        ("a", {"margin": float("nan")}, "margin is nan"),
        ("a", {"stroke": -1}, "stroke is -1"),
        ("a", {"stroke": 128}, "leave no room"),
        ("a", {"outline_only": True}, "outline needs a stroke"),
        ("a", {"fit": "tight"}, "no fit 'tight'; choose one of ink, em"),
        ("a", {"direction": "up"}, "no direction 'up'; choose one of auto"),
        ("a", {"line_spacing": 9}, "line spacing is 9"),
        ("ab" * 20, {"size": (4096, 4096)}, "40 characters are too many for this canvas: at most 16"),
    ],
)
def test_every_wrong_setting_is_told(text, settings, message):
    with pytest.raises(GlyphError, match=message):
        draw(text, **settings)


@pytest.mark.parametrize(
    ("text", "path", "script"), [("عربي", ARABIC, "Arab"), ("किताब", DEVANAGARI, "Deva")]
)
def test_letters_that_hang_together_are_not_broken_apart_in_columns(text, path, script):
    with pytest.raises(GlyphError, match=f"{script}.*hang together along a horizontal line"):
        draw(text, path, direction="vertical")


# Colours


def test_colours_are_read_and_painted():
    assert colour("#f80") == colour("FF8800") == (1, 0x88 / 255, 0)
    assert (
        colour("#FF880080") == colour(" f80f ") == colour("#f80")
    )  # ComfyUI's colour picker adds the opacity
    assert colour("Navy") == (0, 0, 0x80 / 255) and colour("red") == (1, 0, 0)
    for wrong in ("", "reddish", "#12345", "#gggggg", "0xff8800", "羅"):
        with pytest.raises(GlyphError, match="is not a colour"):
            colour(wrong)
    image = paint(torch.tensor([[[0.0, 0.5, 1.0]]]), (1, 0, 0), (0, 0, 1))
    assert image.tolist() == [[[[0, 0, 1], [0.5, 0, 0.5], [1, 0, 0]]]]
    image = paint(torch.tensor([[[0.0, 0.5, 1.0]]]), (1, 0, 0), (0, 0, 1), transparent=True)
    assert image.tolist() == [[[[0, 0, 1, 0], [1, 0, 0, 0.5], [1, 0, 0, 1]]]]  # no rim of paper


# From a picture


def photo(text="羅", ink=0.2, paper=0.8, noise=0.03, size=(300, 200)):
    """A glyph off centre on noisy paper, (1, h, w, 3)."""
    mask = torch.zeros(size)
    mask[40:140, 20:120] = draw(text, size=(100, 100), margin=0).mask
    grain = torch.randn(size, generator=torch.Generator().manual_seed(0)) * noise
    return (paper + mask * (ink - paper) + grain).clamp(0, 1)[None, ..., None].expand(1, *size, 3)


@pytest.mark.parametrize("shades", [(0.2, 0.8), (0.9, 0.3)])
@pytest.mark.parametrize("size", [(64, 64), (512, 768)])
def test_the_glyph_of_a_picture_is_found_and_fitted(shades, size):
    mask = from_picture(photo(ink=shades[0], paper=shades[1]), size)[0]
    assert mask.shape == size
    assert iou(mask, draw("羅", size=size).mask) > 0.8
    top, bottom, left, right = box(mask)
    assert abs(top - (size[0] - bottom)) <= 2 and abs(left - (size[1] - right)) <= 2
    assert (bottom - top) / (right - left) == pytest.approx(1, abs=0.05)  # not squashed


def test_grain_is_taken_for_paper_and_hairlines_for_ink():
    image = torch.ones(1, 100, 100, 3)
    image[:, 30:70, 50] = 0  # a stroke one pixel wide
    clean = from_picture(image, (50, 50))
    for y, x in ((3, 4), (80, 90), (80, 91), (10, 60)):
        image[:, y, x] = 0
    assert torch.equal(from_picture(image, (50, 50)), clean)
    noisy = from_picture(photo(noise=0.08), (512, 512))[0]
    assert iou(noisy, draw("羅", size=(512, 512)).mask) > 0.8


@pytest.mark.parametrize("size", [(64, 64), (64, 256), (512, 512), (512, 300)])
@pytest.mark.parametrize("margin", [0, 0.2])
def test_the_ink_of_a_picture_keeps_its_margin(size, margin):
    top, bottom, left, right = box(from_picture(photo(), size, margin=margin)[0])
    gaps = np.array([top, size[0] - bottom, left, size[1] - right]) - margin * min(size)
    assert gaps.min() >= -1
    assert min(max(gaps[:2]), max(gaps[2:])) <= 1.5
    assert abs(gaps[0] - gaps[1]) <= 2 and abs(gaps[2] - gaps[3]) <= 2


def test_an_enlarged_picture_has_no_stairs():
    small = draw("永", size=(96, 96)).mask
    large = from_picture((1 - small)[None, ..., None].expand(1, 96, 96, 3), (768, 768))[0]
    assert iou(large, draw("永", size=(768, 768)).mask) > 0.95
    assert float(((large > 0.02) & (large < 0.98)).float().mean()) < 0.03  # the edge is thin


def test_the_border_decides_what_is_ink_and_can_be_overruled():
    image = photo(noise=0)
    auto = from_picture(image, (128, 128), threshold=0.5)
    assert torch.allclose(auto, from_picture(1 - image, (128, 128), threshold=0.5, invert="on"), atol=1e-3)
    assert torch.equal(auto, from_picture(image, (128, 128), threshold=0.5, invert="off"))
    bold = photo("田", noise=0)  # most of the picture may be ink, the border still is paper
    assert float(from_picture(bold[:, 39:141, 19:121], (128, 128)).mean()) < 0.6


def test_transparency_is_paper_and_a_batch_stays_a_batch():
    image = photo(noise=0)
    alpha = (image[..., :1] < 0.5).float()
    clear = torch.cat([torch.zeros_like(image), alpha], dim=-1)
    assert iou(from_picture(clear, (128, 128))[0], from_picture(image, (128, 128))[0]) > 0.9
    assert from_picture(image.repeat(3, 1, 1, 1), (32, 64)).shape == (3, 32, 64)


def test_otsu_parts_two_classes_in_the_middle():
    grey = torch.cat([torch.full((900,), 0.8), torch.full((100,), 0.2)])
    assert picture.otsu(grey) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        (torch.ones(1, 8, 8, 3), {}, "of one colour"),
        (photo(noise=0), {"threshold": 0.01}, "all paper.*0.20 to 0.80"),
        (photo(noise=0), {"threshold": 0.99}, "all paper|all ink"),
        (photo(), {"invert": "maybe"}, "no way to invert 'maybe'"),
        (photo(), {"margin": 0.6}, "margin is 0.6"),
        (torch.ones(1, 0, 8, 3), {}, "is empty"),
    ],
)
def test_a_picture_without_a_glyph_is_told(image, settings, message):
    with pytest.raises(ImageError, match=message):
        from_picture(image, (64, 64), **settings)


# The nodes, in the host

IN_HOST = """
import gc, importlib, json, sys, time, types
sys.path.insert(0, ".")
import folder_paths, torch
from comfy_api.latest import io
root, models, out = sys.argv[1], sys.argv[2], {}
folder_paths.add_model_folder_path("fonts", models)
for name in (root, root + ".nodes"):
    package = types.ModuleType(name)
    package.__path__ = [root + "/nodes" if name.endswith(".nodes") else root]
    sys.modules[name] = package
gc.freeze()  # as in test_server.py
start = time.perf_counter()
glyph, picture = importlib.import_module(root + ".nodes.glyph").NODES
out["import"] = time.perf_counter() - start
start = time.perf_counter()
inputs = glyph.INPUT_TYPES()
out["list"] = time.perf_counter() - start
out["fonts"] = inputs["required"]["font"][1]["options"]
groups = [group for node in (glyph, picture) for group in node.INPUT_TYPES().values()]
out["tips"] = [name for group in groups for name, value in group.items() if not value[1].get("tooltip")]
out["ids"] = [n.GET_SCHEMA().node_id for n in (glyph, picture)]
out["folders"] = folder_paths.get_folder_paths("fonts")
given = dict(text="春", font="mine/a.otf", width=320, height=256, direction="auto", fit="ink", margin=0.1, stroke=0.0)
given |= dict(outline_only=False, ink="#ff0000", paper="#ffffff")
with torch.inference_mode():
    result = glyph.execute(**given).result
    second = picture.execute(result[0], 128, 64, "auto", 0.5, invert="auto", margin=0.1).result
    clear = glyph.execute(**given, transparent=True, fallback_fonts="ReChar Arabic", letter_spacing=0.1).result[0]
out["shapes"] = [list(t.shape) for t in (*result[:3], *second, clear)]
out["report"] = result[3]
out["corner"] = result[0][0, 0, 0].tolist()
try:
    glyph.execute(**{**given, "font": "../../a.otf"})
except Exception as error:
    out["error"] = [type(error).__name__, str(error)]
print("RESULT" + json.dumps(out))
"""


@pytest.mark.host
def test_the_nodes_run_in_the_host(tmp_path):
    host = find_host()
    pack = tmp_path / "rechar-pack"
    pack.symlink_to(ROOT, target_is_directory=True)
    own = tmp_path / "fonts" / "mine" / "a.otf"
    own.parent.mkdir(parents=True)
    own.write_bytes(CJK.read_bytes())
    run = subprocess.run(
        [str(host.python), "-c", IN_HOST, str(pack), str(own.parents[1])],
        cwd=host.folder,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert run.returncode == 0, run.stderr
    out = json.loads(run.stdout.rpartition("RESULT")[2])
    assert out["import"] < 0.3 and out["list"] < 0.3
    assert out["fonts"][:4] == ["ReChar CJK", "ReChar Arabic", "ReChar Devanagari", "mine/a.otf"]
    assert out["tips"] == []
    assert out["ids"] == ["ReCharGlyph", "ReCharGlyphFromImage"]
    assert out["folders"] == [str(own.parents[1])]  # the host's own table is left as it was
    assert out["shapes"] == [
        [1, 256, 320, 3],
        [1, 256, 320],
        [1, 256, 320],
        [1, 64, 128, 3],
        [1, 64, 128],
        [1, 256, 320, 4],
    ]
    assert out["report"] == "a.otf: 春"
    assert out["corner"] == [1, 1, 1]
    assert out["error"][0] == "FileError" and "There is no font '../../a.otf'" in out["error"][1]
