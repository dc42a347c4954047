"""What named words mean in the language of codes: glyphs, styles and elements, each with one canonical drawing.

`python -m demo.training.meanings FOLDER` fits the bases to the first shard, draws every named style and element, and
writes demo/basis.safetensors: all that must not change once training has started. It is committed.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..catalog import NAMED_GLYPHS
from ..pictures.batches import FAMILY_NAMES, Plan, draw, halved
from ..pictures.elements import ELEMENTS, element_layer
from ..pictures.families import FAMILIES, named_styles
from ..pictures.glyph_masks import Placing, mask, signed_distance
from ..pictures.render import Style, own_style
from .codes import CodeBasis, fit_codes, measure, style_code
from .latents import Basis, fit_basis

FILE = Path(__file__).parent.parent / "basis.safetensors"
CHANNELS = 8
DRAWINGS = 6  # of every named style: its code is their mean
CANONICAL = Placing(0.72)
HAN_FACE, LATIN_FACE = "opentype/noto/NotoSansCJK-Bold.ttc#2", "truetype/dejavu/DejaVuSans-Bold.ttf"
SAMPLE_GLYPHS = "木龙春永福R8风"


def canonical(glyph: str) -> np.ndarray:
    """The mask (256, 256) uint8 of a named glyph."""
    kind, face = ("latin", LATIN_FACE) if glyph.isascii() else ("han", HAN_FACE)
    found = mask(kind, glyph, face, CANONICAL)
    if found is None:
        raise SystemExit(f"{face} does not draw {glyph}: install the fonts that demo/README.md lists.")
    return found


def plain_plan() -> Plan:
    """Black on white, as glyph pictures are."""
    return Plan(own_style("plain"), exact=True)


def drawn(plan: Plan, glyphs: str, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (n, 3, 256, 256) of glyphs without elements, their masks and distances."""
    masks = np.stack([canonical(glyph) for glyph in glyphs])
    distances = torch.from_numpy(np.stack([signed_distance(m) for m in masks]))[:, None]
    shown = torch.from_numpy(masks / np.float32(255))[:, None]
    pictures, _ = draw(shown, distances, torch.zeros(len(glyphs), 4, 256, 256), plan, seed)
    return pictures, shown, distances


def measured(plan: Plan, seed: int) -> Tensor:
    """(43,): the mean measurement of a style."""
    pictures, shown, distances = drawn(plan, SAMPLE_GLYPHS[:DRAWINGS], seed)
    small = halved(shown)
    found = measure(halved(pictures), small, halved(distances) / 2, torch.zeros_like(small))
    return found.mean(0)


def make(folder: Path) -> dict[str, Tensor]:
    """Everything that is fixed before training, from the first shard and the catalogues."""
    with np.load(sorted((folder / "data").glob("[0-9]*.npz"))[0]) as shard:
        pictures = torch.from_numpy(shard["pictures"]).float() / 255
        masks, elements = (torch.from_numpy(shard[name]).float() / 255 for name in ("masks", "elements"))
    latent, codes = fit_basis(pictures, CHANNELS), fit_codes(masks, elements)
    styles = [
        measured(Plan(Style(family, FAMILIES[family].ground, palette)), 900 + k)
        for k, (family, palette) in enumerate(named_styles())
    ]
    layers = np.stack(
        [element_layer((kind,), np.random.default_rng(40 + k))[..., 3] for k, kind in enumerate(ELEMENTS)]
    )
    return {
        "latent.first": latent.first,
        "latent.second": latent.second,
        "latent.mean": latent.mean,
        "codes.glyph": codes.glyph,
        "codes.element": codes.element,
        "styles": torch.stack(styles),
        "plain": measured(plain_plan(), 899),
        "elements": halved(torch.from_numpy(layers.astype(np.float32))[:, None])[:, 0]
        .round()
        .to(torch.uint8),
    }


class Meanings:
    """The bases and what named words stand for, read from demo/basis.safetensors."""

    def __init__(self) -> None:
        stored = load_file(FILE)
        self.latent = Basis(*(stored[f"latent.{name}"].float() for name in ("first", "second", "mean")))
        self.codes = CodeBasis(stored["codes.glyph"].float(), stored["codes.element"].float())
        families = torch.tensor([FAMILY_NAMES.index(family) for family, _ in named_styles()])
        self.styles = style_code(families, stored["styles"].float())
        self.plain = style_code(torch.tensor([FAMILY_NAMES.index("plain")]), stored["plain"].float()[None])[0]
        self.element_masks = stored["elements"].float() / 255

    def glyph(self, glyph: str) -> Tensor:
        """(64, 48): the content of a named glyph."""
        return self.content(canonical(glyph))

    def content(self, mask: np.ndarray) -> Tensor:
        """(64, 48): the content of a mask (256, 256) uint8."""
        return self.codes.content(halved(torch.from_numpy(mask / np.float32(255))[None, None])[:, 0])[0]

    def style(self, family: str, palette: object) -> Tensor:
        """(80,): the code of a named style."""
        return self.styles[named_styles().index((family, palette))]

    def elements(self, names: tuple[str, ...]) -> Tensor:
        """(64, 32): the code of named elements (none: that there are none)."""
        kinds = torch.tensor([[float(kind in names) for kind in ELEMENTS]])
        cover = torch.zeros(1, 128, 128)
        for name in names:
            cover = torch.maximum(cover, self.element_masks[ELEMENTS.index(name)][None])
        return self.codes.elements(cover, kinds)[0]


def all_glyphs(meanings: Meanings) -> dict[str, Tensor]:
    return {glyph: meanings.glyph(glyph) for glyph in NAMED_GLYPHS}


def main() -> None:
    torch.set_num_threads(1)
    if FILE.exists():
        raise SystemExit(
            f"{FILE} exists: weights that were trained with it need it as it is. Delete it to start anew."
        )
    save_file({name: tensor.contiguous() for name, tensor in make(Path(sys.argv[1])).items()}, FILE)
    FILE.chmod(0o644)
    print(f"{FILE}: {FILE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
