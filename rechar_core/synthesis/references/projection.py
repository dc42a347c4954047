"""IP-Adapter files and their two image projections (Ye et al., 2023).

A *plain* adapter projects the encoder's pooled embedding to four tokens; a *plus* adapter resamples the encoder's
penultimate hidden states. All sizes are read from the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ... import storage
from .errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

Kind = Literal["plain", "plus"]
HEAD_WIDTH = 64  # of every published resampler

_IMAGE, _LAYERS = "image_proj.", "ip_adapter."
# A tensor that only this kind has; tested in this order.
_MARKS: Mapping[str, str] = {
    "proj.weight": "plain",
    "latents": "plus",
    "proj.3.weight": "a full-face adapter",
    "perceiver_resampler.proj_in.weight": "a FaceID adapter",
    "norm.weight": "a FaceID adapter",
}
# (width of the hidden states, width of the pooled embedding) of the encoders that published adapters use.
ENCODERS: Mapping[str, tuple[int, int]] = {
    "CLIP-ViT-H-14": (1280, 1024),
    "CLIP-ViT-bigG-14": (1664, 1280),
    "CLIP-ViT-L-14": (1024, 768),
}


@dataclass(frozen=True)
class IPAdapter:
    """The tensors of an IP-Adapter file, in the file's dtype.

    image: the projection's tensors under the file's names without "image_proj.". keys, values: one (layer width,
    context width) matrix for each cross-attention, in the order of the file's numbers 1, 3, 5, ...
    """

    name: str
    kind: Kind
    image: Mapping[str, Tensor]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def feature_width(self) -> int:
        """Width of the image features it takes: pooled embeddings (plain) or hidden states (plus)."""
        return int(self.image["proj.weight" if self.kind == "plain" else "proj_in.weight"].shape[1])

    @property
    def context_width(self) -> int:
        """Width of the image tokens it makes: the base model's cross-attention width."""
        return int(self.image["norm.weight" if self.kind == "plain" else "norm_out.weight"].shape[0])

    @cached_property
    def depth(self) -> int:
        """Layers of the resampler; 0 for a plain adapter."""
        return len({name.split(".")[1] for name in self.image if name.startswith("layers.")})

    def tokens(self, features: Tensor) -> Tensor:
        """Tokens (B, T, context width) in fp32 of features (B, width) for plain, (B, N, width) for plus adapters."""
        state = {name: tensor.float() for name, tensor in self.image.items()}
        features = features.float().to(next(iter(state.values())).device)
        return _plain(state, features) if self.kind == "plain" else _resample(state, features, self.depth)

    def check_encoder(self, hidden: int, pooled: int) -> None:
        """Raises AdapterError unless an encoder with these widths fits; the message names the one that does."""
        place, what = (1, "embeddings") if self.kind == "plain" else (0, "hidden states")
        width = (hidden, pooled)[place]
        if width == self.feature_width:
            return
        fitting = [name for name, widths in ENCODERS.items() if widths[place] == self.feature_width]
        loaded = [name for name, widths in ENCODERS.items() if widths == (hidden, pooled)]
        raise AdapterError(
            f"The adapter '{self.name}' ({self.kind}) takes image {what} of width {self.feature_width}, this "
            f"CLIP_VISION ({loaded[0] if loaded else 'of unknown kind'}) gives {width}; "
            f"load {fitting[0] if fitting else 'the image encoder that the adapter was trained with'}."
        )

    def check_layers(self, widths: tuple[int, ...]) -> None:
        """Raises AdapterError unless the adapter has these cross-attention widths, in the adapter's order."""
        layers = tuple(int(matrix.shape[0]) for matrix in self.keys)
        if layers == widths:
            return
        first = next((i for i, (ours, its) in enumerate(zip(layers, widths)) if ours != its), None)
        difference = "" if first is None else f" (layer {first}: {layers[first]} and {widths[first]} wide)"
        advice = (
            "this is an SD 1.5 adapter, choose one for SDXL"
            if len(layers) == 16
            else "choose the one made for it"
        )
        raise AdapterError(
            f"The adapter '{self.name}' is made for {len(layers)} cross-attention layers, this MODEL has "
            f"{len(widths)}{difference}; {advice}."
        )


def read_adapter(path: str | os.PathLike[str]) -> IPAdapter:
    """The IP-Adapter in a .safetensors file. Raises FileError if it cannot be read, AdapterError if it is not one."""
    state, _ = storage.read_state(path)
    return ip_adapter_of(state, Path(path).name)


def ip_adapter_of(state: Mapping[str, Tensor], name: str) -> IPAdapter:
    """The IP-Adapter in a file's tensors, all shapes checked. Raises AdapterError if it is not one."""
    image = {k.removeprefix(_IMAGE): t for k, t in state.items() if k.startswith(_IMAGE)}
    layers = {k.removeprefix(_LAYERS): t for k, t in state.items() if k.startswith(_LAYERS)}
    kind = next((kind for mark, kind in _MARKS.items() if mark in image), None)
    if not image or not layers or kind is None:
        raise AdapterError(
            f"'{name}' is no IP-Adapter (it has no image_proj and ip_adapter tensors); choose an adapter for SDXL."
        )
    if kind not in ("plain", "plus"):
        raise AdapterError(f"'{name}' is {kind}; choose a plain or a plus (composition) IP-Adapter for SDXL.")
    numbers = sorted(int(k.split(".")[0]) for k in layers if k.endswith(".to_k_ip.weight"))
    try:
        keys = tuple(layers[f"{n}.to_k_ip.weight"] for n in numbers)
        values = tuple(layers[f"{n}.to_v_ip.weight"] for n in numbers)
        adapter = IPAdapter(name, "plain" if kind == "plain" else "plus", image, keys, values)
        _check(adapter)
    except KeyError as error:
        raise AdapterError(f"'{name}' lacks the tensor {error}; download it again.") from error
    return adapter


def _check(adapter: IPAdapter) -> None:
    """Raises AdapterError if a shape contradicts the others, KeyError if a tensor is missing."""
    width, wrong = adapter.context_width, []
    for number, pair in enumerate(zip(adapter.keys, adapter.values, strict=True)):
        if pair[0].shape != pair[1].shape or pair[0].ndim != 2 or pair[0].shape[1] != width:
            wrong.append(f"layer {2 * number + 1} is {tuple(pair[0].shape)}")
    if adapter.kind == "plain" and adapter.image["proj.weight"].shape[0] % width:
        wrong.append(f"proj.weight is {tuple(adapter.image['proj.weight'].shape)}")
    if adapter.kind == "plus" and adapter.image["layers.0.0.to_q.weight"].shape[0] % HEAD_WIDTH:
        wrong.append(f"to_q is {tuple(adapter.image['layers.0.0.to_q.weight'].shape)}")
    if wrong:
        raise AdapterError(
            f"'{adapter.name}' contradicts itself: its tokens are {width} wide, and {wrong[0]}; "
            "download it again."
        )


def _plain(state: Mapping[str, Tensor], embeddings: Tensor) -> Tensor:
    """The plain projection: linear layer, split into tokens, LayerNorm: (B, width) -> (B, 4, context)."""
    import torch.nn.functional as F

    width = state["norm.weight"].shape[0]
    flat = F.linear(embeddings, state["proj.weight"], state["proj.bias"])
    return F.layer_norm(
        flat.view(len(embeddings), -1, width), (width,), state["norm.weight"], state["norm.bias"]
    )


def _resample(state: Mapping[str, Tensor], hidden: Tensor, depth: int) -> Tensor:
    """The resampler: learned queries attend to the hidden states `depth` times: (B, N, width) -> (B, T, context)."""
    import torch
    import torch.nn.functional as F

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.linear(hidden, state["proj_in.weight"], state["proj_in.bias"])
    latents = state["latents"].expand(len(hidden), -1, -1)
    for i in range(depth):
        attention, feed = f"layers.{i}.0", f"layers.{i}.1"
        queries = norm(latents, f"{attention}.norm2")
        seen = torch.cat([norm(x, f"{attention}.norm1"), queries], 1)
        key, value = F.linear(seen, state[f"{attention}.to_kv.weight"]).chunk(2, -1)
        query = F.linear(queries, state[f"{attention}.to_q.weight"])
        attended = attend(query, key, value, key.shape[-1] // HEAD_WIDTH)
        latents = latents + F.linear(attended, state[f"{attention}.to_out.weight"])
        wide = F.gelu(F.linear(norm(latents, f"{feed}.0"), state[f"{feed}.1.weight"]))
        latents = latents + F.linear(wide, state[f"{feed}.3.weight"])
    return norm(F.linear(latents, state["proj_out.weight"], state["proj_out.bias"]), "norm_out")


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Softmax attention of (B, N, C) on (B, T, C), in `heads` heads."""
    import torch.nn.functional as F

    # (B, heads, N or T, C / heads)
    query, key, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
