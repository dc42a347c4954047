"""Measures the contents of a B-LoRA, for `rechar_core inspect` and the node Inspect B-LoRA."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import listed, readable
from .blocks import BLOCKS, block_of
from .blora import BLora, LoraPair
from .key_formats import DIFFERENCES
from .layers import only_for_host

_SHOWN = 10


@dataclass(frozen=True)
class Report:
    """Facts about one B-LoRA.

    layers: module path -> energy, the Frobenius norm of the layer's weight change. energies: block name -> energy of
    the block (root of the sum of squares). shares: block name -> fraction of the total squared energy, 0..1.
    dtypes, kinds: name -> number of layers; kinds are those that only ComfyUI can apply, whose energy is not computed.
    differences: number of layers with a difference of the whole weight or of the bias, which has no energy here either.
    dora: number of layers with a DoRA scale; their energy is that of the low-rank part. outside: number of keys that
    are not used; outside_first: the first ten of them. unknown, unknown_first: those that are not understood.
    """

    format: str
    blocks: tuple[str, ...]
    energies: Mapping[str, float]
    shares: Mapping[str, float]
    layers: Mapping[str, float]
    ranks: tuple[int, ...]
    network_alphas: tuple[float, ...]
    trigger: str
    recipe: Mapping[str, Any]
    dtypes: Mapping[str, int]
    kinds: Mapping[str, int]
    differences: int
    dora: int
    outside: int
    outside_first: tuple[str, ...]
    unknown: int
    unknown_first: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The report as a dict of JSON values."""
        result: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return result

    def by_block(self) -> dict[str, dict[str, float]]:
        """Block name -> {layer inside the block: energy}."""
        tables: dict[str, dict[str, float]] = {name: {} for name in self.blocks}
        for path, value in self.layers.items():
            block = block_of(path)
            if block:
                tables[block.name][path.removeprefix(block.path + ".")] = value
        return tables

    def __str__(self) -> str:
        """The report as a table, in ASCII because consoles on Windows may not show other characters."""
        text = "\n".join((*_head(self), "", *_table(self)))
        return text.encode("ascii", "backslashreplace").decode("ascii")


def inspect(blora: BLora) -> Report:
    """Measures a B-LoRA. `up @ down` is never computed, so that a full-size file takes well under a second."""
    layers = {path: energy(pair) for path, pair in blora.pairs.items()}
    squares = {b.name: sum(e**2 for path, e in layers.items() if block_of(path) is b) for b in blora.blocks}
    total = sum(squares.values())
    return Report(
        format=blora.source_format,
        blocks=tuple(squares),
        energies={name: math.sqrt(square) for name, square in squares.items()},
        shares={name: square / total if total else 0.0 for name, square in squares.items()},
        layers=layers,
        ranks=blora.ranks,
        network_alphas=blora.network_alphas,
        trigger=blora.trigger,
        recipe=dict(blora.recipe),
        dtypes=dict(Counter(str(p.up.dtype).removeprefix("torch.") for p in blora.pairs.values())),
        kinds=dict(Counter(kind for parts in blora.passthrough.values() for kind in only_for_host(parts))),
        differences=sum(not DIFFERENCES.isdisjoint(parts) for parts in blora.passthrough.values()),
        dora=sum(p.dora_scale is not None for p in blora.pairs.values()),
        outside=len(blora.outside),
        outside_first=blora.outside[:_SHOWN],
        unknown=len(blora.unknown),
        unknown_first=blora.unknown[:_SHOWN],
    )


def energy(pair: LoraPair) -> float:
    """The Frobenius norm of a pair's weight change: ||up down||^2 = <up^T up, down down^T>, with rank x rank matrices.

    Computed in fp64, because terms of the inner product cancel.
    """
    up, down = pair.up.double(), pair.down.double()
    square = ((up.T @ up) * (down @ down.T)).sum().item()
    return abs(pair.scale) * math.sqrt(max(square, 0.0))


def _head(report: Report) -> list[str]:
    rows = {
        "format": report.format,
        "blocks": listed(report.blocks),
        "rank": listed(map(str, report.ranks)),
        "alpha": listed(f"{a:g}" for a in report.network_alphas),
        "trigger": report.trigger or "unknown",
        "recipe": listed((f"{k}={v}" for k, v in report.recipe.items()), 50) or "unknown",
        "weights": listed(f"{n} x {name}" for name, n in report.dtypes.items()),
        "DoRA": f"{report.dora} layers" if report.dora else "",
        "differences": f"{report.differences} layers" if report.differences else "",
        "ComfyUI only": listed(f"{n} x {kind}" for kind, n in report.kinds.items()),
        "outside": f"{report.outside} keys, not used" if report.outside else "none",
    }
    lines = [f"{name:<13}{text}" for name, text in rows.items() if text]
    lines += [f"{'':<13}{readable(key)}" for key in report.outside_first]
    if report.unknown:
        lines.append(f"{'unknown':<13}{report.unknown} keys, not understood and not used")
    return lines + [f"{'':<13}{readable(key)}" for key in report.unknown_first]


def _table(report: Report) -> list[str]:
    width = max(map(len, (*report.layers, "layer")))
    lines = [f"{'layer':<{width}}  energy"]
    for block in (b for b in BLOCKS if b.name in report.blocks):
        total, share = report.energies[block.name], report.shares[block.name]
        lines.append(f"{block.name + ' block':<{width}}  {total:.4g}  ({share:.1%})")
        lines += [f"{p:<{width}}  {e:.4g}" for p, e in report.layers.items() if block_of(p) is block]
    return lines
