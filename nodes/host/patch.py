"""Applies a fusion to a clone of a MODEL as the host's own patches, after checking that it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...rechar_core.errors import ModelError
from ...rechar_core.lora import files
from ...rechar_core.lora.blocks import block_of_host
from ...rechar_core.lora.blora import BLora
from ...rechar_core.lora.layers import bias_of, only_for_host, weight_of
from .inputs import check_sdxl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

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


def _shapes(model: Any, modules: Mapping[str, str], name: str) -> dict[str, tuple[int, ...]]:
    """Diffusers module path -> shape of the module's parameter of this name, for the modules that have it."""
    found = {p: getattr(model.model.diffusion_model.get_submodule(m), name, None) for p, m in modules.items()}
    return {path: tuple(tensor.shape) for path, tensor in found.items() if tensor is not None}


def _as_host_reads(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a layer; a norm's bias without its weight, which the host would leave out, as a bias difference."""
    if "b_norm" in parts and "w_norm" not in parts:
        return {("diff_b" if part == "b_norm" else part): tensor for part, tensor in parts.items()}
    return dict(parts)


def _has_weight(parts: Mapping[str, Tensor]) -> bool:
    return weight_of(parts) is not None or bool(only_for_host(parts))


def patch_model(model: Any, fusion: Fusion) -> Any:
    """A clone of MODEL that carries the fusion as ordinary LoRA patches; MODEL itself is unchanged.

    Samplers, other LoRAs and low-VRAM modes treat it as any LoRA. Raises ModelError if MODEL is not SDXL or a layer
    does not fit: the host itself would only log that and go on without it.
    """
    import comfy.lora

    check_sdxl(model)
    modules = block_paths(model)
    biases = _shapes(model, modules, "bias")
    fusion.check(_shapes(model, modules, "weight"), biases)
    patched = model.clone()
    layers = (*fusion.pairs.items(), *fusion.passthrough.items())
    strengths = {f"{_PREFIX}{modules[path]}": alpha for path, (_, alpha) in layers}
    if not strengths:
        return patched
    pairs = {path: pair for path, (pair, _) in fusion.pairs.items()}
    others = {path: _as_host_reads(parts) for path, (parts, _) in fusion.passthrough.items()}
    state = files.convert(BLora(pairs, passthrough=others), "comfy")
    targets = {layer: f"{layer}.weight" for layer in strengths}
    applied = patched.add_patches(comfy.lora.load_lora(state, targets, log_missing=False))
    changed = [f"{modules[path]}.weight" for path in (*pairs, *(p for p in others if _has_weight(others[p])))]
    changed += [f"{modules[p]}.bias" for p in others if p in biases and bias_of(others[p]) is not None]
    missing = sorted({_PREFIX + name for name in changed} - set(applied))
    if missing:
        raise ModelError(
            f"ComfyUI could not use {len(missing)} layers of the LoRA, {missing[0]} first; update ComfyUI."
        )
    for key in applied:  # a call for each strength would list the whole model's weights again
        _, *rest = patched.patches[key][-1]
        patched.patches[key][-1] = (strengths[key.rpartition(".")[0]], *rest)
    return patched
