"""A word, character by character, with one look: style picture, noise and latent statistics are shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...rechar_core.errors import RecipeError
from ...rechar_core.images import batch_of
from ...rechar_core.lora.blocks import STRUCTURE
from ...rechar_core.lora.blora import BLora
from ...rechar_core.synthesis.lettering import (
    SHARED_STYLES,
    Cell,
    SharedStyle,
    cells,
    composed,
    mattes_of,
    seed_of,
)
from ...rechar_core.synthesis.modes import PipelineConfig
from ...rechar_core.synthesis.passes import Passes
from ...rechar_core.training.recipe import TrainingRecipe
from .pipeline import HostRenderer
from .progress import Progress
from .training import train

_PROMPT, _PASSES = "A [v]", 3


@dataclass(frozen=True)
class Lettering:
    """The characters' masks (N, S, S), where they stand on a canvas (height, width), and how they share their look.

    recipe: how a structure B-LoRA is trained for each character, or None for none.
    """

    masks: Tensor
    places: list[Cell]
    canvas: tuple[int, int]
    shared_style: str
    recipe: TrainingRecipe | None

    def draw(self, renderer: HostRenderer, mode: PipelineConfig, seed: int, **common: Any) -> Tensor:
        """IMAGE (N, S, S, 3). common: the fields of Passes that are the same for all characters."""
        progress, look, pictures, style = Progress(_PASSES * len(self.masks)), SharedStyle(), [], None
        renderer = replace(renderer, progress=progress)
        self._check_training(renderer, mode)
        for number, mask in enumerate(self.masks):
            glyph = (1 - mask)[None, ..., None].expand(-1, -1, -1, 3).contiguous()
            own = Passes(
                renderer, glyph, mask[None], mode, seed_of(self.shared_style, seed, number), **common
            )
            own.check(
                learns=self.recipe is not None
            )  # all that can be wrong is said before hours of training
            own = replace(own, structure=self._learnt(renderer, glyph))
            if style is None:
                style = own.style_picture() if renderer.adapter("style") else glyph
            progress.show(_PASSES * number + 1)
            structure = own.structure_picture() if renderer.adapter("structure") else glyph
            progress.show(_PASSES * number + 2)
            shared = look.each_step(mask) if self.shared_style == SHARED_STYLES[0] else None
            pictures.append(own.result(structure, style, shared))
            progress.show(_PASSES * (number + 1))
        return torch.cat(pictures)

    def _check_training(self, renderer: HostRenderer, mode: PipelineConfig) -> None:
        used = mode.structure_stays or (mode.renders_references and renderer.adapter("structure") is not None)
        if self.recipe is not None and not used:
            raise RecipeError(
                f"In mode {mode.name} nothing uses the B-LoRAs that structure_steps trains: connect adapters with a "
                "composition adapter, or set structure_steps to 0."
            )

    def _learnt(self, renderer: HostRenderer, glyph: Tensor) -> BLora | None:
        if self.recipe is None:
            return None
        (done,) = train(renderer.model, renderer.clip, renderer.vae, glyph, self.recipe)
        return done.blora.select(STRUCTURE)


def lettering_of(
    characters: Tensor,
    side: int,
    margin: float,
    shared_style: str,
    structure_steps: int,
    structure_rate: float,
    structure_rank: int,
) -> Lettering:
    """The word of MASK (N, H, W), each character in a square of `side` pixels; structure_steps 0 trains nothing."""
    characters = batch_of(characters)
    masks, places = cells(characters, side, margin)
    training: dict[str, Any] = {
        "steps": structure_steps,
        "learning_rate": structure_rate,
        "rank": structure_rank,
    }
    recipe = (
        TrainingRecipe(prompt=_PROMPT, target="structure", resolution=side, **training)
        if structure_steps
        else None
    )
    return Lettering(masks, places, (characters.shape[-2], characters.shape[-1]), shared_style, recipe)


def finished(word: Lettering, pictures: Tensor, matte: str) -> tuple[Tensor, Tensor]:
    """The composed word as IMAGE (1, H, W, 4) with alpha, and the alpha alone as MASK (1, H, W)."""
    page = composed(pictures, mattes_of(matte, pictures, word.masks), word.places, word.canvas)[None]
    return page, page[..., 3]
