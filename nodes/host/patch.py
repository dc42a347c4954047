"""A fusion becomes host-native patches on a clone of a MODEL, checked before they are applied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...rechar_core.errors import ModelError
from ...rechar_core.lora.blocks import block_of_host
from ...rechar_core.lora.key_formats import format_key
from .inputs import check_sdxl

if TYPE_CHECKING:
    from torch import Tensor

    from ...rechar_core.lora.fusion import Fusion

_HOST = "comfy"
_PREFIX = "diffusion_model."


def block_paths(model: Any) -> dict[str, str]:
    """Diffusers module path -> host module path of every weighted module in the two blocks."""
    paths = {}
    for name, module in model.model.diffusion_model.named_modules():
        block = block_of_host(name)
        if block and getattr(module, "weight", None) is not None:
            paths[block.path + name.removeprefix(block.host)] = name
    return paths


def patch_model(model: Any, fusion: Fusion) -> Any:
    """A clone of MODEL that carries the fusion as ordinary LoRA patches; MODEL itself is unchanged.

    Samplers, other LoRAs and low-VRAM modes treat it as any LoRA. Raises ModelError if MODEL is not SDXL or a layer
    does not fit: the host itself would only log that and go on without it.
    """
    import comfy.lora

    check_sdxl(model)
    unet, modules = model.model.diffusion_model, block_paths(model)
    layers = {path: f"{_PREFIX}{module}" for path, module in modules.items()}
    shapes = {path: tuple(unet.get_submodule(module).weight.shape) for path, module in modules.items()}
    fusion.check(shapes)
    patched = model.clone()
    for alpha, (paths, state) in _by_alpha(fusion).items():
        targets = {layers[path]: f"{layers[path]}.weight" for path in paths}
        patches = comfy.lora.load_lora(state, targets, log_missing=False)
        taken = set(patched.add_patches(patches, alpha))
        missed = sorted(set(targets.values()) - taken)
        if missed:
            raise ModelError(
                f"ComfyUI could not use {len(missed)} layers of the LoRA, {missed[0]} first; update ComfyUI."
            )
    return patched


def _by_alpha(fusion: Fusion) -> dict[float, tuple[set[str], dict[str, Tensor]]]:
    """Alpha -> the module paths that have it, and their weights under the host's keys."""
    import torch

    groups: dict[float, tuple[set[str], dict[str, Tensor]]] = defaultdict(lambda: (set(), {}))
    for path, (pair, alpha) in fusion.pairs.items():
        parts = {
            "down": pair.down,
            "up": pair.up,
            "alpha": torch.tensor(pair.network_alpha),
            "dora_scale": pair.dora_scale,
        }
        _add(
            groups[alpha],
            path,
            {part: tensor for part, tensor in parts.items() if tensor is not None},
        )
    for path, (others, alpha) in fusion.passthrough.items():
        _add(groups[alpha], path, others)
    return groups


def _add(group: tuple[set[str], dict[str, Tensor]], path: str, parts: Mapping[str, Tensor]) -> None:
    paths, state = group
    paths.add(path)
    state |= {format_key(_HOST, path, part): tensor for part, tensor in parts.items()}
