"""The immutable data classes of a B-LoRA: one low-rank pair per layer, and the B-LoRA that holds them."""

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

    down: (rank, in). up: (out, rank). network_alpha: the number stored in the LoRA file; a file without one means
    network_alpha = rank. dora_scale: DoRA's magnitude, (out, 1) or (1, in) as stored, or None.
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
    passthrough: module path -> {suffix: tensor} for what is no low-rank pair inside the two blocks: full differences
        of weights and biases, and LyCORIS layers (LoHa, LoKr, ...), which only ComfyUI can apply.
    outside: keys of the file outside the two blocks. They are not used, so an ordinary SDXL LoRA can be loaded too.
    unknown: keys that are not understood. They are not used either.
    source_format: name of the key format it was read from ("kohya", "diffusers", ...), or "trained".
    trigger: the prompt it was trained with ("A [v]"), "" if unknown. recipe: training settings, if known.
    metadata: the file's other metadata, which is written again when the B-LoRA is saved.
    """

    pairs: Mapping[str, LoraPair]
    source_format: str = "trained"
    trigger: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    passthrough: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of all modules it changes."""
        return tuple(dict.fromkeys((*self.pairs, *self.passthrough)))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks in which it has weights, in the order of the block table."""
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
        """The weights inside `block`; empty if there are none."""
        return replace(
            self,
            pairs={m: p for m, p in self.pairs.items() if block_of(m) is block},
            passthrough={m: t for m, t in self.passthrough.items() if block_of(m) is block},
        )
