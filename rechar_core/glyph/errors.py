"""What can go wrong with text; a bad font file is a FileError, a bad picture an ImageError."""

from __future__ import annotations

from ..errors import ReCharError


class GlyphError(ReCharError):
    """A text cannot be drawn: nothing to draw, no glyph for a character, no room, a setting outside its range."""
