"""References in the host: adapter files, CLIP_VISION, and the cross-attention of a MODEL."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...rechar_core.images import rgb
from ...rechar_core.synthesis.references.attention import Branch, Reference, acting, blend
from ...rechar_core.synthesis.references.encoding import IPAdapters
from ...rechar_core.synthesis.references.errors import AdapterError
from ...rechar_core.synthesis.references.layout import Layout
from ...rechar_core.synthesis.references.projection import IPAdapter, Kind, read_adapter
from .denoiser import computed_in
from .folders import file_names, file_path
from .inputs import check_sdxl
from .layers import Layer, block_weights, layers_of

CATEGORY = "ipadapter"
ON_CLONE = "on_clone"  # comfy.patcher_extension.CallbacksMP
NONE = "none"
# The published names are listed even if the files are missing: the error then says where they belong.
PUBLISHED = ("ip_plus_composition_sdxl.safetensors", "ip-adapter_sdxl_vit-h.safetensors")
Patch = Callable[[Tensor, Tensor, Tensor, dict[str, Any]], Tensor]


@dataclass(frozen=True)
class HostIPAdapters(IPAdapters):
    """encoder: a CLIP_VISION."""

    def widths(self) -> tuple[int, int]:
        try:
            hidden = self.encoder.model.vision_model.embeddings.patch_embedding.weight.shape[0]
            return int(hidden), int(self.encoder.model.visual_projection.weight.shape[0])
        except AttributeError:
            raise AdapterError(
                "This CLIP_VISION has no CLIP image projection (SigLIP or DINO?); load the CLIP-ViT-H-14 encoder."
            ) from None

    def features(self, image: Tensor | None, kind: Kind) -> Tensor:
        if image is not None:
            output = self.encoder.encode_image(rgb(image))
            return output["image_embeds" if kind == "plain" else "penultimate_hidden_states"].float().cpu()
        import comfy.model_management

        comfy.model_management.load_model_gpu(self.encoder.patcher)
        side = getattr(self.encoder, "image_size", 224)
        pixels = torch.zeros(1, 3, side, side, device=self.encoder.load_device)
        output = self.encoder.model(pixel_values=pixels, intermediate_output=-2)
        return output[2 if kind == "plain" else 1].float().cpu()


def adapter_names() -> list[str]:
    """ "none", the adapter files in models/ipadapter, which other packs use as well, and the published ones."""
    names = file_names(CATEGORY)
    return [NONE, *names, *(name for name in PUBLISHED if name not in names)]


def load_adapters(composition: str, style: str, encoder: Any) -> IPAdapters:
    """The listed files, checked against a CLIP_VISION. Raises FileError, AdapterError."""
    adapters = HostIPAdapters(_read(composition), _read(style), encoder)
    adapters.check()
    return adapters


def _read(name: str) -> IPAdapter | None:
    return None if name == NONE else read_adapter(file_path(CATEGORY, name, "adapter"))


def check_adapters(model: Any, adapters: IPAdapters) -> None:
    """Raises ModelError, AdapterError unless they fit MODEL."""
    check_sdxl(model)
    adapters.check(tuple(layer.width for layer in _layers(model)))


def _layers(model: Any) -> tuple[Layer, ...]:
    return layers_of((name, w.shape[0]) for name, w in model.model.diffusion_model.state_dict().items())


def apply_references(
    model: Any,
    references: Sequence[Reference],
    layout: Layout | None,
    scales: Mapping[str, float],
    start: float = 0.0,
    end: float = 1.0,
    weights: str = "",
) -> Any:
    """A clone of MODEL whose cross-attentions also attend to the references; MODEL itself is unchanged.

    scales: by role. start, end: part of the sampling, 0..1. weights: of the blocks, as `block_weights` reads them.
    What has scale 0 is left out altogether. Raises ModelError, AdapterError.
    """
    check_sdxl(model)
    layers, layout = _layers(model), layout or Layout()
    _log_ignored_attention(model)
    by_block = block_weights(weights, layers)
    strong = acting(references, scales, tuple(layer.width for layer in layers))
    patched = model.clone()
    existing = patched.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    window = _window(model, start, end)
    where = (model.load_device, computed_in(model))
    for number, layer in enumerate(layers):
        scale = by_block[layer.block_name]
        branches = [reference.at_layer(number, s * scale, *where) for reference, s in strong if scale != 0]
        if branches:
            block = (layer.side, layer.block)
            previous = existing.get((*block, layer.index)) or existing.get(block)
            patch = ReferencePatch(branches, layout, window, previous)
            patched.set_model_attn2_replace(patch, *block, layer.index)
    patched.remove_callbacks_with_key(ON_CLONE, CATEGORY)
    patched.add_callback_with_key(ON_CLONE, CATEGORY, _own_patches)
    return patched


def _own_patches(_: Any, clone: Any) -> None:
    """Gives a clone patches of its own: other packs add to those that they find in it (`ReferencePatch.add`).

    The host's clone shares all objects but lists and dictionaries, with the MODEL in its cache too.
    """
    patches = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    for block, patch in patches.items():
        if isinstance(patch, ReferencePatch):
            patches[block] = replace(patch, joined=list(patch.joined))


def _log_ignored_attention(model: Any) -> None:
    """A line in the log, once, if the checkpoint chooses an attention for some layers (ComfyUI 0.34 and newer).

    There the choice is the layer's module comfy_attention, which has no parameters. Layers with references ignore it.
    """
    modules = model.model.diffusion_model.named_modules()
    chosen = [n for n, m in modules if n.endswith("attn2.comfy_attention") and getattr(m, "config", None)]
    if chosen:
        _log_once(
            f"ReChar: this model chooses the attention of {len(chosen)} cross-attention layers itself "
            f"({chosen[0].rpartition('.')[0]} first); layers with references do not use that choice."
        )


@cache
def _log_once(line: str) -> None:
    logging.getLogger(__name__).info(line)


def _window(model: Any, start: float, end: float) -> tuple[float, float] | None:
    """Sigmas from `start` down to `end`; None for all of the sampling."""
    if not 0 <= start <= end <= 1:
        raise AdapterError(
            f"The references run from {start:g} to {end:g}; start must not be after end, in 0 to 1."
        )
    if (start, end) == (0, 1):
        return None
    sampling = model.get_model_object("model_sampling")  # of a Model Sampling node, if there is one
    return sampling.percent_to_sigma(start), sampling.percent_to_sigma(end)


@dataclass(eq=False)
class ReferencePatch:
    """One cross-attention with references, inside a window of sigmas.

    previous: an earlier patch of this layer; it still runs, as the text's attention. joined: see `add`.
    """

    branches: Sequence[Branch]
    layout: Layout
    window: tuple[float, float] | None
    previous: Patch | None
    joined: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
        """The attention before the output projection: q (B, N, C), k and v (B, T, C) of the text."""
        from comfy.ldm.modules.attention import optimized_attention

        attended = (self.previous or _text_attention)(q, k, v, extra_options)
        if self.window is None or _between(extra_options, *self.window):
            shape, halves = extra_options["activations_shape"], extra_options.get("cond_or_uncond", [0])
            grid, heads = (int(shape[-2]), int(shape[-1])), extra_options["n_heads"]
            attended = blend(
                q, attended, self.branches, self.layout, grid, halves, heads, optimized_attention
            )
        for callback, options in self.joined:
            if _between(extra_options, options["sigma_start"], options["sigma_end"]):
                attended = attended + callback(attended, q, k, v, extra_options, **options)
        return attended

    def add(self, callback: Any, **options: Any) -> None:
        """IPAdapter_plus calls this on an existing patch: the output of its callback is added to ours."""
        self.joined.append((callback, options))


def _between(extra_options: dict[str, Any], first: float, last: float) -> bool:
    """Whether the sampling is between two sigmas, the greater one first; without a sampler it is."""
    sigmas = extra_options.get("sigmas")
    return sigmas is None or last <= float(sigmas[0]) <= first


def _text_attention(q: Tensor, k: Tensor, v: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """As the unpatched layer computes it."""
    from comfy.ldm.modules.attention import optimized_attention

    precision = extra_options.get("attn_precision")
    return optimized_attention(
        q, k, v, extra_options["n_heads"], attn_precision=precision, transformer_options=extra_options
    )
