"""What tells one training from another, so that only the same one is resumed or taken from a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from .denoiser import Conditioning, Denoiser, LatentMoments
from .recipe import TrainingRecipe

_MODELS: WeakKeyDictionary[Denoiser, str] = WeakKeyDictionary()


def job_of(
    recipe: TrainingRecipe,
    processes: int,
    denoiser: Denoiser,
    pictures: Sequence[LatentMoments],
    conditioning: Conditioning,
) -> dict[str, Any]:
    """The recipe's settings, and hashes of pictures, conditioning, weights and noise schedule."""
    settings = recipe.to_json()
    settings.pop("memory")  # how it is computed does not change what comes out
    return {
        **settings,
        "processes": processes,
        "picture": _hash(t for p in pictures for t in (p.mean, p.std)),
        "conditioning": _hash((conditioning.context, conditioning.pooled)),
        "model": model_hash(denoiser),
        "prediction": denoiser.prediction,
        "noise_schedule": _hash((denoiser.alphas_cumprod,)),
    }


def model_hash(denoiser: Denoiser) -> str:
    """Of the denoiser's weights, computed once: they do not change, and other LoRAs' patches cost time to apply."""
    if denoiser not in _MODELS:
        _MODELS[denoiser] = _hash(denoiser.weights(), 64)
    return _MODELS[denoiser]


def _hash(parts: Iterable[Tensor | str], values: int = 4096) -> str:
    """Of whole strings, and of `values` to twice as many numbers of each tensor: they tell two of a kind apart and
    cost little on a GPU."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
            continue
        flat = part.detach().reshape(-1)
        digest.update(flat[:: max(1, len(flat) // values)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
