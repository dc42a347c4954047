"""Measures that ask for a finished picture alone: added to all cells that lack them, whenever those were drawn."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.judge import Judge
from benchmarks.ocr import Reader
from rechar_core.metrics.pictures import lab
from rechar_core.storage import write_bytes

Measure = Callable[[Image.Image, str], float]  # of a picture and its script


class Decoration:
    """How much is on the ground: the mean distance, in Lab units, of its colours from their median.

    The ground is what lies farther than 1/20 of the side from the glyph; a bare glyph has 0. A patterned style has some
    as well, so that only pictures in the same style can be compared.
    """

    def __init__(self, judges: dict[str, Judge]):
        from scipy import ndimage

        self.grounds = {
            script: ~ndimage.binary_dilation(judge.target.mask, iterations=judge.side // 20)
            for script, judge in judges.items()
        }

    def __call__(self, picture: Image.Image, script: str) -> float:
        colours = lab(np.asarray(picture.convert("RGB"), dtype=np.float64) / 255)[self.grounds[script]]
        return float(np.linalg.norm(colours - np.median(colours, 0), axis=-1).mean())


def add(out: Path, scripts: Iterable[str], side: int, ocr: bool) -> None:
    """To the cells and controls of these scripts in `out`. ocr: by Tesseract too. Raises FileError if it lacks."""
    from tqdm import tqdm

    judges = {script: Judge(script, side) for script in scripts}
    measures: dict[str, Measure] = {"decoration": Decoration(judges)}
    measures |= {"ocr": Reader(judges)} if ocr else {}
    for script, judge in judges.items():
        path = out / "controls" / f"{script}.json"
        found = json.loads(path.read_text(encoding="utf-8"))
        if all(name in row for row in found.values() for name in measures):
            continue
        for name, pixels in judge.controls().items():
            picture = Image.fromarray((pixels * 255).astype("uint8"))
            found[name] |= {measure: of(picture, script) for measure, of in measures.items()}
        write(path, found)
    files = [path for path in sorted((out / "cells").glob("*.json")) if path.name.split("_")[0] in judges]
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
    """JSON; whoever reads the file meanwhile sees the old one or the new one."""
    write_bytes((json.dumps(content, ensure_ascii=False, indent=1).encode(),), path)
