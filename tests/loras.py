"""Made-up B-LoRAs for tests."""

from __future__ import annotations

import torch
from torch import Tensor

from rechar_core.lora.blora import BLora, LoraPair

STRUCTURE = "up_blocks.0.attentions.0"
STYLE = "up_blocks.0.attentions.1"
LEAVES = (
    *(f"transformer_blocks.1.{a}.to_{x}" for a in ("attn1", "attn2") for x in ("q", "k", "v", "out.0")),
    *("transformer_blocks.0.ff.net.0.proj", "transformer_blocks.10.ff.net.2", "proj_in", "proj_out"),
)
MODULES = tuple(f"{block}.{leaf}" for block in (STRUCTURE, STYLE) for leaf in LEAVES)
TO_Q = f"{STRUCTURE}.transformer_blocks.0.attn1.to_q"


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def pair(
    seed: int = 0, *, rank: int = 4, out: int = 12, width: int = 8, network_alpha: float | None = None
) -> LoraPair:
    down, up = random(rank, width, seed=2 * seed), random(out, rank, seed=2 * seed + 1)
    return LoraPair(down, up, float(rank if network_alpha is None else network_alpha))


def blora(modules=MODULES, **changes) -> BLora:
    """Every layer of both blocks, with alpha 3 where the rank is 4."""
    made = BLora(
        {m: pair(i, network_alpha=3.0) for i, m in enumerate(modules)},
        trigger="A [v]",
        recipe={"seed": 5, "steps": 9},
    )
    return BLora(**{**vars(made), **changes})
