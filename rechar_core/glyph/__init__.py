"""Makes a glyph's mask from text or from a picture: shaping by HarfBuzz, outlines, fit, anti-aliased raster.

    face = open_face(find(name, known()))
    drawing = render("羅", [face], (1024, 1024))     # drawing.mask (H, W), drawing.parts (N, H, W)
    image = paint(drawing.mask[None], colour("#000000"), colour("#ffffff"))

Not covered: vertical text in scripts whose letters join or attach along a horizontal line (Arabic, Indic, Thai), lying
Latin in Chinese columns; bidi embeddings and paired brackets; justification; colour and bitmap fonts.
"""

from .colours import colour, paint
from .errors import GlyphError
from .face import Face, open_face
from .library import fallback, find, known
from .picture import from_picture
from .render import RenderedGlyph, render

__all__ = [
    "Face",
    "GlyphError",
    "RenderedGlyph",
    "colour",
    "fallback",
    "find",
    "from_picture",
    "known",
    "open_face",
    "paint",
    "render",
]
