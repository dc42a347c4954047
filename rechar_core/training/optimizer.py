"""The optimizers a recipe can name."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..errors import RecipeError
from .recipe import TrainingRecipe


def build(parameters: list[nn.Parameter], recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over fp32 `parameters`.

    Raises RecipeError where its package is not installed (bitsandbytes, prodigyopt), with what to install or choose.
    """
    settings: dict[str, Any] = {
        "lr": recipe.learning_rate,
        "betas": recipe.betas,
        "weight_decay": recipe.weight_decay,
    }
    if recipe.optimizer == "adamw":
        on_gpu = parameters[0].is_cuda
        return torch.optim.AdamW(parameters, eps=recipe.epsilon, fused=on_gpu, foreach=not on_gpu, **settings)
    if recipe.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError:
            raise RecipeError(
                "optimizer adamw8bit needs the package bitsandbytes, which is not installed; "
                "install it, or choose adamw (it costs 170 MB more and gives the same result)."
            ) from None
        return AdamW8bit(parameters, eps=recipe.epsilon, **settings)
    try:
        from prodigyopt import Prodigy
    except ImportError:
        raise RecipeError(
            "optimizer prodigy needs the package prodigyopt, which is not installed; install it or choose adamw."
        ) from None
    return Prodigy(
        parameters, eps=recipe.epsilon, use_bias_correction=True, safeguard_warmup=True, **settings
    )
