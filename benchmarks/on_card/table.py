"""The GPU benchmark's report as Markdown, for README."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Row = dict[str, Any]
STEPS = 1000  # of the published recipe
_NO_VALUE = ("skipped", "out_of_memory", "error")
_MISSING = "-"


def markdown(found: Row) -> str:
    """One table a section; what was skipped, stopped or failed stands where its figures would be."""
    about, sections = found["about"], found["sections"]
    parts = [
        f"Model: {about['model']}, size {about['size']}. {about['began']}, {_seconds(about['seconds'])}."
    ]
    if about["size"] != "sdxl":
        parts.append("**Not SDXL's size: these figures say nothing but that the benchmark works.**")
    for name, write in _SECTIONS.items():
        if name in sections:
            rows = sections[name]["rows"]
            ends = [f"*{name}: {sections[name][k]}*" for k in ("skipped", "stopped") if k in sections[name]]
            parts += [*([write(rows)] if rows else []), *ends]
    return "\n\n".join(parts) + "\n"


def card(rows: Row) -> str:
    lines = [("", "")]
    card, versions = rows.get("card", {}), rows.get("versions", {})
    lines += [(key, str(card[key])) for key in ("name", "driver", "error") if key in card]
    lines += [("device", _reason(rows["device"]))] if "device" in rows else []
    if "total_bytes" in card:
        lines.append(("memory", f"{_gb(card['total_bytes'])}, {_gb(card['free_bytes'])} of it free"))
    for name, row in rows.items():
        if name.startswith("matrix product"):
            lines.append((f"{name}, {row.get('side')} x {row.get('side')}", _tera(row, "flop_s", "TFLOP/s")))
        elif name == "copy":
            lines.append(("copy within the memory, read and written", _tera(row, "bytes_s", "TB/s")))
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version != "not installed")
    return _table([*lines, ("versions", named)])


def training(rows: Row) -> str:
    model, published = rows.get("model", {}), rows.get("published", {})
    head = (
        f"{model.get('pixels')} px, rank {model.get('rank')}, batch 1",
        *("ms a step", "ms a step, CUDA graphs", "times published", f"{STEPS} steps with set-up"),
        *("peak memory: set-up too, steps alone", "of the card's matrix rate"),
    )
    lines = [head]
    theirs = published.get("seconds_a_step")
    for name, row in rows.items():
        if name in ("model", "least arithmetic"):
            continue
        if reason := _reason(row):
            lines.append((name, reason, *[""] * 5))
            continue
        step, graphs, share = (
            row[k] for k in ("seconds_a_step", "seconds_a_step_cuda_graphs", "of_matmul_rate")
        )
        lines.append(
            (
                ", ".join([name, row["precision"], *([row["optimizer"]] if "optimizer" in row else [])]),
                _milliseconds(step),
                _MISSING if graphs is None else _milliseconds(graphs),
                f"{theirs / step:.1f}" if theirs else _MISSING,
                _seconds(row[f"seconds_{STEPS}_steps"]),
                f"{_gb(row['peak_bytes'])}, {_gb(row['peak_bytes_of_steps'])}",
                f"{share:.0%}" if share else _MISSING,
            )
        )
    least = rows.get("least arithmetic", {}).get("flop")
    note = f"\n\nThe least arithmetic of a step: {least / 1e12:.3g} TFLOP." if least else ""
    return _table(lines) + note


def pictures(rows: Row) -> str:
    keys = ("training_glyph_seconds", "training_style_seconds", "drawing_seconds", "seconds")
    lines = [("glyph and style picture to finished picture", "glyph", "style", "drawing", "in all")]
    for name, row in rows.items():
        if name.startswith("whole"):
            reason, steps = _reason(row), row.get("training_steps", "")
            cells = (reason, "", "", "") if reason else tuple(_seconds(row[key]) for key in keys)
            lines.append((name.removeprefix("whole, ") + (f", {steps} steps each" if steps else ""), *cells))
    fused = rows.get("fused LoRA", {})
    note = _reason(fused)
    if not note and fused:
        note = (
            f"a picture in {fused['steps']} steps takes {fused['with_seconds']:.2f} s with both LoRAs fused, "
            f"{fused['without_seconds']:.2f} s without: {fused['ratio']:.3f} times"
        )
    return _table(lines) + (f"\n\nDrawing: {note}." if note else "")


def host(rows: Row) -> str:
    about = rows.get("ComfyUI", {})
    if reason := _reason(about):
        return f"ComfyUI: {reason}."
    version = f"ComfyUI {about.get('version')}" + (", dynamic VRAM" if about.get("dynamic_vram") else "")
    lines = [(version, "time", "pictures", "memory held afterwards")]
    for name, row in rows.items():
        if name != "ComfyUI" and (reason := _reason(row)):
            lines.append((name, reason, "", ""))
        elif name != "ComfyUI":
            flat = row["pictures_of_one_colour"]
            drawn = f"{row['pictures']}" + (f" ({flat} of one colour)" if flat else "")
            lines.append((name, _seconds(row["seconds"]), drawn, _gb(row["bytes_used_after"])))
    return _table(lines)


def quality(rows: Row) -> str:
    row = rows.get("scores", {})
    if reason := _reason(row):
        return f"Scores: {reason}."
    variants = row["variants"]
    shown = list(next(iter(variants.values()), {}))
    lines = [(f"variant (pictures), {row['training_steps']} training steps", *shown)]
    for variant, values in variants.items():
        cells = [f"{m:.2f} ({low:.2f}-{high:.2f})" for m, low, high in (values[n] for n in values)]
        lines.append((f"{variant} ({row['cells'][variant]})", *(cells or [""] * len(shown))))
    for control, values in row["controls"].items():
        cells = [f"{values[name]:.2f}" if name in values else _MISSING for name in shown]
        lines.append((f"*control: {control}*", *cells))
    return _table(lines)


_SECTIONS: dict[str, Callable[[Row], str]] = {
    "card": card,
    "training": training,
    "pictures": pictures,
    "host": host,
    "quality": quality,
}


def _reason(row: Row) -> str:
    """Why a row has no figures."""
    return next((f"{key.replace('_', ' ')}: {row[key]}" for key in _NO_VALUE if key in row), "")


def _table(lines: Iterable[tuple[str, ...]]) -> str:
    head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * (head.count(" | ") + 1), *rest])


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.1f}"


def _gb(value: float) -> str:
    return f"{value / 1e9:.1f} GB"


def _tera(row: Row, key: str, unit: str) -> str:
    return _reason(row) or f"{row[key] / 1e12:.3g} {unit}"
