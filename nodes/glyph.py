"""Nodes that make the picture of a glyph, from text or from a picture, to train a structure LoRA on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .host.fonts import all_fonts
from .sockets import COLOUR

if TYPE_CHECKING:
    from torch import Tensor

_SIDE = {"default": 1024, "min": 64, "max": 8192, "step": 8}
_MARGIN = {"default": 0.1, "min": 0.0, "max": 0.45, "step": 0.01}


class ReCharGlyph(io.ComfyNode):
    """Draws text, shaped by HarfBuzz and fitted to the canvas."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharGlyph",
            display_name="Glyph",
            category="ReChar/Glyph",
            description=(
                "Draws a character, several characters or a word as large as the canvas allows, centred by its ink "
                "and never clipped. HarfBuzz shapes Chinese, Japanese, Korean, Arabic, Hebrew, Indic, Mongolian and "
                "Latin scripts."
            ),
            inputs=[
                io.String.Input(
                    "text",
                    default="羅",
                    multiline=True,
                    tooltip="The text to draw. A line break starts a new line, or a new column in vertical text.",
                ),
                io.Combo.Input(
                    "font",
                    options=list(all_fonts()),
                    tooltip="Lists ReChar's own small fonts, then those in models/fonts, then the system's.",
                ),
                io.Int.Input("width", **_SIDE, tooltip="Width of the canvas in pixels."),
                io.Int.Input("height", **_SIDE, tooltip="Height of the canvas in pixels."),
                io.Combo.Input(
                    "direction",
                    options=["auto", "horizontal", "vertical", "rtl"],
                    tooltip=(
                        "auto: the first letter of each line decides (Arabic: right to left); a text that begins with "
                        "Mongolian is vertical, its columns from left to right. "
                        "horizontal: left to right. rtl: right to left. vertical: columns from top to bottom, ordered "
                        "from right to left."
                    ),
                ),
                io.Combo.Input(
                    "fit",
                    options=["ink", "em"],
                    tooltip=(
                        "ink: scales the drawn shape to fill the canvas. em: scales the font's line height to fill "
                        "it, so that different characters keep their relative sizes."
                    ),
                ),
                io.Float.Input(
                    "margin",
                    **_MARGIN,
                    tooltip="Empty margin on each side, as a fraction of the shorter side.",
                ),
                io.Float.Input(
                    "stroke",
                    default=0.0,
                    min=0.0,
                    max=128.0,
                    step=0.5,
                    tooltip=(
                        "Makes the shape bolder by this many pixels on all sides. It still stays inside the margin."
                    ),
                ),
                io.Boolean.Input(
                    "outline_only",
                    default=False,
                    tooltip="Draws only the outline of width 'stroke', without the shape itself.",
                ),
                io.MultiType.Input(
                    io.String.Input(
                        "ink", default="#000000", tooltip="Colour of the glyph, as #rrggbb or by name (navy)."
                    ),
                    [COLOUR],
                ),
                io.MultiType.Input(
                    io.String.Input(
                        "paper",
                        default="#ffffff",
                        tooltip="Colour of the background, as #rrggbb or by name (navy).",
                    ),
                    [COLOUR],
                ),
                io.Float.Input(
                    "line_spacing",
                    default=1.0,
                    min=0.5,
                    max=3.0,
                    step=0.05,
                    optional=True,
                    tooltip="Distance between lines or columns, as a multiple of the font's own.",
                ),
                io.Int.Input(
                    "face",
                    default=0,
                    min=0,
                    max=63,
                    optional=True,
                    tooltip="Number of the face in a font collection (.ttc, .otc). 0 is the first.",
                ),
                io.String.Input(
                    "variations",
                    default="",
                    optional=True,
                    tooltip="Axis values of a variable font, such as wght=700, wdth=85. Empty: the font's defaults.",
                ),
                io.String.Input(
                    "language",
                    default="",
                    optional=True,
                    tooltip="A language tag such as ja, zh-Hant or ur, for fonts with regional forms. May stay empty.",
                ),
                io.String.Input(
                    "font_path",
                    default="",
                    optional=True,
                    tooltip="Full path of a .ttf, .otf, .ttc or .otc file; it replaces the font chosen above.",
                ),
                io.String.Input(
                    "fallback_fonts",
                    default="",
                    optional=True,
                    tooltip=(
                        "Fonts for characters that the font lacks, separated by commas: names of the list above, or "
                        "full paths. The first one that has a character draws it. ReChar's own fonts come last."
                    ),
                ),
                io.Float.Input(
                    "letter_spacing",
                    default=0.0,
                    min=-0.5,
                    max=4.0,
                    step=0.01,
                    optional=True,
                    tooltip="Extra space between characters, in em. Letters that join (Arabic) stay joined.",
                ),
                io.Boolean.Input(
                    "transparent",
                    default=False,
                    optional=True,
                    tooltip="The image gets an alpha channel: the paper is transparent, for logos and layers.",
                ),
            ],
            outputs=[
                io.Image.Output("image", "image", tooltip="The glyph in the ink colour on the paper colour."),
                io.Mask.Output("mask", "mask", tooltip="1 where the ink is."),
                io.Mask.Output(
                    "characters",
                    "characters",
                    tooltip="One mask per character, in reading order. Together they make up the mask.",
                ),
                io.String.Output("report", "report", tooltip="Which font drew which characters."),
            ],
        )

    @classmethod
    def execute(
        cls,
        text: str,
        font: str,
        width: int,
        height: int,
        ink: str,
        paper: str,
        face: int = 0,
        variations: str = "",
        font_path: str = "",
        fallback_fonts: str = "",
        transparent: bool = False,
        **settings: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.glyph import colour, fallback, find, open_face, paint, render

        ink_colour, paper_colour, fonts = colour(ink), colour(paper), all_fonts()
        path = find(font_path.strip() or font, fonts)
        faces = [open_face(path, face, variations), *map(open_face, fallback(fallback_fonts, fonts, path))]
        drawing = render(text, faces, (height, width), fonts=fonts, **settings)
        mask = drawing.mask[None]
        image = paint(mask, ink_colour, paper_colour, transparent=transparent)
        return io.NodeOutput(image, mask, drawing.parts, drawing.report())


class ReCharGlyphFromImage(io.ComfyNode):
    """Cleans a picture of a glyph and fits it to the canvas."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharGlyphFromImage",
            display_name="Glyph from Image",
            category="ReChar/Glyph",
            description=(
                "Separates ink from paper in a picture of a character (scan, calligraphy, logo) and centres the ink "
                "on a clean canvas, black on white. The shape is padded, never distorted."
            ),
            inputs=[
                io.Image.Input("image", tooltip="A picture of a character on a plain background."),
                io.Int.Input("width", **_SIDE, tooltip="Width of the canvas in pixels."),
                io.Int.Input("height", **_SIDE, tooltip="Height of the canvas in pixels."),
                io.Combo.Input(
                    "threshold_mode",
                    options=["auto", "manual"],
                    tooltip=(
                        "auto: finds the grey that best separates ink from paper (Otsu), under a soft shadow too. "
                        "manual: uses the threshold below."
                    ),
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For manual: separates the darker greys from the lighter ones.",
                ),
                io.Combo.Input(
                    "invert",
                    options=["auto", "off", "on"],
                    tooltip=(
                        "off: the ink is dark. on: the ink is light. auto: the ink is the side that touches the "
                        "border less."
                    ),
                ),
                io.Float.Input(
                    "margin",
                    **_MARGIN,
                    tooltip="Empty margin on each side, as a fraction of the shorter side.",
                ),
                io.Combo.Input(
                    "seals",
                    options=["remove", "keep"],
                    optional=True,
                    tooltip=(
                        "remove: ink of another colour than the writing, such as a red seal, is left out. keep: all "
                        "ink stays; for logos in several colours."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output("glyph", "image", tooltip="The glyph, black on white."),
                io.Mask.Output("mask", "mask", tooltip="1 where the ink is."),
            ],
        )

    @classmethod
    def execute(
        cls, image: Tensor, width: int, height: int, threshold_mode: str, threshold: float, **ink: Any
    ) -> io.NodeOutput:
        from ..rechar_core.glyph import colour, from_picture, paint
        from .host.progress import say

        level = threshold if threshold_mode == "manual" else None
        mask = from_picture(image, (height, width), threshold=level, say=say, **ink)
        return io.NodeOutput(paint(mask, colour("#000000"), colour("#ffffff")), mask)


NODES = [ReCharGlyph, ReCharGlyphFromImage]
