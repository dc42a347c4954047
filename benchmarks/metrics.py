"""The measures of the quality benchmark, for pictures and for controls that must win or lose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.legibility import rank, rivals
from rechar_core.errors import FileError
from rechar_core.glyph import find, known, open_face, render
from rechar_core.metrics.score import RANKS, GlyphTarget, black_on_white, controls, leak, score
from rechar_core.metrics.segment import glyph_mask

Array = Any
RIVALS = 20
_SMALL = 64  # pixels at which candidates are compared

# Script -> the character, the font (shipped with ReChar), and the Unicode name prefix of similar characters in it.
GLYPHS: dict[str, tuple[str, str, str]] = {
    "han": ("羅", "ReChar CJK", "CJK UNIFIED"),
    "hangul": ("한", "ReChar CJK", "HANGUL SYLLABLE"),
    "arabic": ("ع", "ReChar Arabic", "ARABIC LETTER"),
    "devanagari": ("क", "ReChar Devanagari", "DEVANAGARI LETTER"),
    "latin": ("&", "ReChar CJK", "LATIN"),
    "kanji": ("永", "ReChar CJK", "CJK UNIFIED"),
    "hiragana": ("の", "ReChar CJK", "HIRAGANA LETTER"),
    "capital": ("R", "ReChar CJK", "LATIN CAPITAL LETTER"),
}
SCRIPTS = ("han", "hangul", "arabic", "devanagari", "latin")  # of the published table
_MARGIN = 0.17  # the demo model learnt glyphs of two thirds of the picture

# Measure -> whether more is better; the order is that of the table.
MEASURES: dict[str, bool] = {
    "both": True,
    "structure": True,
    "iou": True,
    "dice": True,
    "iou_otsu": True,
    "skeleton_recall": True,
    "edge_f1": True,
    "edge_f1_everywhere": True,
    "chamfer": False,
    "hd95": False,
    "topology": False,
    "top_1": True,
    "reciprocal_rank": True,
    "ocr": True,
    "ssim_grey": True,
    "ssim_edges": True,
    "ssim_masks": True,
    "colour_distance": False,
    "decoration": True,
    "leak": False,
    "vgg_gram": False,
    "clip_style": True,
    "clip_elements": True,
}


class GlyphMetrics:
    """Measures pictures against one glyph: its mask at the picture's size and the characters most similar to it."""

    def __init__(self, script: str, side: int):
        character, font, kind = GLYPHS[script]
        self.face, self.side = open_face(find(font, known())), side
        self.weights: list[Weights | VggGram] = []
        self.soft = self._mask(character, side)
        self.target = GlyphTarget(self.soft >= 0.5)
        self.rivals = self._rivals(character, kind)

    def _mask(self, character: str, side: int) -> Array:
        return render(character, [self.face], (side, side), margin=_MARGIN).mask.numpy()

    def _rivals(self, character: str, kind: str) -> dict[str, Array]:
        """The nearest characters of the same kind in the font, the most alike first."""
        from unicodedata import name

        alike = [c for c in characters(self.face) if c != character and name(c, "").startswith(kind)]
        small = {c: self._mask(c, _SMALL) >= 0.5 for c in alike}
        found = rivals(self._mask(character, _SMALL) >= 0.5, small, RIVALS)
        return {c: self._mask(c, self.side) >= 0.5 for c in found}

    def __call__(self, picture: Array, style: Array, style_drawn: Array | None = None) -> dict[str, float]:
        """All measures of a picture (H, W, 3) in 0..1 against the glyph and a style picture."""
        found = score(picture, self.target, style)
        place = rank(glyph_mask(picture, self.target.mask), self.target.mask, list(self.rivals.values()))
        found |= {"top_1": float(place == 1), "reciprocal_rank": 1 / place}
        found |= {name: RANKS[name](found) for name in ("structure", "both")}
        if style_drawn is not None:
            found["leak"] = leak(style_drawn, self.target.mask)
        for measure in self.weights:
            found |= measure(picture, style)
        return found

    def controls(self) -> dict[str, Array]:
        """Pictures whose measures say what a measure is worth: the glyph itself, a blank, the nearest other glyph, the
        glyph turned, the glyph shifted; all black on white."""
        made = controls(self.target.mask)
        nearest = next(iter(self.rivals.values()))
        return {"itself": made.pop("itself"), **made, "wrong glyph": black_on_white(nearest)}


def characters(face: Any) -> list[str]:
    """What a font has, in Unicode's order."""
    return [chr(code) for code in sorted(face.font.face.unicodes)]


class Weights:
    """Measures that need weights of others: CLIP, from a local folder in transformers' layout.

    clip_style: cosine of the picture's and the style picture's image embeddings. clip_elements: cosine of picture and
    the elements' text, less that of the undecorated glyph. Raises FileError if the folder lacks a file.
    """

    def __init__(self, folder: Path, elements: str, undecorated: Array):
        needed = ("config.json", "model.safetensors", "tokenizer_config.json")
        if missing := [name for name in needed if not (folder / name).is_file()]:
            raise FileError(
                f"{folder} lacks {', '.join(missing)}; give a folder with a CLIP of transformers."
            )
        from transformers import AutoTokenizer, CLIPModel

        self.model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        tokens = tokenizer(elements, return_tensors="pt", truncation=True)
        self.text = _unit(self.model.get_text_features(**tokens))
        self.baseline = float(self._seen(undecorated) @ self.text.T)

    def _seen(self, picture: Array) -> Any:
        import torch

        from rechar_core.synthesis.references.encoding import clip_pixels

        image = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32))[None]
        return _unit(
            self.model.get_image_features(clip_pixels(image, self.model.config.vision_config.image_size))
        )

    def __call__(self, picture: Array, style: Array) -> dict[str, float]:
        seen = self._seen(picture)
        return {
            "clip_style": float(seen @ self._seen(style).T),
            "clip_elements": float(seen @ self.text.T) - self.baseline,
        }


_STYLE_LAYERS = (1, 6, 11, 20, 29)  # relu1_1 ... relu5_1 of VGG19, as Gatys et al. (2016)


class VggGram:
    """vgg_gram: distance of the Gram matrices of VGG19's layers, relative to the style picture's; a local file."""

    def __init__(self, file: Path):
        from rechar_core.soulstyler.guide import load_vgg

        self.vgg = load_vgg(file).eval()

    def _grams(self, picture: Array) -> list[Any]:
        import torch

        from rechar_core.images import IMAGENET, normalised

        x = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).movedim(-1, 0)[None]
        x, found = normalised(x, IMAGENET), []
        with torch.no_grad():
            for number, layer in enumerate(self.vgg.features[: _STYLE_LAYERS[-1] + 1]):
                x = layer(x)
                if number in _STYLE_LAYERS:
                    flat = x[0].flatten(1)
                    found.append(flat @ flat.T / flat.shape[1])
        return found

    def __call__(self, picture: Array, style: Array) -> dict[str, float]:
        pairs = zip(self._grams(picture), self._grams(style))
        return {"vgg_gram": float(np.mean([float((a - b).norm() / b.norm()) for a, b in pairs]))}


def _unit(found: Any) -> Any:
    features = getattr(found, "pooler_output", found).detach()
    return features / features.norm(dim=-1, keepdim=True)
