"""A picture from each of several trained LoRAs, side by side, to choose one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...rechar_core.device import next_seed
from ...rechar_core.errors import RecipeError
from ...rechar_core.images import sheet, to_pil, to_tensor
from ...rechar_core.lora.blocks import BLOCKS
from ...rechar_core.lora.fusion import fuse
from ...rechar_core.training.recipe import TrainingRecipe
from .patch import patch_model
from .progress import Progress
from .sampling import sample
from .training import Trained

_SAMPLING = {"steps": 20, "cfg": 5.0, "sampler_name": "euler", "scheduler": "normal"}


def check_choice(number: int, trials: int) -> None:
    """Raises RecipeError, before the training, if there will be no LoRA `number` (counted from 1)."""
    if number > trials:
        raise RecipeError(f"choose is {number}, but trials is {trials}; raise trials or choose fewer.")


def candidates(model: Any, clip: Any, vae: Any, trained: Sequence[Trained], recipe: TrainingRecipe) -> Tensor:
    """A labelled sheet (1, H, W, 3): each LoRA's picture of the prompt, all from the same noise."""
    prompt, empty = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (recipe.prompt, ""))
    side, progress, cells = recipe.resolution // 8, Progress(len(trained)), []
    for number, each in enumerate(trained, start=1):
        structure, style = (each.blora if block in each.blora.blocks else None for block in BLOCKS)
        patched = patch_model(model, fuse(structure, style))
        latent = {"samples": torch.zeros(1, 4, side, side)}
        settings = {"seed": recipe.seed, **_SAMPLING}
        picture = to_pil(sample(patched, vae, latent, prompt, empty, settings, progress))
        cells.append(
            (f"{number}: seed {next_seed(recipe.seed, number - 1)}\nlast loss {each.losses[-1]:.4f}", picture)
        )
        progress.show(number, picture)
    return to_tensor(sheet([cells[i : i + 4] for i in range(0, len(cells), 4)], recipe.prompt))
