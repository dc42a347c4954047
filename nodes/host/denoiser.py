"""The MODEL in the graph as a Denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...rechar_core.errors import ModelError
from ...rechar_core.training.context import forward_replaced
from ...rechar_core.training.denoiser import ATTENTION, Conditioning, Denoiser, LatentMoments, Prefix
from ...rechar_core.training.frozen_layers import normed_conv, plain_conv, upsampled
from ...rechar_core.training.memory import MemoryMode
from ...rechar_core.training.recipe import Precision
from .inputs import alphas_cumprod, prediction_of
from .patch import block_paths
from .weights import OwnWeights, bypass_adapters, own_weights

Tensors = TypeVar("Tensors", Conditioning, LatentMoments)
_PRECISIONS: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}


class HostDenoiser(Denoiser):
    """A MODEL (ModelPatcher) with plain weights (`weights.OwnWeights`). Its UNet is called directly with the x_t of the
    noise schedule.

    calculate_input turns x0 + sigma * noise into sqrt(abar) x0 + sqrt(1 - abar) noise, which is the objective's x_t,
    so that the UNet sees the same numbers as through apply_model (comfy/model_base.py).
    each: called after every weight that is loaded; it may raise, to cancel.
    """

    def __init__(self, model: Any, own: OwnWeights, each: Callable[[], None]):
        unet = model.model.diffusion_model
        super().__init__(unet, model.load_device, _halves(unet), unet.output_blocks)
        self.patcher, self.model, self._own, self._each = model, model.model, own, each
        self.prediction = prediction_of(model)
        self.alphas_cumprod = alphas_cumprod(model)
        self._paths, self._dtype = block_paths(model), computed_in(model)

    def layers(self) -> dict[str, nn.Module]:
        """q, k, v and out of every attention in both blocks, by diffusers module path."""
        paths = self._paths.items()
        return {path: self.unet.get_submodule(host) for path, host in paths if path.endswith(ATTENTION)}

    def weights(self) -> Iterator[Tensor | str]:
        """All weights of the UNet, with other LoRAs' patches in them, in model order; those of bypassed LoRAs last.

        Of a bypassed LoRA, its layer, kind and numbers as well: the host keeps its alpha outside the tensors.
        """
        yield from self._own.values()
        for path, adapter in bypass_adapters(self.model):
            yield f"{path} {type(adapter).__name__} {float(adapter.multiplier)!r}"
            yield from (value if isinstance(value, Tensor) else repr(value) for value in adapter.weights)

    def load(self) -> None:
        """The whole UNet onto the device."""
        self._move([self.unet], self.device)

    def prefix(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Prefix:
        """The input and middle blocks and output_blocks.0.0, as UNetModel._forward."""
        from comfy.ldm.modules.diffusionmodules import openaimodel

        self._place(0)
        unet, dtype, options = self.unet, self._dtype, _options(noisy)
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
        unet, hidden, skips = self.unet, prefix.hidden, list(prefix.skips)
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
        return normed_conv(unet.out[0], unet.out[2], hidden.to(self._dtype)).float()

    def _prepare(self, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
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
        added = self.unet.label_emb(adm.to(self.device, self._dtype))
        return conditioning.context.to(self.device, self._dtype), added

    def _load(self, mode: MemoryMode | None) -> None:
        if mode in ("fast", "normal"):
            self.load()

    def _move(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self._own.place(modules, device, self._each)

    def _checkpointed(self) -> AbstractContextManager[None]:
        """transformer_options are copied for the recomputation: the host counts blocks in them as it goes along."""
        from comfy.ldm.modules.attention import BasicTransformerBlock

        blocks = [m for m in self._decoder.modules() if isinstance(m, BasicTransformerBlock)]
        return forward_replaced({block: _checkpointed(block.forward) for block in blocks})


def _halves(unet: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules of the prefix and those of the suffix."""
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
    """transformer_options of one call: the host counts in them as it goes along.

    The attention is PyTorch's whatever the host chose: sage, flash and sub-quadratic kernels have no backward.
    """
    from comfy.ldm.modules.attention import attention_pytorch

    return {
        "optimized_attention_override": lambda _chosen, *args, **kwargs: attention_pytorch(*args, **kwargs),
        "original_shape": list(noisy.shape),
        "transformer_index": 0,
    }


def computed_in(model: Any) -> torch.dtype:
    """The dtype a MODEL computes in, whatever its weights are stored in; a Model Compute Dtype node may set it."""
    return model.get_model_object("manual_cast_dtype") or model.model.get_dtype()


def precision_of(model: Any) -> Precision:
    """The precision a MODEL computes in: gradients in fp16 need a scale, or they become 0.

    Raises ModelError for fp16 on a Mac, where torch cannot scale gradients.
    """
    precision = _PRECISIONS.get(computed_in(model), "no")
    if precision == "fp16" and model.load_device.type == "mps":
        raise ModelError(
            "This MODEL computes in fp16, in which a Mac cannot train. Put a Model Compute Dtype node with fp32 or "
            "bf16 before this node, or start ComfyUI with --fp32-unet."
        )
    return precision


@contextmanager
def trainable(model: Any, each: Callable[[], None] = lambda: None) -> Iterator[HostDenoiser]:
    """MODEL with plain weights that a backward pass can use; afterwards everything is as before.

    Conditioning and latents made by other nodes are inference tensors: copy them inside, see `ordinary`.
    """
    clone = model.clone()
    with (
        own_weights(clone, ["diffusion_model"], computed_in(clone)) as own,
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        yield HostDenoiser(clone, own, each)


def _checkpointed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The forward of a transformer block, computed once more in the backward pass (without gradients: once)."""

    def computed(x: Tensor, context: Tensor, transformer_options: dict[str, Any], **_: Any) -> Tensor:
        return checkpoint(
            lambda x, context: forward(x, context, dict(transformer_options)), x, context, use_reentrant=False
        )

    return computed


def ordinary(tensors: Tensors, device: torch.device) -> Tensors:
    """A copy that a backward pass may use, on `device` (call outside inference_mode)."""
    return type(tensors)(*(tensor.to(device).clone() for tensor in vars(tensors).values()))
