"""What can go wrong with reference adapters."""

from __future__ import annotations

from ...errors import ReCharError


class AdapterError(ReCharError):
    """An adapter file, an image encoder and a base model do not belong together, or a reference setting is off."""
