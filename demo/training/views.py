"""Sample sheets during training: FOLDER/views/STEP.png, always the same prompts and seeds, with the moving average."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..frozen import held_out
from ..pictures.families import FAMILIES
from ..pictures.glyph_masks import Placing, mask
from .codes import FIRST_SLOT, TOKENS, context
from .meanings import HAN_FACE, Meanings
from .sampling import sample
from .unet import averaged_unet
from .vae import averaged, decode

STYLES = ("plain", "gold leaf", "neon", "jade", "ink wash", "lava", "embroidery", "stained glass")


class Views:
    """Codes said directly, as perfect text encoders would: rows of held-out Han and of named glyphs in eight styles."""

    def __init__(self, folder: Path, meanings: Meanings) -> None:
        self.folder, self.meanings = folder, meanings

    def contexts(self) -> Tensor:
        m, unseen = self.meanings, held_out()["han"]
        content = []
        for k in range(len(STYLES)):
            drawn = mask("han", unseen[100 * k], HAN_FACE, Placing(0.76))
            content.append(m.content(drawn) if drawn is not None else m.glyph("龙"))
        content += [m.glyph(glyph) for glyph in "龙春永福R8风木"]
        styles = [m.style(name, FAMILIES[name].palettes[0]) for name in STYLES]
        elements = [m.elements(()) for _ in STYLES] + [
            m.elements((name,))
            for name in ("plum blossom", "bamboo", "crane", "cloud", "wave", "butterfly", "moon", "koi")
        ]
        known = torch.full((16,), FIRST_SLOT)
        return context(torch.stack(content), torch.stack(styles * 2), torch.stack(elements), known)

    @torch.no_grad()
    def draw(self, step: int) -> None:
        """Three rows: held-out glyphs, named ones with elements, and these again with guidance 3."""
        basis = self.meanings.latent
        unet = averaged_unet(self.folder / "unet.pt", basis.channels)
        vae = averaged(self.folder, basis)
        ctx = self.contexts()
        empty = torch.zeros(1, TOKENS, ctx.shape[-1])
        drawn = [sample(unet, ctx, 0), sample(unet, ctx[8:], 8, guidance=3.0, empty=empty)]
        pictures = torch.cat([decode(vae, z[None]) for part in drawn for z in part]).clamp(0, 1)
        rows = [torch.cat(list(pictures[8 * row : 8 * row + 8]), 2) for row in range(3)]
        sheet = (torch.cat(rows, 1).permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        path = self.folder / "views" / f"{step:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(path)
