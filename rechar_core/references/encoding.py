"""A reference picture on its way into an adapter: which image tokens a mask keeps, and what stands for no picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .attention import Reference
from .errors import AdapterError
from .layout import ROLES
from .projection import Adapter

if TYPE_CHECKING:
    from torch import Tensor

_TOUCH = 0.02  # of a token's area: the strokes of a glyph are narrower than a token


def reference_of(
    adapter: Adapter,
    role: str,
    seen: Tensor,
    unseen: Tensor,
    kept: Tensor | None = None,
    weight: float = 1.0,
) -> Reference:
    """A reference from image features: seen (B, ...), unseen (1, ...), pooled (plain) or hidden states (plus).

    kept: (B, N - 1) bool, the image tokens that stay. With it the dropped ones leave the sequence, and with them the
    first token, which has seen the whole picture. Raises AdapterError if nothing would be left.
    """
    import torch

    if role not in ROLES:
        raise AdapterError(f"There is no role '{role}'; choose one of {', '.join(ROLES)}.")
    if kept is None:
        rows = adapter.tokens(seen)
        none = adapter.tokens(unseen).expand(len(seen), -1, -1)
        return Reference(adapter, role, rows.flatten(0, 1), none.flatten(0, 1), weight)
    parts = [_kept(adapter, kept[i if len(kept) > 1 else 0]) for i in range(len(seen))]
    rows = torch.cat([adapter.tokens(seen[i : i + 1, part])[0] for i, part in enumerate(parts)])
    none = torch.cat([adapter.tokens(unseen[:, part])[0] for part in parts])
    return Reference(adapter, role, rows, none, weight)


def _kept(adapter: Adapter, kept: Tensor) -> Tensor:
    """Positions of the kept tokens in the encoder's sequence."""
    if adapter.kind == "plain":
        raise AdapterError(
            f"The adapter '{adapter.name}' sees one embedding of the whole picture, from which no part can be "
            "dropped; disconnect the mask, or use a plus adapter."
        )
    found = kept.nonzero().flatten() + 1
    if not len(found):
        raise AdapterError(
            "The mask keeps no part of the reference picture; paint where the picture matters."
        )
    return found


def kept_tokens(mask: Tensor, picture: tuple[int, int], side: int) -> Tensor:
    """Which of side x side image tokens a MASK (B, H, W) keeps, (B, side * side) bool: those it touches.

    The encoder sees the middle square of a picture (height, width), so the mask is first brought to the picture's
    shape and cut alike.
    """
    import torch.nn.functional as F

    mask = mask.float()
    if tuple(mask.shape[-2:]) != picture:
        mask = F.interpolate(mask[:, None], picture, mode="bilinear", antialias=True)[:, 0]
    edge = min(picture)
    top, left = (picture[0] - edge) // 2, (picture[1] - edge) // 2
    square = mask[:, top : top + edge, left : left + edge]
    return F.adaptive_avg_pool2d(square[:, None], side).flatten(1) > _TOUCH
