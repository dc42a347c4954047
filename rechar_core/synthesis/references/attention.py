"""Cross-attention with references: z = w_text * Attn(q, text) + sum_i s_i * w_i * Attn(q, reference_i).

Without a layout w_text is 1 and w_i is 1; then this is IP-Adapter's decoupled attention, as diffusers computes it.
The weights come from layout.py. All of it happens before the layer's output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .layout import Layout
from .projection import IPAdapter, attend

if TYPE_CHECKING:
    from torch import Tensor

Attend = Callable[["Tensor", "Tensor", "Tensor", int], "Tensor"]
CONDITIONAL, UNCONDITIONAL = 0, 1  # as the host numbers the halves of a batch


@dataclass(frozen=True)
class Reference:
    """A picture as tokens. conditional, unconditional: (T, context width), all its pictures side by side.

    role: "structure" or "style", the layout's branch it belongs to. weight: its share beside others of its role.
    """

    adapter: IPAdapter
    role: str
    conditional: Tensor
    unconditional: Tensor
    weight: float = 1.0

    def at_layer(self, layer: int, scale: float) -> Branch:
        """What the reference is at one cross-attention, by the adapter's own numbering."""
        import torch

        tokens = torch.stack([self.conditional, self.unconditional]).float()  # (2, T, context)
        key, value = (m[layer].float().to(tokens.device) for m in (self.adapter.keys, self.adapter.values))
        return Branch(self.role, scale, tokens @ key.T, tokens @ value.T)


@dataclass(frozen=True)
class Branch:
    """A reference at one layer. keys, values: (2, T, layer width), conditional first. scale: its strength.

    Copies are the object itself: nothing changes it, and the host deep-copies every patch when a MODEL is cloned.
    """

    role: str
    scale: float
    keys: Tensor
    values: Tensor

    def __deepcopy__(self, _: Any) -> Branch:
        return self

    def to(self, *where: Any) -> Branch:
        """The same on another device or in another precision."""
        return replace(self, keys=self.keys.to(*where), values=self.values.to(*where))

    def look(self, query: Tensor, halves: Sequence[int], heads: int, attention: Attend = attend) -> Tensor:
        """Attention of query (B, N, C); the batch falls into equal parts, one for each entry of `halves`.

        Perp-Neg asks for a third prompt, the empty one, as 2: what is not conditional is unconditional.
        """
        rows = [min(half, UNCONDITIONAL) for half in halves for _ in range(len(query) // len(halves))]
        key, value = (t[rows].to(query) for t in (self.keys, self.values))
        return attention(query, key, value, heads)


def blend(
    query: Tensor,
    text: Tensor,
    branches: Sequence[Branch],
    layout: Layout,
    grid: tuple[int, int],
    halves: Sequence[int],
    heads: int,
    attention: Attend = attend,
) -> Tensor:
    """Text and references together, (B, N, C), before the output projection.

    query, text: (B, N, C), text being its attention on the prompt. grid: (height, width) of the layer, N cells.
    """
    text_weight, weights = layout.weights(tuple(b.role for b in branches), grid)
    blended = text if text_weight is None else text * text_weight.to(text)
    for branch, weight in zip(branches, weights, strict=True):
        found = branch.look(query, halves, heads, attention)
        blended = blended + branch.scale * (found if weight is None else found * weight.to(found))
    return blended
