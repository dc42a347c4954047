"""A word, character by character, all in one style: style picture, noise and latent statistics are shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...rechar_core.errors import RecipeError
from ...rechar_core.lora.blocks import STRUCTURE
from ...rechar_core.lora.blora import BLora
from ...rechar_core.synthesis.lettering import (
    SHARED_STYLES,
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
from .training import train

_PROMPT, _PASSES = "A [v]", 3


@dataclass(frozen=True)
class Lettering:
    """How a word is generated. characters: MASK (N, H, W), one for each, at its place in the word.

    side: of each character's square, in pixels. margin: see `lettering.cells`. shared_style: see SHARED_STYLES.
    structure_steps, structure_rate, structure_rank: of a structure B-LoRA for each character; 0 steps train none.
    """

    characters: Tensor
    side: int
    margin: float
    shared_style: str
    structure_steps: int
    structure_rate: float
    structure_rank: int

    @property
    def parts(self) -> int:
        """The number of pictures to generate or pass on, three for each character."""
        return _PASSES * len(self.characters)

    def draw(
        self, renderer: HostRenderer, mode: PipelineConfig, seed: int, matte: str, **common: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The characters as IMAGE (N, S, S, 3), the word as IMAGE (1, H, W, 4) with alpha, the alpha as MASK (1, H, W).

        matte: see `lettering.mattes_of`. common: the fields of Passes that are the same for all characters.
        """
        characters = self.characters
        masks, places = cells(characters, self.side, self.margin)
        recipe = self._recipe(renderer, mode)
        statistics, pictures, style, progress = SharedStyle(), [], None, renderer.progress
        for number, mask in enumerate(masks):
            glyph = (1 - mask)[None, ..., None].expand(-1, -1, -1, 3).contiguous()
            seed_here = seed_of(self.shared_style, seed, number)
            passes = Passes(renderer, glyph, mask[None], mode, seed_here, **common)
            passes.check(learns=recipe is not None)  # all errors come before hours of training
            passes = replace(passes, structure=_trained(renderer, glyph, recipe) if recipe else None)
            if style is None:
                style = passes.style_picture() if renderer.adapter("style") else glyph
            progress.show(_PASSES * number + 1)
            structure = passes.structure_picture() if renderer.adapter("structure") else glyph
            progress.show(_PASSES * number + 2)
            shared = statistics.each_step(mask) if self.shared_style == SHARED_STYLES[0] else None
            pictures.append(passes.result(structure, style, shared))
            progress.show(_PASSES * (number + 1))
        letters = torch.cat(pictures)
        canvas = (characters.shape[-2], characters.shape[-1])
        word = composed(letters, mattes_of(matte, letters, masks), places, canvas)[None]
        return letters, word, word[..., 3]

    def _recipe(self, renderer: HostRenderer, mode: PipelineConfig) -> TrainingRecipe | None:
        """How each structure B-LoRA is trained, or None. Raises RecipeError if nothing would use it."""
        if not self.structure_steps:
            return None
        if not (mode.structure_stays or (mode.renders_references and renderer.adapter("structure"))):
            raise RecipeError(
                f"In mode {mode.name} nothing uses the B-LoRAs that structure_steps trains: connect adapters with a "
                "composition adapter, or set structure_steps to 0."
            )
        return TrainingRecipe(
            prompt=_PROMPT,
            target="structure",
            resolution=self.side,
            steps=self.structure_steps,
            learning_rate=self.structure_rate,
            rank=self.structure_rank,
        )


def _trained(renderer: HostRenderer, glyph: Tensor, recipe: TrainingRecipe) -> BLora:
    (trained,) = train(renderer.model, renderer.clip, renderer.vae, glyph, recipe)
    return trained.blora.select(STRUCTURE)
