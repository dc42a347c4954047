"""The passes drawn by diffusers: the base's own scheduler, our references in its UNet, any SDXL ControlNet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RecipeError
from ..lora.fusion import applied
from ..synthesis.passes import RenderJob
from ..synthesis.references.attention import CONDITIONAL, UNCONDITIONAL, Branch, Reference, blend
from ..synthesis.references.encoding import clip_pixels, kept_parts, reference_of
from ..synthesis.references.errors import AdapterError
from ..synthesis.references.layout import ROLES, Layout
from ..synthesis.references.projection import IPAdapter, attend
from .pipeline import decode_latent, device_of, leave
from .text_encoding import encode_prompt_tokens

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

Grids = dict[int, tuple[int, int]]


@dataclass(frozen=True)
class IPAdapters:
    """What reads references: an adapter for each role, either may be missing, and their CLIP vision model."""

    structure: IPAdapter | None = None
    style: IPAdapter | None = None
    encoder: Any = None


@dataclass(frozen=True)
class DiffusersRenderer:
    """A Renderer (see passes.py). control_net: a diffusers ControlNetModel for SDXL, or None."""

    pipeline: StableDiffusionXLPipeline
    ip_adapters: IPAdapters = IPAdapters()
    control_net: Any = None

    def adapter(self, role: str) -> IPAdapter | None:
        found: IPAdapter | None = getattr(self.ip_adapters, role)
        return found

    def check(self) -> None:
        _, layers = _cross_attentions(self.pipeline.unet)
        for role in ROLES:
            if adapter := self.adapter(role):
                self._check_encoder(adapter)
                adapter.check_layers(tuple(layer.inner_dim for layer in layers))

    def _check_encoder(self, adapter: IPAdapter) -> None:
        encoder = self.ip_adapters.encoder
        if encoder is None:
            raise AdapterError(f"No image encoder for the adapter '{adapter.name}' is given.")
        adapter.check_encoder(encoder.config.hidden_size, encoder.config.projection_dim)

    def encode_reference(self, picture: Tensor, role: str, keep: Tensor | None) -> Reference:
        adapter, encoder = self.adapter(role), self.ip_adapters.encoder
        if adapter is None:
            raise AdapterError(f"No adapter for {role} references is given.")
        self._check_encoder(adapter)
        pixels = clip_pixels(picture.to(device_of(encoder)), encoder.config.image_size)
        seen = self._features(adapter, pixels)
        plain = adapter.kind == "plain"
        # what diffusers takes for no picture: no features, or those of grey
        unseen = (
            torch.zeros_like(seen[:1]) if plain else self._features(adapter, torch.zeros_like(pixels[:1]))
        )
        leave(self.pipeline, encoder)
        kept = kept_parts(keep, (picture.shape[1], picture.shape[2]), seen)
        return reference_of(adapter, role, seen, unseen, kept)

    def _features(self, adapter: IPAdapter, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            out = self.ip_adapters.encoder(
                pixels.to(self.ip_adapters.encoder.dtype), output_hidden_states=True
            )
        return (out.image_embeds if adapter.kind == "plain" else out.hidden_states[-2]).float().cpu()

    def draw(self, drawing: RenderJob) -> Tensor:
        if drawing.each_step is not None:
            raise RecipeError("A shared look is drawn in ComfyUI only; use the ReChar Word node.")
        unet = self.pipeline.unet
        with torch.no_grad(), applied(unet, drawing.fusion), _referred(unet, drawing) as half:
            latent = self._sample(drawing, half)
        leave(self.pipeline, self.control_net)
        return decode_latent(self.pipeline, latent)

    def _sample(self, drawing: RenderJob, half: list[int]) -> Tensor:
        """The denoised latent (1, 4, h, w); the noise is drawn on the CPU."""
        pipe, (height, width) = self.pipeline, drawing.size
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        device = device_of(pipe.unet)
        scheduler.set_timesteps(drawing.steps, device=device)
        draws = torch.Generator().manual_seed(drawing.seed)
        noise = torch.randn(1, 4, height // 8, width // 8, generator=draws)
        latent = noise.to(device, pipe.unet.dtype) * scheduler.init_noise_sigma
        extra = pipe.prepare_extra_step_kwargs(draws, 0.0)
        prompts = {CONDITIONAL: encode_prompt_tokens(pipe, drawing.positive)}
        if drawing.cfg != 1:
            prompts[UNCONDITIONAL] = encode_prompt_tokens(pipe, drawing.negative)
        for time in scheduler.timesteps:
            noisy = scheduler.scale_model_input(latent, time)
            guess = {}
            for half[0], prompt in prompts.items():
                guess[half[0]] = self._predict(noisy, time, prompt, drawing)
            guided = guess[CONDITIONAL]
            if drawing.cfg != 1:
                without = guess[UNCONDITIONAL]
                guided = without + drawing.cfg * (guided - without)
            latent = scheduler.step(guided, time, latent, **extra, return_dict=False)[0]
        return latent

    def _predict(
        self, noisy: Tensor, time: Tensor, prompt: tuple[Tensor, Tensor], drawing: RenderJob
    ) -> Tensor:
        """The UNet's output for one prompt, with the ControlNet's residuals where there is a hint."""
        unet, (height, width) = self.pipeline.unet, drawing.size
        context, pooled = (t.to(noisy) for t in prompt)
        sizes = torch.tensor([[height, width, 0, 0, height, width]]).to(noisy)
        given = {
            "encoder_hidden_states": context,
            "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
            "return_dict": False,
        }
        residuals = {}
        if drawing.hint is not None:
            down, mid = self.control_net(
                noisy,
                time,
                controlnet_cond=drawing.hint.movedim(-1, 1).to(noisy),
                conditioning_scale=drawing.control,
                **given,
            )
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        found: Tensor = unet(noisy, time, **given, **residuals)[0]
        return found


@contextmanager
def _referred(unet: Any, drawing: RenderJob) -> Iterator[list[int]]:
    """The drawing's references in the UNet's cross-attentions meanwhile. Gives a cell that says which half runs.

    Raises AdapterError unless the adapters fit the UNet.
    """
    half = [CONDITIONAL]
    strong = [(r, r.weight * drawing.scales[r.role]) for r in drawing.references]
    names, layers = _cross_attentions(unet)
    for reference, _ in strong:
        reference.adapter.check_layers(tuple(layer.inner_dim for layer in layers))
    strong = [(reference, scale) for reference, scale in strong if scale != 0]
    if not strong:
        yield half
        return
    before, grids = dict(unet.attn_processors), _grids(drawing.size)
    ours = dict(before)
    for number, name in enumerate(names):
        branches = [r.at_layer(number, scale).to(device_of(unet), unet.dtype) for r, scale in strong]
        ours[name] = ReferenceAttention(branches, drawing.layout, grids, half)
    try:
        unet.set_attn_processor(ours)
        yield half
    finally:
        unet.set_attn_processor(before)


def _cross_attentions(unet: Any) -> tuple[list[str], list[Any]]:
    """Names of the processors and the layers, in the adapters' order."""
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    return names, [unet.get_submodule(name.removesuffix(".processor")) for name in names]


def _grids(size: tuple[int, int]) -> Grids:
    """Cells -> (height, width) of every level of the UNet, from a picture's size in pixels."""
    height, width = size[0] // 8, size[1] // 8
    found: Grids = {}
    while height > 1 or width > 1:
        found.setdefault(height * width, (height, width))
        height, width = -(-height // 2), -(-width // 2)
    return found | {1: (1, 1)}


class ReferenceAttention:
    """A diffusers attention processor: the text's attention and the references', before the output projection."""

    def __init__(self, branches: list[Branch], layout: Layout, grids: Grids, half: list[int]):
        self.branches, self.layout, self.grids, self.half = branches, layout, grids, half

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.to_q(hidden_states)
        text = attend(query, attn.to_k(context), attn.to_v(context), attn.heads)
        grid = self.grids[hidden_states.shape[1]]
        found = blend(query, text, self.branches, self.layout, grid, self.half, attn.heads)
        for layer in attn.to_out:
            found = layer(found)
        return found
