"""Errors of text. A bad font file raises FileError, a bad picture ImageError."""

from __future__ import annotations

from ..errors import ReCharError


class GlyphError(ReCharError):
    """A text cannot be drawn: it is empty, a character has no glyph, there is no room, or a setting is out of range."""
