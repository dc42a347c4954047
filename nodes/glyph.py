"""Text or a picture becomes a glyph: the shape that a structure LoRA learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .host.fonts import all_fonts

if TYPE_CHECKING:
    from torch import Tensor

_SIDE = {"default": 1024, "min": 64, "max": 8192, "step": 8}
_MARGIN = {"default": 0.1, "min": 0.0, "max": 0.45, "step": 0.01}


class ReCharGlyph(io.ComfyNode):
    """Text, shaped and fitted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharGlyph",
            display_name="Glyph",
            category="ReChar/Glyph",
            description=(
                "Draws one character, several or a word as large as the canvas allows, centred by its ink and never "
                "clipped. Chinese, Japanese, Korean, Arabic, Hebrew, Indic and Latin scripts are shaped by HarfBuzz."
            ),
            inputs=[
                io.String.Input(
                    "text",
                    default="羅",
                    multiline=True,
                    tooltip="What to draw. A new line begins a new line, or a new column in vertical text.",
                ),
                io.Combo.Input(
                    "font",
                    options=list(all_fonts()),
                    tooltip="ReChar's own small fonts, those in models/fonts, then the system's.",
                ),
                io.Int.Input("width", **_SIDE, tooltip="Width of the canvas in pixels."),
                io.Int.Input("height", **_SIDE, tooltip="Height of the canvas in pixels."),
                io.Combo.Input(
                    "direction",
                    options=["auto", "horizontal", "vertical", "rtl"],
                    tooltip=(
                        "auto: each line runs as its first letter does (Arabic from the right). horizontal: lines run "
                        "from the left. rtl: from the right. vertical: columns from top to bottom, right to left."
                    ),
                ),
                io.Combo.Input(
                    "fit",
                    options=["ink", "em"],
                    tooltip=(
                        "ink: the drawn shape itself fills the canvas. em: the font's line height does, so that "
                        "different characters keep their relative sizes."
                    ),
                ),
                io.Float.Input("margin", **_MARGIN, tooltip="Free part of the shorter side, on each side."),
                io.Float.Input(
                    "stroke",
                    default=0.0,
                    min=0.0,
                    max=128.0,
                    step=0.5,
                    tooltip="Makes the shape bolder by this many pixels all round; it still fits the margin.",
                ),
                io.Boolean.Input(
                    "outline_only",
                    default=False,
                    tooltip="Draw only the stroke around the shape, not the shape.",
                ),
                io.String.Input("ink", default="#000000", tooltip="Colour of the glyph, as #rrggbb."),
                io.String.Input("paper", default="#ffffff", tooltip="Colour of the ground, as #rrggbb."),
                io.Float.Input(
                    "line_spacing",
                    default=1.0,
                    min=0.5,
                    max=3.0,
                    step=0.05,
                    optional=True,
                    tooltip="Distance of lines or columns, times the font's own.",
                ),
                io.Int.Input(
                    "face",
                    default=0,
                    min=0,
                    max=63,
                    optional=True,
                    tooltip="Which face of a collection (.ttc, .otc); 0 is the first.",
                ),
                io.String.Input(
                    "variations",
                    default="",
                    optional=True,
                    tooltip="For a variable font: its axes, such as wght=700, wdth=85. Empty: as designed.",
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
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The glyph in ink on paper."),
                io.Mask.Output("mask", display_name="mask", tooltip="1 where the ink is."),
                io.Mask.Output(
                    "characters",
                    display_name="characters",
                    tooltip="One mask a character, in reading order; together they are the mask.",
                ),
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
        **settings: Any,
    ) -> io.NodeOutput:
        from ..rechar_core.glyph import colour, find, open_face, paint, render

        ink_colour, paper_colour, fonts = colour(ink), colour(paper), all_fonts()
        opened = open_face(find(font_path.strip() or font, fonts), face, variations)
        drawing = render(text, opened, (height, width), fonts=fonts, **settings)
        mask = drawing.mask[None]
        return io.NodeOutput(paint(mask, ink_colour, paper_colour), mask, drawing.parts)


class ReCharGlyphFromImage(io.ComfyNode):
    """A picture of a glyph, cleaned and fitted."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReCharGlyphFromImage",
            display_name="Glyph from Image",
            category="ReChar/Glyph",
            description=(
                "Parts the ink from the paper in a picture of a character (scan, calligraphy, logo) and sets it in the "
                "middle of a clean canvas, black on white. The shape is padded, never squashed."
            ),
            inputs=[
                io.Image.Input("image", tooltip="A picture of a character on a plain ground."),
                io.Int.Input("width", **_SIDE, tooltip="Width of the canvas in pixels."),
                io.Int.Input("height", **_SIDE, tooltip="Height of the canvas in pixels."),
                io.Combo.Input(
                    "threshold_mode",
                    options=["auto", "manual"],
                    tooltip="auto finds the grey that best parts ink from paper (Otsu); manual takes the one below.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="For manual: greys darker than this are one side, the others the other side.",
                ),
                io.Combo.Input(
                    "invert",
                    options=["auto", "off", "on"],
                    tooltip="off: the ink is dark. on: the ink is light. auto: what touches the border less.",
                ),
                io.Float.Input("margin", **_MARGIN, tooltip="Free part of the shorter side, on each side."),
            ],
            outputs=[
                io.Image.Output("glyph", display_name="image", tooltip="The glyph, black on white."),
                io.Mask.Output("mask", display_name="mask", tooltip="1 where the ink is."),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        width: int,
        height: int,
        threshold_mode: str,
        threshold: float,
        invert: str,
        margin: float,
    ) -> io.NodeOutput:
        from ..rechar_core.glyph import colour, from_picture, paint

        level = threshold if threshold_mode == "manual" else None
        mask = from_picture(image, (height, width), threshold=level, invert=invert, margin=margin)
        return io.NodeOutput(paint(mask, colour("#000000"), colour("#ffffff")), mask)


NODES = [ReCharGlyph, ReCharGlyphFromImage]
