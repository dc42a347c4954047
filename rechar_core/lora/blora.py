"""Frozen values: one low-rank pair, and a B-LoRA made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .blocks import BLOCKS, Block, block_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class LoraPair:
    """delta W = (network_alpha / rank) * up @ down for one linear layer (LoRA, Hu et al. 2021, eq. 3).

    down: (rank, in); up: (out, rank); network_alpha: the stored number (a file without one
    means network_alpha = rank);
    dora_scale: DoRA's magnitude, (out, 1) or (1, in) as stored, or None.
    """

    down: Tensor
    up: Tensor
    network_alpha: float
    dora_scale: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return self.network_alpha / self.rank

    def delta(self) -> Tensor:
        """The weight change at alpha 1, fp32, (out, in). A DoRA magnitude is not part of it."""
        return (self.up.float() @ self.down.float()) * self.scale


@dataclass(frozen=True)
class BLora:
    """One or both blocks of a B-LoRA, keyed by diffusers module path.

    pairs: module path ("up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q") -> LoraPair.
    passthrough: module path -> {suffix: tensor} for LyCORIS kinds (LoHa, LoKr) and full diffs inside the two
        blocks, which only the host can apply.
    outside: keys of the file outside the two blocks, not used (a full LoRA may be given: only its blocks count).
    source_format: name of the key format it was read from ("kohya", "diffusers", "trained", ...).
    trigger: the prompt it was trained with ("A [v]"), "" if unknown. recipe: training settings, if known.
    metadata: the file's other metadata, kept when saved again.
    """

    pairs: Mapping[str, LoraPair]
    source_format: str = "trained"
    trigger: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    passthrough: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """All module paths it changes."""
        return tuple(dict.fromkeys((*self.pairs, *self.passthrough)))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks it has weights in, in the block table's order."""
        present = {block_of(m) for m in self.modules}
        return tuple(b for b in BLOCKS if b in present)

    @property
    def ranks(self) -> tuple[int, ...]:
        """The distinct ranks of its pairs, ascending."""
        return tuple(sorted({p.rank for p in self.pairs.values()}))

    @property
    def network_alphas(self) -> tuple[float, ...]:
        """The distinct network alphas of its pairs, ascending."""
        return tuple(sorted({p.network_alpha for p in self.pairs.values()}))

    def select(self, block: Block) -> BLora:
        """The part of it that lies in `block` (empty if there is none)."""
        return replace(
            self,
            pairs={m: p for m, p in self.pairs.items() if block_of(m) is block},
            passthrough={m: t for m, t in self.passthrough.items() if block_of(m) is block},
        )
