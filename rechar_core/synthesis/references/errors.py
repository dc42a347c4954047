"""Errors of references and IP-Adapters."""

from __future__ import annotations

from ...errors import ReCharError


class AdapterError(ReCharError):
    """An IP-Adapter, an image encoder and a base model do not fit together, or a reference setting is out of range."""
