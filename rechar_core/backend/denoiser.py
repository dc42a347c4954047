"""Diffusers' SDXL UNet as a Denoiser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lora.blocks import block_of
from ..training.denoiser import ATTENTION, Conditioning, Denoiser, Prefix
from ..training.frozen_layers import normed_conv, plain_conv, upsampled
from ..training.memory import MemoryMode
from ..training.offload import Offload

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


class DiffusersDenoiser(Denoiser):
    """A frozen UNet2DConditionModel; scheduler_config gives the noise schedule and the prediction type.

    device: where to compute, if not where the UNet is; it goes back there when training is done.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        scheduler_config: dict[str, Any],
        device: torch.device | None = None,
    ):
        from diffusers import DDPMScheduler

        unet.requires_grad_(False)
        super().__init__(unet, device or unet.device, _halves(unet), unet.up_blocks)
        scheduler = DDPMScheduler.from_config(scheduler_config)
        self.alphas_cumprod = scheduler.alphas_cumprod
        self.prediction = scheduler.config.prediction_type
        self.home: torch.device = unet.device
        self._offload = Offload()

    def layers(self) -> dict[str, nn.Module]:
        """q, k, v and out of every attention in both blocks, in the reference trainer's order."""
        return {n: m for n, m in self.unet.named_modules() if n.endswith(ATTENTION) and block_of(n)}

    def weights(self) -> Iterator[Tensor]:
        """All weights of the UNet, in model order; those in 8 bits are buffers."""
        return chain(self.unet.parameters(), self.unet.buffers())

    def prefix(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Prefix:
        """conv_in, the down and middle blocks, and up_blocks.0.resnets.0, as UNet2DConditionModel.forward."""
        self._place(0)
        unet, dtype = self.unet, self.unet.dtype
        with torch.no_grad():
            context, added = self._cond(conditioning)
            context = self._context.expand(context, len(noisy))
            embedding = unet.time_embedding(unet.time_proj(timesteps).to(dtype)) + added
            hidden = unet.conv_in(noisy.to(dtype))
            skips = [hidden]
            for block in unet.down_blocks:
                text = {"encoder_hidden_states": context} if _has_attention(block) else {}
                hidden, more = block(hidden_states=hidden, temb=embedding, **text)
                skips += more
            hidden = unet.mid_block(hidden, embedding, encoder_hidden_states=context)
            first = unet.up_blocks[0].resnets[0]
            hidden = first(torch.cat([hidden, skips.pop()], dim=1), embedding)
        return Prefix(hidden, tuple(skips), embedding)

    def suffix(self, prefix: Prefix, conditioning: Conditioning) -> Tensor:
        """up_blocks.0.attentions.0 and all behind it, as UNet2DConditionModel.forward."""
        self._place(1)
        unet, hidden, skips = self.unet, prefix.hidden, list(prefix.skips)
        context = self._context.expand(self._cond(conditioning)[0], len(hidden))
        for i, block in enumerate(unet.up_blocks):
            for j, resnet in enumerate(block.resnets):
                if i or j:
                    hidden = _residual(resnet, hidden, skips.pop(), prefix.embedding)
                if _has_attention(block):
                    hidden = block.attentions[j](hidden, encoder_hidden_states=context, return_dict=False)[0]
            for upsampler in block.upsamplers or ():
                hidden = upsampled(upsampler.conv, hidden, skips[-1].shape[2:])
        return normed_conv(unet.conv_norm_out, unet.conv_out, hidden)

    def _prepare(self, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        cond = conditioning.to(self.device, self.unet.dtype)
        sizes = self.unet.add_time_proj(cond.time_ids.flatten()).reshape(1, -1)
        both = torch.cat([cond.pooled, sizes.to(cond.pooled.dtype)], dim=-1)
        return cond.context, self.unet.add_embedding(both)

    def _load(self, mode: MemoryMode | None) -> None:
        self._offload.restore()
        self.unet.to("cpu" if mode == "low" else self.home if mode is None else self.device)

    def _move(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        self._offload.move(modules, device)

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        before = self.unet.training
        self.unet.train()  # older diffusers checkpoint only in training mode; SDXL has no dropout
        self.unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()
            self.unet.train(before)


def _residual(resnet: Any, hidden: Tensor, skip: Tensor, embedding: Tensor) -> Tensor:
    """ResnetBlock2D.forward of hidden and skip side by side, as SDXL has it: no scale-shift norm, no resampling."""
    if type(resnet).__name__ != "ResnetBlock2D":  # a stand-in for it, as demo/studio.py puts there
        return resnet(torch.cat([hidden, skip], dim=1), embedding)
    inner = normed_conv(resnet.norm1, resnet.conv1, hidden, skip)
    inner = inner + resnet.time_emb_proj(F.silu(embedding))[:, :, None, None]
    outer = normed_conv(resnet.norm2, resnet.conv2, inner)
    return plain_conv(resnet.conv_shortcut, hidden, skip) + outer


def _has_attention(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))


def _halves(unet: Any) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules of the prefix and those of the suffix."""
    first, *others = unet.up_blocks
    before = [unet.conv_in, unet.time_embedding, unet.add_embedding, *unet.down_blocks, unet.mid_block]
    after = [*first.resnets[1:], *first.attentions, *(first.upsamplers or ()), *others]
    return [*before, first.resnets[0]], [*after, unet.conv_norm_out, unet.conv_out]
