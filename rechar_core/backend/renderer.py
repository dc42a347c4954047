"""Renders the passes with diffusers: the base's scheduler, references in its UNet, and any SDXL ControlNet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import RecipeError
from ..lora.fusion import applied
from ..synthesis.elements import PromptToken
from ..synthesis.passes import RenderJob
from ..synthesis.references.attention import CONDITIONAL, UNCONDITIONAL, Branch, Reference, acting, blend
from ..synthesis.references.encoding import IPAdapters, clip_pixels
from ..synthesis.references.errors import AdapterError
from ..synthesis.references.layout import Layout
from ..synthesis.references.projection import IPAdapter, Kind, attend
from .pipeline import decode_latent, device_of, leave
from .text_encoding import encode_prompt_tokens

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

Grids = dict[int, tuple[int, int]]


@dataclass(frozen=True)
class DiffusersIPAdapters(IPAdapters):
    """encoder: a CLIPVisionModelWithProjection."""

    def widths(self) -> tuple[int, int]:
        if self.encoder is None:
            raise AdapterError("No image encoder for the adapters is given.")
        return self.encoder.config.hidden_size, self.encoder.config.projection_dim

    def features(self, image: Tensor | None, kind: Kind) -> Tensor:
        device, side = device_of(self.encoder), self.encoder.config.image_size
        pixels = torch.zeros(1, 3, side, side) if image is None else clip_pixels(image.to(device), side)
        with torch.no_grad():
            out = self.encoder(pixels.to(device, self.encoder.dtype), output_hidden_states=True)
        return (out.image_embeds if kind == "plain" else out.hidden_states[-2]).float().cpu()


@dataclass(frozen=True)
class DiffusersRenderer:
    """A Renderer (see passes.py). control_net: a diffusers ControlNetModel for SDXL, or None.

    Each prompt is encoded once: the negative one is the same for all pictures.
    """

    pipeline: StableDiffusionXLPipeline
    ip_adapters: IPAdapters = field(default_factory=DiffusersIPAdapters)
    control_net: Any = None
    _encoded: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def adapter(self, role: str) -> IPAdapter | None:
        return getattr(self.ip_adapters, role)

    def check(self) -> None:
        self.ip_adapters.check(_cross_attentions(self.pipeline.unet)[1])

    def encode_reference(self, picture: Tensor, role: str, keep: Tensor | None) -> Reference:
        reference = self.ip_adapters.encode_reference(picture, role, keep)
        leave(self.pipeline, self.ip_adapters.encoder)
        return reference

    def render(self, job: RenderJob) -> Tensor:
        if job.each_step is not None:
            raise RecipeError("A shared look is drawn in ComfyUI only; use the ReChar Word node.")
        unet = self.pipeline.unet
        with torch.no_grad(), applied(unet, job.fusion), _referred(unet, job) as half:
            latent = self._sample(job, half)
        leave(self.pipeline, self.control_net)
        return decode_latent(self.pipeline, latent)

    def _sample(self, job: RenderJob, half: list[int]) -> Tensor:
        """The denoised latent (1, 4, h, w); the noise is drawn on the CPU."""
        pipe, (height, width) = self.pipeline, job.size
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)
        device = device_of(pipe.unet)
        scheduler.set_timesteps(job.steps, device=device)
        generator = torch.Generator().manual_seed(job.seed)
        noise = torch.randn(1, 4, height // 8, width // 8, generator=generator)
        latent = noise.to(device, pipe.unet.dtype) * scheduler.init_noise_sigma
        extra = pipe.prepare_extra_step_kwargs(generator, 0.0)
        prompts = {CONDITIONAL: self._prompt(job.positive)}
        if job.cfg != 1:
            prompts[UNCONDITIONAL] = self._prompt(job.negative)
        for time in scheduler.timesteps:
            noisy = scheduler.scale_model_input(latent, time)
            predicted = {}
            for half[0], prompt in prompts.items():
                predicted[half[0]] = self._predict(noisy, time, prompt, job)
            guided = predicted[CONDITIONAL]
            if job.cfg != 1:
                unconditional = predicted[UNCONDITIONAL]
                guided = unconditional + job.cfg * (guided - unconditional)
            latent = scheduler.step(guided, time, latent, **extra, return_dict=False)[0]
        return latent

    def _prompt(self, words: tuple[PromptToken, ...]) -> tuple[Tensor, Tensor]:
        if words not in self._encoded:
            self._encoded[words] = encode_prompt_tokens(self.pipeline, words)
        return self._encoded[words]

    def _predict(self, noisy: Tensor, time: Tensor, prompt: tuple[Tensor, Tensor], job: RenderJob) -> Tensor:
        """The UNet's output for one prompt, with the ControlNet's residuals where there is a hint."""
        unet, (height, width) = self.pipeline.unet, job.size
        context, pooled = (t.to(noisy) for t in prompt)
        sizes = torch.tensor([[height, width, 0, 0, height, width]]).to(noisy)
        inputs = {
            "encoder_hidden_states": context,
            "added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes},
            "return_dict": False,
        }
        residuals = {}
        if job.hint is not None:
            down, mid = self.control_net(
                noisy,
                time,
                controlnet_cond=job.hint.movedim(-1, 1).to(noisy),
                conditioning_scale=job.control,
                **inputs,
            )
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": mid}
        return unet(noisy, time, **inputs, **residuals)[0]


@contextmanager
def _referred(unet: Any, job: RenderJob) -> Iterator[list[int]]:
    """Adds the job's references to the UNet's cross-attentions. Yields a list whose item says which half runs.

    Raises AdapterError unless the adapters fit the UNet.
    """
    half = [CONDITIONAL]
    names, widths = _cross_attentions(unet)
    strong = acting(job.references, job.scales, widths)
    if not strong:
        yield half
        return
    before, grids = dict(unet.attn_processors), _grids(job.size)
    ours = dict(before)
    for number, name in enumerate(names):
        branches = [r.at_layer(number, scale, device_of(unet), unet.dtype) for r, scale in strong]
        ours[name] = ReferenceAttention(branches, job.layout, grids, half)
    try:
        unet.set_attn_processor(ours)
        yield half
    finally:
        unet.set_attn_processor(before)


def _cross_attentions(unet: Any) -> tuple[list[str], tuple[int, ...]]:
    """Names of the processors and the layers' widths, in the adapters' order."""
    names = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    return names, tuple(unet.get_submodule(name.removesuffix(".processor")).inner_dim for name in names)


def _grids(size: tuple[int, int]) -> Grids:
    """Cells -> (height, width) of every level of the UNet, from a picture's size in pixels."""
    height, width = size[0] // 8, size[1] // 8
    grids: Grids = {}
    while height > 1 or width > 1:
        grids.setdefault(height * width, (height, width))
        height, width = -(-height // 2), -(-width // 2)
    return grids | {1: (1, 1)}


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
        hidden = blend(query, text, self.branches, self.layout, grid, self.half, attn.heads)
        for layer in attn.to_out:
            hidden = layer(hidden)
        return hidden
