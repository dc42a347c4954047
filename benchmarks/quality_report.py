"""The benchmark's report from its cells: means with bootstrap intervals, and the controls, as HTML, PNG and JSON."""

from __future__ import annotations

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.metrics import MEASURES
from rechar_core.images import sheet

RESAMPLES = 2000
_ROWS = 5  # of the sheet: one a script
_SHOWN = (
    "both",
    "structure",
    "iou",
    "skeleton_recall",
    "edge_f1",
    "top_1",
    "reciprocal_rank",
    "ocr",
    "colour_distance",
    "decoration",
)

Cell = dict[str, Any]
Summary = dict[str, dict[str, list[float]]]


def write_report(
    out: Path, name: str, about: dict[str, Any], variants: list[str], not_run: dict[str, str]
) -> Path:
    """Writes name.json, name.md, name.html and name.png into `out`; returns the HTML's path.

    Cells that were made with other settings than `about`, or of other variants, are left out.
    """
    cells = [cell for cell in read_cells(out) if fits(cell, about) and cell["settings"]["name"] in variants]
    found = {
        "about": about,
        "variants": {
            variant: summary([c for c in cells if c["settings"]["name"] == variant]) for variant in variants
        },
        "controls": read_controls(out, {cell["settings"]["script"] for cell in cells}),
        "against_first": {variant: paired(cells, variant, variants[0]) for variant in variants[1:]},
        "not_run": not_run,
        "cells": {variant: sum(c["settings"]["name"] == variant for c in cells) for variant in variants},
    }
    page = contact_sheet(out, cells, variants)
    page.save(out / f"{name}.png")
    (out / f"{name}.json").write_text(
        json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )
    (out / f"{name}.md").write_text(markdown(found), encoding="utf-8")
    report = out / f"{name}.html"
    report.write_text(as_html(found, page), encoding="utf-8")
    return report


def read_cells(out: Path) -> list[Cell]:
    """Every cell that is there, with where its picture lies."""
    files = sorted((out / "cells").glob("*.json"))
    return [json.loads(p.read_text(encoding="utf-8")) | {"picture": p.with_suffix(".png")} for p in files]


def fits(cell: Cell, about: dict[str, Any]) -> bool:
    wanted = json.loads(json.dumps(about))
    return all(cell["settings"].get(name) == value for name, value in wanted.items())


def read_controls(out: Path, scripts: set[str]) -> dict[str, dict[str, float]]:
    """The controls' measures, averaged over the scripts."""
    rows = [json.loads((out / "controls" / f"{s}.json").read_text(encoding="utf-8")) for s in sorted(scripts)]
    if not rows:
        return {}
    return {
        name: {key: float(np.mean([row[name][key] for row in rows])) for key in rows[0][name]}
        for name in rows[0]
    }


# Statistics


def summary(cells: list[Cell]) -> dict[str, list[float]]:
    """Measure -> [mean, low, high], the 95 % percentile interval of a bootstrap over glyph-style pairs.

    Pairs and not cells are drawn anew, because seeds of one pair are alike (a cluster bootstrap).
    """
    names = [n for n in MEASURES if cells and all(n in c["measures"] for c in cells)]
    found = {}
    for name in names:
        groups = clusters({pair_seed(c): c["measures"][name] for c in cells})
        found[name] = [float(np.mean(np.concatenate(groups))), *interval(groups)]
    return found


def pair_seed(cell: Cell) -> tuple[str, str, int]:
    s = cell["settings"]
    return s["script"], s["style"], s["seed"]


def clusters(values: dict[tuple[str, str, int], float]) -> list[np.ndarray]:
    groups: dict[tuple[str, str], list[float]] = {}
    for (script, style, _), value in values.items():
        groups.setdefault((script, style), []).append(value)
    return [np.array(sorted(group)) for _, group in sorted(groups.items())]


def interval(groups: list[np.ndarray]) -> tuple[float, float]:
    """The 95 % percentile interval of the mean; always the same for the same groups."""
    draws = np.random.default_rng(0).integers(len(groups), size=(RESAMPLES, len(groups)))
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    means = sums[draws].sum(1) / counts[draws].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def paired(cells: list[Cell], variant: str, other: str) -> dict[str, list[float]]:
    """Measure -> [mean difference, low, high] of `variant` less `other`, cell by cell."""
    both = [{pair_seed(c): c for c in cells if c["settings"]["name"] == name} for name in (variant, other)]
    common = sorted(set(both[0]) & set(both[1]))
    found = {}
    for name in MEASURES:
        rows = {
            k: both[0][k]["measures"][name] - both[1][k]["measures"][name]
            for k in common
            if name in both[0][k]["measures"] and name in both[1][k]["measures"]
        }
        if rows and len(rows) == len(common):
            groups = clusters(rows)
            found[name] = [float(np.mean(np.concatenate(groups))), *interval(groups)]
    return found


# Pages


def markdown(found: dict[str, Any]) -> str:
    """The main columns of the table."""
    lines = [f"| variant (cells) | {' | '.join(_SHOWN)} | leak |", f"|---|{'---:|' * (len(_SHOWN) + 1)}"]
    for variant, row in found["variants"].items():
        cells = [_cell(row, name) for name in (*_SHOWN, "leak")]
        lines.append(f"| {variant} ({found['cells'][variant]}) | {' | '.join(cells)} |")
    for name, row in found["controls"].items():
        cells = [f"{row[n]:.2f}" if n in row else "-" for n in (*_SHOWN, "leak")]
        lines.append(f"| *control: {name}* | {' | '.join(cells)} |")
    lines += [f"| {variant} | {reason} |" for variant, reason in found["not_run"].items()]
    if found["against_first"]:
        lines += [
            "",
            f"Paired difference from *{next(iter(found['variants']))}*, cell by cell, with its 95 % interval:",
            "",
        ]
        lines += [f"| variant | {' | '.join(_SHOWN)} |", f"|---|{'---:|' * len(_SHOWN)}"]
    for variant, row in found["against_first"].items():
        lines.append(f"| {variant} | {' | '.join(_change(row, name) for name in _SHOWN)} |")
    return "\n".join(lines) + "\n"


def _change(row: dict[str, list[float]], name: str) -> str:
    """A difference, marked where its interval leaves out zero."""
    if name not in row:
        return "-"
    mean, low, high = row[name]
    better = (mean > 0) == MEASURES[name]
    mark = "" if low <= 0 <= high else (" better" if better else " worse")
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}){mark}"


def _cell(row: dict[str, list[float]], name: str) -> str:
    return f"{row[name][0]:.2f} ({row[name][1]:.2f}-{row[name][2]:.2f})" if name in row else "-"


def as_html(found: dict[str, Any], page: Image.Image) -> str:
    """One file with everything in it."""
    buffer = io.BytesIO()
    page.convert("RGB").save(buffer, "JPEG", quality=85)
    picture = base64.b64encode(buffer.getvalue()).decode()
    heads = "".join(f"<th>{name} {'&uarr;' if MEASURES[name] else '&darr;'}</th>" for name in _used(found))
    rows = [
        _row(f"{variant} ({found['cells'][variant]})", [_cell(row, n) for n in _used(found)])
        for variant, row in found["variants"].items()
    ]
    rows += [_row(variant, [reason], "lack") for variant, reason in found["not_run"].items()]
    for name, row in found["controls"].items():
        rows.append(
            _row(f"control: {name}", [f"{row[n]:.2f}" if n in row else "-" for n in _used(found)], "control")
        )
    about = html.escape(json.dumps(found["about"], ensure_ascii=False, indent=1))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>ReChar quality benchmark</title>
<style>body{{font:14px sans-serif;margin:2em}}td,th{{padding:3px 8px;text-align:right;white-space:nowrap}}
td:first-child{{text-align:left}}tr.control{{color:#777}}tr.lack td{{text-align:left;color:#a00;white-space:normal}}
tr:nth-child(even){{background:#f4f4f4}}pre{{background:#f4f4f4;padding:1em}}</style>
<h1>ReChar quality benchmark</h1>
<p>Means over the cells with 95 % intervals of a cluster bootstrap over glyph-style pairs ({RESAMPLES} draws). The
controls say what a number is worth: a blank, the nearest other glyph, the glyph turned, and the glyph shifted must lose
on a measure of structure, and the glyph itself must win. SSIM alone fails that.</p>
<table><tr><th></th>{heads}</tr>{"".join(rows)}</table>
<h2>The first seed, each script in another style; the number is the measure "both"</h2>
<img src="data:image/jpeg;base64,{picture}" alt="pictures">
<h2>Settings</h2><pre>{about}</pre></html>
"""


def _used(found: dict[str, Any]) -> list[str]:
    return [name for name in MEASURES if any(name in row for row in found["variants"].values())]


def _row(head: str, cells: list[str], kind: str = "") -> str:
    span = f' colspan="{len(MEASURES)}"' if kind == "lack" else ""
    inner = "".join(f"<td{span}>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr class="{kind}"><td>{html.escape(head)}</td>{inner}</tr>'


def contact_sheet(out: Path, cells: list[Cell], variants: list[str]) -> Image.Image:
    """One row a script, each with another style, all variants side by side, from the first seed."""
    scripts = list(dict.fromkeys(c["settings"]["script"] for c in cells))
    styles = sorted({c["settings"]["style"] for c in cells})
    at = {(*pair_seed(c), c["settings"]["name"]): c for c in cells}
    first = min((c["settings"]["seed"] for c in cells), default=0)
    rows = []
    for number, script in enumerate(scripts[:_ROWS]):
        style = styles[number % len(styles)]
        row = []
        for variant in variants:
            cell = at.get((script, style, first, variant))
            if cell is not None:
                label = f"{variant}  {cell['measures']['both']:.2f}\n{script}, {style}"
                row.append((label, Image.open(cell["picture"])))
        rows += [row] if row else []
    return sheet(rows or [[("nothing was drawn", Image.new("RGB", (8, 8)))]], "ReChar quality benchmark", 192)
