"""Measures that need only the finished picture: they are added to all cells without them, also to earlier ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.metrics import GlyphMetrics
from benchmarks.ocr import Reader
from rechar_core.metrics.pictures import lab
from rechar_core.storage import write_bytes

Measure = Callable[[Image.Image, str], float]  # of a picture and its script


class Decoration:
    """How much decoration the background has: the mean distance, in Lab units, of its colours from their median.

    The background is everything farther than 1/20 of the side from the glyph; without decoration the value is 0. A
    patterned style raises it too, so only pictures in the same style can be compared.
    """

    def __init__(self, all_metrics: dict[str, GlyphMetrics]):
        from scipy import ndimage

        self.backgrounds = {
            script: ~ndimage.binary_dilation(glyph_metrics.target.mask, iterations=glyph_metrics.side // 20)
            for script, glyph_metrics in all_metrics.items()
        }

    def __call__(self, picture: Image.Image, script: str) -> float:
        colours = lab(np.asarray(picture.convert("RGB"), dtype=np.float64) / 255)[self.backgrounds[script]]
        return float(np.linalg.norm(colours - np.median(colours, 0), axis=-1).mean())


def add(out: Path, scripts: Iterable[str], side: int, ocr: bool) -> None:
    """Adds measures to the cells and controls of these scripts in `out`.

    ocr: whether to read the pictures with Tesseract. Raises FileError if Tesseract is missing.
    """
    from tqdm import tqdm

    all_metrics = {script: GlyphMetrics(script, side) for script in scripts}
    measures: dict[str, Measure] = {"decoration": Decoration(all_metrics)}
    measures |= {"ocr": Reader(all_metrics)} if ocr else {}
    for script, glyph_metrics in all_metrics.items():
        path = out / "controls" / f"{script}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(name in row for row in found.values() for name in measures):
            continue
        for name, pixels in glyph_metrics.controls().items():
            picture = Image.fromarray((pixels * 255).astype("uint8"))
            found[name] |= {measure: of(picture, script) for measure, of in measures.items()}
        write(path, found)
    files = [
        path for path in sorted((out / "cells").glob("*.json")) if path.name.split("_")[0] in all_metrics
    ]
    for path in tqdm(files, desc="Measuring", unit="cell", ascii=True):
        cell = json.loads(path.read_text(encoding="utf-8"))
        lacking = {name: of for name, of in measures.items() if name not in cell["measures"]}
        if lacking:
            with Image.open(path.with_suffix(".png")) as picture:
                cell["measures"] |= {
                    name: of(picture, cell["settings"]["script"]) for name, of in lacking.items()
                }
            write(path, cell)


def write(path: Path, content: object) -> None:
    """Writes JSON so that another process reads either the old or the new file, never a part of one."""
    write_bytes((json.dumps(content, ensure_ascii=False, indent=1).encode(),), path)
