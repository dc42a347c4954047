"""Cross-attention with references: z = w_text * Attn(q, text) + sum_i s_i * w_i * Attn(q, reference_i).

s_i is a reference's scale; the weights w come from layout.py. Without a layout w_text and w_i are 1, which is
IP-Adapter's decoupled cross-attention as in diffusers. All of it is computed before the layer's output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .layout import Layout
from .projection import IPAdapter, attend

if TYPE_CHECKING:
    from torch import Tensor

Attend = Callable[["Tensor", "Tensor", "Tensor", int], "Tensor"]
CONDITIONAL, UNCONDITIONAL = 0, 1  # as ComfyUI numbers the halves of a CFG batch


@dataclass(frozen=True)
class Reference:
    """An encoded reference. conditional, unconditional: (T, context width), the image tokens of all its pictures.

    role: "structure" or "style", its branch of the layout. weight: its weight relative to others of the same role.
    """

    adapter: IPAdapter
    role: str
    conditional: Tensor
    unconditional: Tensor
    weight: float = 1.0
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def at_layer(self, layer: int, scale: float, *where: Any) -> Branch:
        """Keys and values of the reference for cross-attention number `layer`, in the IP-Adapter's numbering.

        where: their device and dtype. Cached, because every picture needs them.
        """
        import torch

        if (layer, where) not in self._known:
            tokens = torch.stack([self.conditional, self.unconditional]).float()  # (2, T, context)
            key, value = (
                m[layer].float().to(tokens.device) for m in (self.adapter.keys, self.adapter.values)
            )
            self._known[layer, where] = (tokens @ key.T).to(*where), (tokens @ value.T).to(*where)
        return Branch(self.role, scale, *self._known[layer, where])


@dataclass(frozen=True)
class Branch:
    """A reference at one layer. keys, values: (2, T, layer width), conditional first. scale: multiplies its output.

    A deep copy is the object itself: it is never changed, and ComfyUI deep-copies all patches of a cloned MODEL.
    """

    role: str
    scale: float
    keys: Tensor
    values: Tensor

    def __deepcopy__(self, _: Any) -> Branch:
        return self

    def look(self, query: Tensor, halves: Sequence[int], heads: int, attention: Attend = attend) -> Tensor:
        """Attention of query (B, N, C) on the reference, (B, N, C).

        halves: CONDITIONAL or UNCONDITIONAL for each of the equal parts of the batch. Perp-Neg has a third prompt, the
        empty one, numbered 2: every part that is not conditional counts as unconditional.
        """
        rows = [min(half, UNCONDITIONAL) for half in halves for _ in range(len(query) // len(halves))]
        key, value = (t[rows].to(query) for t in (self.keys, self.values))
        return attention(query, key, value, heads)


def acting(
    references: Sequence[Reference], scales: Mapping[str, float], widths: tuple[int, ...]
) -> list[tuple[Reference, float]]:
    """The references whose strength is not 0, with it. scales: by role.

    Raises AdapterError unless all adapters have the cross-attentions' widths.
    """
    for reference in references:
        reference.adapter.check_layers(widths)
    strong = [(reference, reference.weight * scales[reference.role]) for reference in references]
    return [(reference, scale) for reference, scale in strong if scale != 0]


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
    """The weighted sum of text and references, (B, N, C), before the output projection.

    query: (B, N, C). text: (B, N, C), the query's attention on the prompt. grid: (height, width) of the layer, N cells.
    """
    text_weight, weights = layout.weights(tuple(b.role for b in branches), grid, text.device, text.dtype)
    blended = text if text_weight is None else text * text_weight
    for branch, weight in zip(branches, weights, strict=True):
        attended = branch.look(query, halves, heads, attention)
        blended = blended + branch.scale * (attended if weight is None else attended * weight.to(attended))
    return blended
