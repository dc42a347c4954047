"""Applies a fusion to a clone of a MODEL as the host's own patches, after checking that it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...rechar_core.errors import ModelError
from ...rechar_core.lora import files
from ...rechar_core.lora.blocks import block_of_host
from ...rechar_core.lora.blora import BLora
from .inputs import check_sdxl

if TYPE_CHECKING:
    from ...rechar_core.lora.fusion import Fusion

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
    fusion.check({path: tuple(unet.get_submodule(name).weight.shape) for path, name in modules.items()})
    patched, layers = model.clone(), {**fusion.pairs, **fusion.passthrough}
    strengths = {f"{_PREFIX}{modules[path]}": alpha for path, (_, alpha) in layers.items()}
    if not strengths:
        return patched
    pairs = {path: pair for path, (pair, _) in fusion.pairs.items()}
    others = {path: parts for path, (parts, _) in fusion.passthrough.items()}
    state = files.convert(BLora(pairs, passthrough=others), "comfy")
    targets = {layer: f"{layer}.weight" for layer in strengths}
    applied = patched.add_patches(comfy.lora.load_lora(state, targets, log_missing=False))
    missing = sorted(set(targets.values()) - set(applied))
    if missing:
        raise ModelError(
            f"ComfyUI could not use {len(missing)} layers of the LoRA, {missing[0]} first; update ComfyUI."
        )
    for key in applied:  # a call for each strength would list the whole model's weights again
        _, *rest = patched.patches[key][-1]
        patched.patches[key][-1] = (strengths[key.rpartition(".")[0]], *rest)
    return patched
