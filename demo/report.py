"""Join the evaluation's rows into the table that MODEL_CARD.md shows."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]


def _mean(rows: list[Row], *path: str) -> float:
    """Mean over rows (and over lists inside them) of the value at `path`."""
    values: list[float] = []
    for row in rows:
        value: Any = row
        for name in path:
            value = value[name]
        values += value if isinstance(value, list) else [value]
    return float(np.mean(values))


def _joint(rows: list[Row]) -> float:
    """Share of fused pictures with IoU >= 0.6 and both style distances at least 40 % below their control."""
    return float(
        np.mean(
            [
                row["fused"]["iou"] >= 0.6
                and row["fused"]["gram"] <= 0.6 * row["style"]["gram_none"]
                and row["fused"]["histogram"] <= 0.6 * row["style"]["histogram_none"]
                for row in rows
            ]
        )
    )


def _below(rows: list[Row], what: str, control: str) -> float:
    """How far, in per cent, the own style LoRA's mean distance lies below the control's."""
    return 100 * (1 - _mean(rows, "style", f"{what}_own") / _mean(rows, "style", f"{what}_{control}"))


def _swap_structure(rows: list[Row]) -> float:
    gain = _mean(rows, "structure", "own") - _mean(rows, "structure", "none")
    return (_mean(rows, "structure", "swapped") - _mean(rows, "structure", "none")) / gain


def _swap_style(rows: list[Row]) -> float:
    gain = _mean(rows, "style", "histogram_none") - _mean(rows, "style", "histogram_own")
    return (_mean(rows, "style", "histogram_none") - _mean(rows, "style", "histogram_swapped")) / gain


def _seen(rows: list[Row]) -> float:
    """Share of named elements whose score exceeds that of 95 % of the pictures without elements."""
    absent = np.concatenate([row["text"]["absent_score"] for row in rows])
    present = np.concatenate([row["text"]["element_score"] for row in rows])
    return float((present > np.percentile(absent, 95)).mean())


def _leak(rows: list[Row]) -> float:
    return _mean(rows, "style", "leak_own") - _mean(rows, "style", "leak_none")


Figure = tuple[str, Callable[[list[Row]], float], str, Callable[[float], bool] | None]

FIGURES: tuple[Figure, ...] = (
    ("VAE: PSNR at 256 px, dB", lambda r: _mean(r, "vae", "psnr"), ">= 26", lambda x: x >= 26),
    ("Text: style top-1 of 29", lambda r: _mean(r, "text", "style"), ">= 0.80", lambda x: x >= 0.8),
    ("Text: glyph top-1 of 96", lambda r: _mean(r, "text", "glyph"), ">= 0.50", lambda x: x >= 0.5),
    ("Text: element top-1 of 5", lambda r: _mean(r, "text", "element"), "visible", None),
    ("Text: elements found at 5 % false alarms", _seen, "visible", None),
    (
        "Structure LoRA: IoU with its unseen glyph",
        lambda r: _mean(r, "structure", "own"),
        ">= 0.60",
        lambda x: x >= 0.6,
    ),
    ("... no LoRA", lambda r: _mean(r, "structure", "none"), "", None),
    (
        "... gain over no LoRA",
        lambda r: _mean(r, "structure", "own") - _mean(r, "structure", "none"),
        ">= 0.25",
        lambda x: x >= 0.25,
    ),
    ("... another glyph's LoRA", lambda r: _mean(r, "structure", "wrong"), "", None),
    ("... own LoRA in the style block", lambda r: _mean(r, "structure", "swapped"), "", None),
    ("... effect left when swapped", _swap_structure, "<= 0.5", lambda x: x <= 0.5),
    (
        "... style of the prompt kept, top-1 of 29",
        lambda r: _mean(r, "structure", "style_kept"),
        ">= 0.80",
        lambda x: x >= 0.8,
    ),
    ("... IoU in the prompt's style", lambda r: _mean(r, "structure", "styled"), "", None),
    ("Style LoRA: Gram distance", lambda r: _mean(r, "style", "gram_own"), "", None),
    ("... no LoRA", lambda r: _mean(r, "style", "gram_none"), "", None),
    ("... per cent below no LoRA", lambda r: _below(r, "gram", "none"), ">= 40", lambda x: x >= 40),
    ("... per cent below another picture's LoRA", lambda r: _below(r, "gram", "wrong"), "", None),
    ("Style LoRA: Lab histogram distance", lambda r: _mean(r, "style", "histogram_own"), "", None),
    ("... no LoRA", lambda r: _mean(r, "style", "histogram_none"), "", None),
    ("... per cent below no LoRA", lambda r: _below(r, "histogram", "none"), ">= 40", lambda x: x >= 40),
    ("... per cent below another picture's LoRA", lambda r: _below(r, "histogram", "wrong"), "", None),
    ("... effect left when swapped (histogram)", _swap_style, "<= 0.5", lambda x: x <= 0.5),
    ("... leak of the picture's glyph, IoU above control", _leak, "<= 0.10", lambda x: x <= 0.1),
    ("Fused: IoU", lambda r: _mean(r, "fused", "iou"), ">= 0.60", lambda x: x >= 0.6),
    (
        "Fused: Gram distance, per cent below no LoRA",
        lambda r: 100 * (1 - _mean(r, "fused", "gram") / _mean(r, "style", "gram_none")),
        ">= 40",
        lambda x: x >= 40,
    ),
    (
        "Fused: histogram distance, per cent below no LoRA",
        lambda r: 100 * (1 - _mean(r, "fused", "histogram") / _mean(r, "style", "histogram_none")),
        ">= 40",
        lambda x: x >= 40,
    ),
    ("Fused: share of pairs where all three hold", _joint, "", None),
    (
        "Structure alpha -> IoU, Spearman",
        lambda r: _mean(r, "fused", "structure_spearman"),
        ">= 0.90",
        lambda x: x >= 0.9,
    ),
    (
        "Style alpha -> nearness, Spearman",
        lambda r: _mean(r, "fused", "style_spearman"),
        ">= 0.90",
        lambda x: x >= 0.9,
    ),
    (
        "CPU seconds of a structure LoRA, one thread",
        lambda r: _mean(r, "structure_seconds"),
        "<= 30",
        lambda x: x <= 30,
    ),
    (
        "CPU seconds of a style LoRA, one thread",
        lambda r: _mean(r, "style_seconds"),
        "<= 30",
        lambda x: x <= 30,
    ),
)


def write_report(out: Path) -> str:
    """Markdown table of all figures; also written to OUT/figures.md."""
    rows = [row for path in sorted(out.glob("part_*.json")) for row in json.loads(path.read_text())]
    lines = [f"n = {len(rows)} held-out glyphs and {len(rows)} held-out style pictures.", ""]
    lines += ["| figure | value | bar | met |", "|---|---:|---:|---|"]
    for name, figure, bar, test in FIGURES:
        value = figure(rows)
        met = "" if test is None else ("yes" if test(value) else "**no**")
        lines.append(f"| {name} | {value:.3g} | {bar} | {met} |")
    text = "\n".join(lines)
    (out / "figures.md").write_text(text + "\n", encoding="utf-8")
    return text
