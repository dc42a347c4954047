"""The MODEL in the graph behind the Denoiser protocol, and what training needs of the host around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...rechar_core.training.context import ConstantContext, Once
from ...rechar_core.training.denoiser import Conditioning, Prediction, Prefix
from ...rechar_core.training.frozen_layers import gated, normed_conv, plain_conv, upsampled
from ...rechar_core.training.memory import MemoryMode
from ...rechar_core.training.recipe import Precision
from .inputs import alphas_cumprod, prediction_of
from .patch import block_paths
from .weights import OwnWeights, bypass_adapters, own_weights

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
_OF_CONTEXT = (".attn2.to_k", ".attn2.to_v")
_PRECISIONS: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


class HostDenoiser:
    """A MODEL (ModelPatcher) whose weights are ours: its UNet is called directly with the schedule's own x_t.

    calculate_input turns x0 + sigma * noise into sqrt(abar) x0 + sqrt(1 - abar) noise, which is the objective's x_t,
    so that the UNet sees the same numbers as through apply_model (comfy/model_base.py).
    each: called after every weight that is loaded; it may raise, to cancel.
    """

    def __init__(self, model: Any, own: OwnWeights, each: Callable[[], None] = lambda: None):
        self.patcher, self.model, self._own, self._each = model, model.model, own, each
        self.device: torch.device = model.load_device
        self.prediction: Prediction = prediction_of(model)
        self.alphas_cumprod: Tensor = alphas_cumprod(model)
        self._paths = block_paths(model)
        self._alternate, self._placed = False, -1  # in mode low: which half is on the device
        self._context, self._cond = ConstantContext(), Once(self._prepare)
        self._attached = ExitStack()

    def layers(self) -> dict[str, nn.Module]:
        """q, k, v and out of every attention in both blocks, by diffusers module path."""
        unet = self.model.diffusion_model
        found = {}
        for path, host in self._paths.items():
            attention = path.endswith(tuple(f".{a}.{p}" for a in ("attn1", "attn2") for p in _PROJECTIONS))
            if attention:
                found[path] = unet.get_submodule(host)
        return found

    def weights(self) -> Iterator[Tensor]:
        """All weights of the UNet, with other LoRAs' patches in them, in model order; those of bypassed LoRAs last."""
        yield from self._own.values()
        for adapter in bypass_adapters(self.model):
            yield torch.tensor(float(adapter.multiplier))
            yield from (weight for weight in adapter.weights if isinstance(weight, Tensor))

    def load(self) -> None:
        """The whole UNet onto the device."""
        self._own.place([self.model.diffusion_model], self.device, self._each)

    def use(self, mode: MemoryMode | None) -> None:
        """Load the UNet and run in this memory mode; None takes back what was attached."""
        self._attached.close()
        self._cond.forget()
        self._alternate, self._placed = mode == "low", -1
        if mode is None:
            return
        if not self._alternate:
            self.load()
        unet = self.model.diffusion_model
        self._attached.enter_context(gated(unet.output_blocks.modules()))
        self._attached.enter_context(checkpointed(self.patcher, mode != "fast"))
        fed = {n: m for n, m in unet.named_modules() if n.endswith(_OF_CONTEXT)}
        self._attached.enter_context(self._context.attached(fed))

    def prefix(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Prefix:
        """The input and middle blocks and output_blocks.0.0, as UNetModel._forward."""
        from comfy.ldm.modules.diffusionmodules import openaimodel

        self._place(0)
        unet, dtype, options = self.model.diffusion_model, self._dtype(), _options(noisy)
        with torch.no_grad():
            context, added = self._cond(conditioning)
            context = self._context.expand(context, len(noisy))
            steps = openaimodel.timestep_embedding(timesteps.float(), unet.model_channels, repeat_only=False)
            embedding = unet.time_embed(steps.to(dtype)) + added
            hidden, skips = noisy.to(dtype), []
            for i, block in enumerate(unet.input_blocks):
                options["block"] = ("input", i)
                hidden = openaimodel.forward_timestep_embed(block, hidden, embedding, context, options)
                skips.append(hidden)
            options["block"] = ("middle", 0)
            hidden = openaimodel.forward_timestep_embed(
                unet.middle_block, hidden, embedding, context, options
            )
            hidden = unet.output_blocks[0][0](torch.cat([hidden, skips.pop()], dim=1), embedding)
        return Prefix(hidden, tuple(skips), embedding)

    def suffix(self, prefix: Prefix, conditioning: Conditioning) -> Tensor:
        """output_blocks.0.1 and all behind it, as UNetModel._forward."""
        from comfy.ldm.modules.diffusionmodules import openaimodel

        self._place(1)
        unet, hidden, skips = self.model.diffusion_model, prefix.hidden, list(prefix.skips)
        options = _options(prefix.skips[0])
        context = self._context.expand(self._cond(conditioning)[0], len(hidden))
        for i, (residual, *layers) in enumerate(unet.output_blocks):
            options["block"] = ("output", i)
            if i:
                hidden = _residual(residual, hidden, skips.pop(), prefix.embedding)
            for layer in layers:
                if isinstance(layer, openaimodel.Upsample):
                    hidden = upsampled(layer.conv, hidden, skips[-1].shape[2:])  # to meet the next skip
                else:
                    hidden = layer(hidden, context, options)
                    options["transformer_index"] += 1
        return normed_conv(unet.out[0], unet.out[2], hidden.to(self._dtype())).float()

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.suffix(self.prefix(noisy, timesteps, conditioning), conditioning)

    def _dtype(self) -> torch.dtype:
        return computed_in(self.patcher)

    def _prepare(self, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """The context (1, tokens, width), and what size and pooled text add to the timestep's embedding (1, width)."""
        height, width, top, left, target_height, target_width = conditioning.time_ids[0].tolist()
        adm = self.model.encode_adm(
            pooled_output=conditioning.pooled,
            height=height,
            width=width,
            crop_h=top,
            crop_w=left,
            target_height=target_height,
            target_width=target_width,
            device=self.device,
        )
        added = self.model.diffusion_model.label_emb(adm.to(self.device, self._dtype()))
        return conditioning.context.to(self.device, self._dtype()), added

    def _place(self, half: int) -> None:
        """In mode low: this half of the UNet onto the device, the other off it first."""
        if self._alternate and self._placed != half:
            halves = self._halves()
            self._own.place(halves[1 - half], torch.device("cpu"), self._each)
            self._own.place(halves[half], self.device, self._each)
            self._placed = half

    def _halves(self) -> tuple[list[nn.Module], list[nn.Module]]:
        """The modules of the prefix and those of the suffix."""
        unet = self.model.diffusion_model
        first = unet.output_blocks[0]
        before = [unet.time_embed, unet.label_emb, unet.input_blocks, unet.middle_block, first[0]]
        return before, [*first[1:], *unet.output_blocks[1:], unet.out]


def _residual(block: Any, hidden: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
    """ResBlock._forward of hidden and skip side by side, as SDXL has it: no scale-shift norm, no resampling."""
    inner = normed_conv(block.in_layers[0], block.in_layers[2], hidden, skip)
    inner = inner + block.emb_layers(embedding).to(inner.dtype)[..., None, None]
    outer = normed_conv(block.out_layers[0], block.out_layers[3], inner)
    return plain_conv(block.skip_connection, hidden, skip) + outer


def _options(noisy: Tensor) -> dict[str, Any]:
    """transformer_options of one call: the host counts in them as it goes along."""
    return {
        "optimized_attention_override": _pytorch_attention,
        "original_shape": list(noisy.shape),
        "transformer_index": 0,
    }


def _pytorch_attention(_chosen: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention whatever the host chose: sage, flash and sub-quadratic kernels have no backward here."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


def computed_in(model: Any) -> torch.dtype:
    """What a MODEL computes in, whatever its weights are stored in; a Model Compute Dtype node may have chosen it."""
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def precision_of(model: Any) -> Precision:
    """Of a MODEL's computation: fp16 gradients need a scale, or they vanish."""
    return _PRECISIONS.get(computed_in(model), "no")


@contextmanager
def trainable(model: Any, each: Callable[[], None] = lambda: None) -> Iterator[HostDenoiser]:
    """MODEL with weights of our own, usable in a backward pass; afterwards everything is as before.

    Conditioning and latents made by other nodes are inference tensors: clone them inside.
    """
    clone = model.clone()
    with (
        own_weights(clone, ["diffusion_model"], computed_in(clone)) as own,
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield HostDenoiser(clone, own, each)


@contextmanager
def checkpointed(model: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing of the transformer blocks behind the LoRA's first layers.

    transformer_options are copied for the recomputation: the host counts blocks in them as it goes along.
    """
    from comfy.ldm.modules.attention import BasicTransformerBlock

    unet = model.model.diffusion_model
    blocks = [m for m in unet.output_blocks.modules() if isinstance(m, BasicTransformerBlock)]
    try:
        for block in blocks if wanted else []:
            block.forward = _Checkpointed(block.forward)  # an instance attribute, removed below
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


class _Checkpointed:
    """Forward of (x, context, transformer_options); without gradients it is the plain one."""

    def __init__(self, forward: Any):
        self.forward = forward

    def __call__(
        self, x: Tensor, context: Tensor | None = None, transformer_options: Any = None, **_: Any
    ) -> Any:
        if not torch.is_grad_enabled():
            return self.forward(x, context, dict(transformer_options or {}))
        return checkpoint(
            lambda a, c: self.forward(a, c, dict(transformer_options or {})), x, context, use_reentrant=False
        )


def ordinary(conditioning: Conditioning, device: torch.device) -> Conditioning:
    """A copy that a backward pass may use, on `device` (call outside inference_mode)."""
    tensors = (conditioning.context, conditioning.pooled, conditioning.time_ids)
    return Conditioning(*(t.to(device).clone() for t in tensors))
