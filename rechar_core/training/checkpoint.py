"""Saves an unfinished training and resumes it; the result is the same as without the interruption."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import RecipeError
from ..storage import read_state, write_state
from .loop import Training

_FORMAT = "rechar training state"
_HASHED = ("picture", "conditioning", "model", "noise_schedule")  # a message names these without their values


def save(training: Training, path: Path) -> Path:
    """Writes LoRA layers, optimizer, losses and the job to `path`, completely or not at all (safetensors).

    Returns the path. Raises FileError.
    """
    tensors: dict[str, Tensor] = {}
    for module, layer in training.lora_layers.by_path.items():
        tensors[f"adapter.{module}.down"] = layer.down.detach()
        tensors[f"adapter.{module}.up"] = layer.up.detach()
    state = training.optimizer.state_dict()
    numbers: dict[str, Any] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            (tensors if isinstance(value, Tensor) else numbers)[f"optimizer.{index}.{name}"] = value
    tensors["losses"] = torch.stack(training.losses) if training.losses else torch.zeros(0)
    metadata = {
        "format": _FORMAT,
        "job": json.dumps(training.job),
        "optimizer_numbers": json.dumps(numbers),
        "optimizer_groups": json.dumps(state["param_groups"]),
        "scaler": json.dumps(training.scaler.state_dict()),
    }
    return write_state({k: v.cpu().contiguous() for k, v in tensors.items()}, metadata, path)


def spares(trainings: Sequence[Training]) -> list[Path]:
    """`spare` of each; [] if no state was ever kept there, because naming one hashes the whole model."""
    used = _spares().is_dir() and any(_spares().iterdir())
    return [spare(training) for training in trainings] if used else []


def spare(training: Training) -> Path:
    """Where the state of this job is kept if it cannot be written where it belongs."""
    job = json.dumps(training.job, sort_keys=True)
    return _spares() / f"{hashlib.sha256(job.encode()).hexdigest()[:32]}.state"


def _spares() -> Path:
    return Path(tempfile.gettempdir()) / "rechar_states"


def resume(training: Training, path: Path) -> None:
    """Brings `training` (newly made) to the step at which the one in `path` was saved.

    Raises RecipeError if that run was of another recipe, picture, prompt, model, prediction type or noise schedule,
    saying which; FileError if the file is damaged.
    """
    tensors, metadata = read_state(path)
    if metadata.get("format") != _FORMAT:
        raise RecipeError(
            f"{path} is not a training state of this version of ReChar; delete it to start afresh."
        )
    changed = _changes(json.loads(metadata["job"]), training.job)
    if changed:
        raise RecipeError(
            f"{path} holds an unfinished training of another job ({'; '.join(changed)}); "
            "repeat the old settings to finish it, or delete that file (or pass --fresh) to start anew."
        )
    with torch.no_grad():
        for module, layer in training.lora_layers.by_path.items():
            layer.down.copy_(tensors[f"adapter.{module}.down"])
            layer.up.copy_(tensors[f"adapter.{module}.up"])
    training.optimizer.load_state_dict(_optimizer_state(training.optimizer, tensors, metadata))
    if training.scaler.is_enabled():
        training.scaler.load_state_dict(json.loads(metadata["scaler"]))
    training.losses.extend(tensors["losses"].to(training.denoiser.device).unbind())


def _changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    return [
        f"another {name.replace('_', ' ')}" if name in _HASHED else f"{name} {old.get(name)} -> {new[name]}"
        for name in new
        if old.get(name) != new[name]
    ]


def _optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], metadata: dict[str, str]
) -> dict[str, Any]:
    """The state as saved, but computed in the way of `optimizer`: another device may have saved it."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in [*tensors.items(), *json.loads(metadata["optimizer_numbers"]).items()]:
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            state.setdefault(int(index), {})[name] = value
    groups = json.loads(metadata["optimizer_groups"])
    for saved, group in zip(groups, optimizer.param_groups, strict=True):
        saved |= {name: group[name] for name in ("foreach", "fused") if name in group}
    return {"state": state, "param_groups": groups}
