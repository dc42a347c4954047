"""Renders text as masks, whole and for each character: shaping, outlines, fit to the canvas, raster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import check_choice
from .errors import GlyphError
from .face import Face
from .outline import outline
from .raster import band, coverage
from .shaping import Line, Shaping, shape

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

FITS = ("ink", "em")
MOST_PIXELS = 8192  # a side
MOST_STROKE = 128
_MOST_PARTS = 2**28  # values in all character masks together: 1 GiB


Characters = dict[int, "list[np.ndarray]"]  # the polygons of each character, by where it begins in the text


@dataclass(frozen=True)
class RenderedGlyph:
    """A text as masks: 1 is ink, 0 is paper, values in between are the covered fraction of a pixel."""

    mask: Tensor  # (H, W) float32
    parts: Tensor  # (N, H, W) float32, one a character with ink, in reading order; they add up to `mask`
    characters: tuple[str, ...]  # the text of each part: one character, a ligature or a syllable
    fonts: tuple[str, ...]  # the file name of the font that drew each part

    def report(self) -> str:
        """Which font drew what, a line for each font: "ReCharCJK.otf: 羅 A"."""
        drawn: dict[str, list[str]] = {}
        for character, font in zip(self.characters, self.fonts):
            drawn.setdefault(font, []).append(character)
        return "\n".join(f"{font}: {' '.join(dict.fromkeys(what))}" for font, what in drawn.items())


def render(
    text: str,
    faces: Sequence[Face],
    size: tuple[int, int],
    *,
    direction: str = "auto",
    fit: str = "ink",
    margin: float = 0.1,
    stroke: float = 0.0,
    outline_only: bool = False,
    line_spacing: float = 1.0,
    letter_spacing: float = 0.0,
    language: str = "",
    fonts: Mapping[str, Path] | None = None,
) -> RenderedGlyph:
    """Draws `text` as large as it fits, centred, never clipped.

    faces, direction, language, letter_spacing: see `shaping.shape`. size: height and width in pixels.
    Vertical columns are ordered from right to left, those of Mongolian and Phags-pa from left to right.
    fit: "ink" scales the bounding box of the drawn shape to the canvas; "em" scales the font's line height and advance
    to it, so that different characters keep their relative sizes. margin: fraction of the shorter side, 0..0.45, on
    each side. stroke: pixels by which the shape grows on all sides, 0..128. outline_only: draws only the stroke.
    line_spacing: multiple of the font's own, 0.5..3. fonts: fonts to suggest if a character is missing.
    Raises GlyphError.
    """
    _check(size, fit, margin, stroke, outline_only, line_spacing)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ").strip("\n")
    lines, mode = shape(text, faces, Shaping(direction, language, letter_spacing), fonts)
    glyphs = [glyph for line in lines for glyph in line.glyphs]
    fineness = 20 * max(size) / max(1, len(glyphs)) ** 0.5
    block, boxes = _block(lines, faces[0], fit, mode, line_spacing, fineness)
    if not block:
        raise GlyphError(_inkless(text, glyphs[0].face if glyphs else faces[0]))
    pixels = _fitted(block, _bounds(boxes), size, margin * min(size), stroke)
    names = _names(text, sorted({glyph.cluster for glyph in glyphs}))
    drew = {glyph.cluster: glyph.face.name for glyph in glyphs}
    characters = tuple((names[cluster], drew[cluster]) for cluster in pixels)
    return _raster(characters, list(pixels.values()), size, stroke, outline_only)


def _check(
    size: tuple[int, int], fit: str, margin: float, stroke: float, outline_only: bool, line_spacing: float
) -> None:
    height, width = size
    if not (1 <= height <= MOST_PIXELS and 1 <= width <= MOST_PIXELS):
        raise GlyphError(f"The canvas is {width} x {height} pixels; each side must be 1 to {MOST_PIXELS}.")
    check_choice("fit", fit, FITS, GlyphError)
    if not 0 <= margin <= 0.45:
        raise GlyphError(f"The margin is {margin:g}; it must be 0 to 0.45 of the shorter side.")
    if not 0 <= stroke <= MOST_STROKE:
        raise GlyphError(f"The stroke is {stroke:g} pixels; it must be 0 to {MOST_STROKE}.")
    if outline_only and not stroke:
        raise GlyphError("An outline needs a stroke; set the stroke to 1 pixel or more.")
    if not 0.5 <= line_spacing <= 3:
        raise GlyphError(f"The line spacing is {line_spacing:g}; it must be 0.5 to 3.")


def _characters(line: Line, upem: int, fineness: float) -> Characters:
    """The outlines of each character of a line that has ink, in units of a font with this em."""
    import numpy as np

    characters: Characters = {}
    for glyph in line.glyphs:
        shapes = outline(glyph.face, glyph.glyph, fineness)
        if shapes:
            at, scale = np.array([glyph.x, glyph.y]), upem / glyph.face.upem
            turn = np.array([[0, -1], [1, 0]] if glyph.turned else [[1, 0], [0, 1]]) * scale
            characters.setdefault(glyph.cluster, []).extend(polygon @ turn + at for polygon in shapes)
    return characters


def _bounds(polygons: Iterable[np.ndarray]) -> np.ndarray:
    """((left, bottom), (right, top)) of all polygons together."""
    import numpy as np

    points = np.concatenate(list(polygons))
    return np.stack([points.min(axis=0), points.max(axis=0)])


def _block(
    lines: Sequence[Line], face: Face, fit: str, mode: str, spacing: float, fineness: float
) -> tuple[Characters, list[np.ndarray]]:
    """The outlines of all characters in font units, y upwards, and the box of each line, for `fit`.

    mode: CSS's writing mode. Horizontal lines are centred below each other; columns are aligned at the top.
    """
    import numpy as np

    vertical = mode != "horizontal-tb"
    extents = face.font.get_font_extents("ttb" if mode == "vertical-rl" else "ltr")
    ascender, descender = extents.ascender, extents.descender
    if mode == "vertical-lr":  # lying letters, centred on their column
        ascender, descender = (ascender - descender) / 2, (descender - ascender) / 2
    pitch = (ascender - descender + extents.line_gap) * spacing * (-1 if mode == "vertical-lr" else 1)
    block: Characters = {}
    boxes = []
    for i, line in enumerate(lines):
        characters = _characters(line, face.upem, fineness)
        if not characters:
            continue
        polygons = [polygon for shapes in characters.values() for polygon in shapes]
        if fit == "em" and vertical:
            polygons.append(np.array([(descender, -line.advance), (ascender, 0)]))
        elif fit == "em":
            polygons.append(np.array([(0, descender), (line.advance, ascender)]))
        box = _bounds(polygons)
        move = np.array([-i * pitch, 0.0] if vertical else [-box[:, 0].mean(), -i * pitch])
        block |= {cluster: [polygon + move for polygon in shapes] for cluster, shapes in characters.items()}
        boxes.append(box + move)
    return block, boxes


def _fitted(
    block: Characters, box: np.ndarray, size: tuple[int, int], margin: float, stroke: float
) -> Characters:
    """The polygons in pixels, y downwards, scaled so that `box` and the stroke fill the canvas inside its margins."""
    import numpy as np

    height, width = size
    rim = 2 * (margin + stroke)
    if min(size) - rim < 1:
        raise GlyphError(
            f"Margin and stroke leave no room on a canvas of {width} x {height}; make one of them smaller."
        )
    centre = np.array([width, height]) / 2
    scale = ((2 * centre - rim) / np.maximum(box[1] - box[0], 1e-6)).min()
    return {
        cluster: [(polygon - box.mean(axis=0)) * (scale, -scale) + centre for polygon in shapes]
        for cluster, shapes in sorted(block.items())
    }


def _raster(
    characters: tuple[tuple[str, str], ...],
    shapes: list[list[np.ndarray]],
    size: tuple[int, int],
    stroke: float,
    outline_only: bool,
) -> RenderedGlyph:
    """The mask of the text and the part of each character; where two overlap, the earlier one gets the ink.

    characters: of each part, its text and its font.
    """
    import numpy as np
    import torch

    if len(shapes) * size[0] * size[1] > _MOST_PARTS:
        most = _MOST_PARTS // (size[0] * size[1])
        raise GlyphError(
            f"{len(shapes)} characters are too many for this canvas: at most {most}, or a smaller one."
        )
    parts = np.zeros((len(shapes), *size), np.float32)
    fill = coverage([polygon for polygons in shapes for polygon in polygons], size)
    for part, polygons in zip(parts, shapes):
        shape_fill = coverage(polygons, size)
        part[:] = np.maximum(shape_fill, coverage(band(polygons, stroke), size)) if stroke else shape_fill
    mask = np.maximum(fill, parts.max(axis=0)) if stroke else fill
    if outline_only:
        mask -= fill
    left = mask.copy()
    for part in parts:
        part[:] = np.minimum(np.maximum(part - fill, 0) if outline_only else part, left)
        left -= part
    names, fonts = zip(*characters)
    return RenderedGlyph(torch.from_numpy(mask), torch.from_numpy(parts), names, fonts)


def _names(text: str, clusters: Sequence[int]) -> dict[int, str]:
    """The text of each character: from its start to the start of the next."""
    ends = [*clusters[1:], len(text)]
    return {start: text[start:end].strip() for start, end in zip(clusters, ends)}


def _inkless(text: str, face: Face) -> str:
    if face.coloured:
        return f"The font {face.name} draws '{text.strip()[:20]}' only in colour; choose an outline font."
    return f"The font {face.name} draws nothing for this text; write other characters or choose another font."
