"""Measure the shipped demo model against its bars.

    python -m demo.evaluate OUT --part 0/2 &  python -m demo.evaluate OUT --part 1/2; wait
    python -m demo.evaluate OUT --report        # joins the parts, prints the table, writes OUT/figures.md

Glyphs and style pictures are held out of training; seeds are the sample's number. Nothing is chosen by its result.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rechar_core.demo.build import read_config
from rechar_core.lora.blora import BLora
from rechar_core.lora.fusion import Fusion, fuse
from rechar_core.training.recipe import TrainingRecipe

from .catalog import ELEMENTS, NAMED_GLYPHS, content_text, element_text, named_styles, style_text
from .held_out import enlarge, glyph_mask, glyph_picture, style_picture
from .metrics import (
    ElementJudge,
    GlyphJudge,
    StyleJudge,
    foreground,
    gram_distance,
    halve,
    histogram_distance,
    iou,
    spearman,
)
from .report import write_report
from .studio import Array, Studio

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
NEUTRAL = "A [v]"
Row = dict[str, Any]


def _prompt(rng: np.random.Generator, elements: tuple[str, ...]) -> tuple[str, str, int]:
    """A named glyph in a named style: the words, the glyph, the style's number."""
    glyph, number = NAMED_GLYPHS[rng.integers(len(NAMED_GLYPHS))], int(rng.integers(len(named_styles())))
    words = f"{content_text(glyph)}{element_text(elements)} in {style_text(*named_styles()[number])}"
    return words, glyph, number


class Evaluation:
    """All measurements of sample numbers; each method returns one row of figures."""

    def __init__(self, out: Path) -> None:
        self.out, self.studio, config = out, Studio(), read_config()
        recipe = config["recipe"]
        self.guidance, self.steps = recipe["guidance"], recipe["sampler_steps"]
        self.recipes = {
            name: TrainingRecipe.from_json(recipe[name] | {"resolution": 256})
            for name in ("structure", "style")
        }
        self.judges = StyleJudge(), GlyphJudge(), ElementJudge()
        self.nothing = fuse(None, None)

    def draw(self, prompts: list[str], number: int, fusion: Fusion, name: str) -> list[Array]:
        """Pictures at 128 px, one a prompt, seeds counting from 100 * number; kept as a strip."""
        seeds = [100 * number + index for index in range(len(prompts))]
        pictures = self.studio.draw(prompts, seeds, fusion, self.guidance, self.steps)
        strip = (np.concatenate(pictures, 1) * 255).round().astype(np.uint8)
        Image.fromarray(strip).save(self.out / f"{number:02d}_{name}.png")
        return [halve(picture) for picture in pictures]

    def autoencoder(self, number: int) -> Row:
        """PSNR in dB of a held-out style picture through the VAE at 256 px."""
        truth, vae = enlarge(style_picture(number)), self.studio.model.vae
        pixels = torch.from_numpy(truth).permute(2, 0, 1)[None].float() * 2 - 1
        with torch.no_grad():
            back = vae.decode(vae.encode(pixels).latent_dist.mode()).sample.clamp(-1, 1)
        return {"psnr": float(-10 * torch.log10(((back - pixels) ** 2).mean() / 4))}

    def text(self, number: int) -> Row:
        """Four prompts without elements, four with one: are style, glyph and element the named ones?"""
        rng = np.random.default_rng([31, number])
        kinds = [str(name) for name in rng.choice(ELEMENTS, 4)]
        plain = [_prompt(rng, ()) for _ in range(4)]
        adorned = [_prompt(rng, (kind,)) for kind in kinds]
        pictures = self.draw([p[0] for p in plain + adorned], number, self.nothing, "text")
        style, glyph, element = self.judges
        scores = [element.scores(picture) for picture in pictures]
        return {
            "style": [style(p) == e[2] for p, e in zip(pictures[:4], plain)],
            "glyph": [glyph(p) == e[1] for p, e in zip(pictures[:4], plain)],
            "element": [max(s, key=s.__getitem__) == kind for s, kind in zip(scores[4:], kinds)],
            "element_score": [s[kind] for s, kind in zip(scores[4:], kinds)],
            "absent_score": [max(s.values()) for s in scores[:4]],
        }

    def learn(self, number: int) -> tuple[BLora, BLora, Row]:
        """Both B-LoRAs of a sample number, and the CPU seconds they took."""
        began = time.process_time()
        recipe = replace(self.recipes["structure"], seed=number)
        structure = self.studio.learn(enlarge(glyph_picture(number)), recipe)
        middle = time.process_time()
        style = self.studio.learn(enlarge(style_picture(number)), replace(self.recipes["style"], seed=number))
        seconds = {"structure_seconds": middle - began, "style_seconds": time.process_time() - middle}
        return structure, style, seconds

    def structure(self, number: int, own: BLora, other: BLora) -> Row:
        """IoU with the held-out glyph: no LoRA, its own, another glyph's, its own in the style block."""
        target = glyph_mask(number) > 0.5
        fusions = {
            "none": self.nothing,
            "own": fuse(own, None),
            "wrong": fuse(other, None),
            "swapped": swapped(fuse(own, None)),
        }
        row: Row = {}
        for name, fusion in fusions.items():
            pictures = self.draw([NEUTRAL] * 2, number, fusion, f"structure_{name}")
            row[name] = float(np.mean([iou(foreground(p), target) for p in pictures]))
        rng = np.random.default_rng([32, number])
        wanted = [int(n) for n in rng.integers(len(named_styles()), size=2)]
        prompts = [f"{NEUTRAL} in {style_text(*named_styles()[n])}" for n in wanted]
        pictures = self.draw(prompts, number, fusions["own"], "structure_styled")
        row["style_kept"] = [self.judges[0](p) == n for p, n in zip(pictures, wanted)]
        row["styled"] = float(np.mean([iou(foreground(p), target) for p in pictures]))
        return row

    def style(self, number: int, own: BLora, other: BLora) -> Row:
        """Distances to the held-out style picture and leak of its glyph, under the same four conditions."""
        picture = style_picture(number)
        leak = glyph_mask(number + 7) > 0.5
        rng = np.random.default_rng([33, number])
        prompts = [content_text(NAMED_GLYPHS[n]) for n in rng.integers(len(NAMED_GLYPHS), size=2)]
        fusions = {
            "none": self.nothing,
            "own": fuse(None, own),
            "wrong": fuse(None, other),
            "swapped": swapped(fuse(None, own)),
        }
        row: Row = {}
        for name, fusion in fusions.items():
            drawn = self.draw(prompts, number, fusion, f"style_{name}")
            row[f"gram_{name}"] = float(np.mean([gram_distance(p, picture) for p in drawn]))
            row[f"histogram_{name}"] = float(np.mean([histogram_distance(p, picture) for p in drawn]))
            row[f"leak_{name}"] = float(np.mean([iou(foreground(p), leak) for p in drawn]))
        return row

    def fused(self, number: int, structure: BLora, style: BLora) -> Row:
        """Both at once, and each alpha alone over five values while the other stays at 1."""
        target, picture = glyph_mask(number) > 0.5, style_picture(number)
        overlaps, nearness = [], []
        for alpha in ALPHAS:
            (drawn,) = self.draw(
                [NEUTRAL], number, fuse(structure, style, alpha, 1.0), f"fused_structure_{alpha}"
            )
            overlaps.append(iou(foreground(drawn), target))
            (drawn,) = self.draw(
                [NEUTRAL], number, fuse(structure, style, 1.0, alpha), f"fused_style_{alpha}"
            )
            nearness.append(-(histogram_distance(drawn, picture) + 0.5 * gram_distance(drawn, picture)))
        return {  # `drawn` has both alphas at 1
            "iou": overlaps[-1],
            "gram": gram_distance(drawn, picture),
            "histogram": histogram_distance(drawn, picture),
            "structure_curve": overlaps,
            "style_curve": nearness,
            "structure_spearman": spearman(list(ALPHAS), overlaps),
            "style_spearman": spearman(list(ALPHAS), nearness),
        }


def swapped(fusion: Fusion) -> Fusion:
    """The same weights in the other of the two blocks."""
    names = {"attentions.0": "attentions.1", "attentions.1": "attentions.0"}

    def other(path: str) -> str:
        own = next(name for name in names if path.startswith(f"up_blocks.0.{name}."))
        return path.replace(own, names[own], 1)

    return Fusion({other(path): value for path, value in fusion.pairs.items()}, {})


def evaluate(out: Path, numbers: list[int], part: int) -> None:
    """Measure these sample numbers, one row each, stored as they come; the wrong LoRA is the neighbour's."""
    evaluation, rows = Evaluation(out), []
    learnt: dict[int, tuple[BLora, BLora, Row]] = {}
    for index, number in enumerate(numbers):
        neighbour = numbers[index - 1] if index else numbers[1]
        for needed in (neighbour, number):
            if needed not in learnt:
                learnt[needed] = evaluation.learn(needed)
        structure, style, seconds = learnt[number]
        other_structure, other_style, _ = learnt[neighbour]
        row = {
            "number": number,
            **seconds,
            "vae": evaluation.autoencoder(number),
            "text": evaluation.text(number),
            "structure": evaluation.structure(number, structure, other_structure),
            "style": evaluation.style(number, style, other_style),
            "fused": evaluation.fused(number, structure, style),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
        (out / f"part_{part}.json").write_text(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--part", default="0/1", help="K/N: every N-th sample from K")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.report:
        print(write_report(options.out))
        return
    torch.set_num_threads(1)
    part, parts = (int(number) for number in options.part.split("/"))
    evaluate(options.out, list(range(part, options.samples, parts)), part)


if __name__ == "__main__":
    main()
