"""A fusion becomes host-native patches on a clone of a MODEL, checked before they are applied."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ...rechar_core.blocks import BLOCKS, block_of, block_of_host
from ...rechar_core.errors import ModelError
from ...rechar_core.keys import format_key

if TYPE_CHECKING:
    from torch import Tensor

    from ...rechar_core.fusion import Fusion

_HOST = "comfy"
_PREFIX = "diffusion_model."


def check_sdxl(model: Any) -> None:
    """Raises ModelError unless a MODEL is SDXL with epsilon or v-prediction, naming what it is instead."""
    from comfy import model_base

    kind = type(model.model)
    if not issubclass(kind, model_base.SDXL):
        raise ModelError(
            f"This MODEL is {kind.__name__}; a B-LoRA lives in SDXL only. Load an SDXL checkpoint."
        )
    if model.model.model_type not in (model_base.ModelType.EPS, model_base.ModelType.V_PREDICTION):
        raise ModelError(
            f"This SDXL has {model.model.model_type.name} sampling; load one with epsilon or v-prediction."
        )


def block_paths(model: Any) -> dict[str, str]:
    """Diffusers module path -> host module path of every weighted module in the two blocks."""
    paths = {}
    for key in model.model.state_dict():
        module = key.removeprefix(_PREFIX).removesuffix(".weight")
        block = block_of_host(module) if key.endswith(".weight") else None
        if block:
            paths[block.path + module.removeprefix(block.host)] = module
    return paths


def patch_model(model: Any, fusion: Fusion) -> Any:
    """A clone of MODEL that carries the fusion as ordinary LoRA patches; MODEL itself is unchanged.

    Samplers, other LoRAs and low-VRAM modes treat it as any LoRA. Raises ModelError if MODEL is not SDXL or a layer
    does not fit: the host itself would only log that and go on without it.
    """
    import comfy.lora

    check_sdxl(model)
    weights = model.model.state_dict()
    shapes = {path: tuple(weights[f"{_PREFIX}{m}.weight"].shape) for path, m in block_paths(model).items()}
    fusion.check(shapes)
    patched = model.clone()
    for strength, state in _by_strength(fusion).items():
        targets = {_module(key): f"{_module(key)}.weight" for key in state}
        patches = comfy.lora.load_lora(state, targets, log_missing=False)
        taken = set(patched.add_patches(patches, strength))
        missed = sorted(set(targets.values()) - taken)
        if missed:
            raise ModelError(
                f"ComfyUI could not use {len(missed)} layers of the LoRA, {missed[0]} first; update ComfyUI."
            )
    return patched


def to_host_path(path: str) -> str:
    """The host's name of a diffusers module path inside the two blocks."""
    block = block_of(path)
    assert block in BLOCKS, path
    return block.host + path.removeprefix(block.path)


def _by_strength(fusion: Fusion) -> dict[float, dict[str, Tensor]]:
    import torch

    states: dict[float, dict[str, Tensor]] = defaultdict(dict)
    for path, (pair, strength) in fusion.pairs.items():
        parts = {
            "down": pair.down,
            "up": pair.up,
            "alpha": torch.tensor(pair.alpha),
            "dora_scale": pair.dora_scale,
        }
        states[strength] |= {format_key(_HOST, path, part): t for part, t in parts.items() if t is not None}
    for path, (others, strength) in fusion.passthrough.items():
        states[strength] |= {format_key(_HOST, path, part): t for part, t in others.items()}
    return states


def _module(key: str) -> str:
    """The host module of one of our keys: what is left of the key without its part's ending."""
    from ...rechar_core.keys import parse

    parsed = parse(key)
    assert parsed is not None and parsed.inside, key
    return _PREFIX + to_host_path(parsed.module)
