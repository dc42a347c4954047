"""Saving a run that was broken off, and going on with it as if it had not been."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import RecipeError
from ..lora.files import read_state, write_state
from .denoiser import Denoiser
from .loop import Training

_FORMAT = "rechar training state"
_HASHED = {  # name in a job -> what a message calls it
    "picture": "picture",
    "conditioning": "conditioning",
    "model": "model",
    "schedule": "noise schedule",
}
_MODELS: WeakKeyDictionary[Denoiser, str] = WeakKeyDictionary()


def save(training: Training, path: Path) -> None:
    """Writes adapters, optimizer, losses and what the run was made of to `path`, atomically (safetensors)."""
    tensors: dict[str, Tensor] = {}
    for module, adapter in training.lora_layers.by_path.items():
        tensors[f"adapter.{module}.down"] = adapter.down.detach()
        tensors[f"adapter.{module}.up"] = adapter.up.detach()
    state = training.optimizer.state_dict()
    numbers: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"optimizer.{index}.{name}"] = value
    tensors["losses"] = torch.stack(training.losses) if training.losses else torch.zeros(0)
    metadata = {
        "format": _FORMAT,
        "job": json.dumps(job(training)),
        "optimizer_numbers": json.dumps(numbers),
        "optimizer_groups": json.dumps(state["param_groups"]),
        "scaler": json.dumps(training.scaler.state_dict()),
    }
    write_state({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata, path)


def resume(training: Training, path: Path) -> None:
    """Puts `training` (newly made) where the run saved at `path` was broken off.

    Raises RecipeError if that run was of another recipe, picture, prompt, model, prediction type or noise schedule,
    saying which; FileError if the file is damaged.
    """
    tensors, metadata = read_state(path)
    if metadata.get("format") != _FORMAT:
        raise RecipeError(
            f"{path} is not a training state of this version of ReChar; delete it to start afresh."
        )
    changed = _changes(json.loads(metadata["job"]), job(training))
    if changed:
        raise RecipeError(
            f"{path} holds an unfinished training of another job ({'; '.join(changed)}); "
            "repeat the old settings to finish it, or delete that file (or pass --fresh) to start anew."
        )
    with torch.no_grad():
        for module, adapter in training.lora_layers.by_path.items():
            adapter.down.copy_(tensors[f"adapter.{module}.down"])
            adapter.up.copy_(tensors[f"adapter.{module}.up"])
    training.optimizer.load_state_dict(_optimizer_state(tensors, metadata))
    if training.scaler.is_enabled():
        training.scaler.load_state_dict(json.loads(metadata["scaler"]))
    training.losses = list(tensors["losses"].to(training.denoiser.device).unbind())


def job(training: Training) -> dict[str, Any]:
    """What makes a run this run: the recipe's settings, and hashes of pictures, conditioning, weights and schedule."""
    settings = training.recipe.to_json()
    settings.pop("memory")  # how it is computed does not change what comes out
    return {
        **settings,
        "processes": training.distributed.world,
        "picture": _hash(t for p in training.pictures for t in (p.mean, p.std)),
        "conditioning": _hash((training.conditioning.context, training.conditioning.pooled)),
        "model": _model_hash(training.denoiser),
        "prediction": training.denoiser.prediction,
        "schedule": _hash((training.denoiser.alphas_cumprod,)),
    }


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"another {_HASHED[name]}" if name in _HASHED else f"{name} {old.get(name)} -> {new[name]}"
        for name in new
        if old.get(name) != new[name]
    ]


def _optimizer_state(tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *json.loads(metadata["optimizer_numbers"]).items()]:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": json.loads(metadata["optimizer_groups"])}


def _model_hash(denoiser: Denoiser) -> str:
    """Of the denoiser's weights, computed once: they do not change, and other LoRAs' patches cost time to apply."""
    if denoiser not in _MODELS:
        _MODELS[denoiser] = _hash(denoiser.weights(), 64)
    return _MODELS[denoiser]


def _hash(tensors: Iterable[Tensor], values: int = 4096) -> str:
    """Of `values` to twice as many numbers of each tensor: they tell two of a kind apart and cost little on a GPU."""
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        digest.update(flat[:: max(1, len(flat) // values)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
