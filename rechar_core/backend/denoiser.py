"""Diffusers' SDXL UNet behind the Denoiser protocol."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..lora.blocks import block_of
from ..training.context import ConstantContext, Once
from ..training.denoiser import Conditioning, Prediction, Prefix
from ..training.frozen_layers import gated, normed_conv, plain_conv, upsampled
from ..training.memory import MemoryMode
from ..training.offload import Offload

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
_OF_CONTEXT = (".attn2.to_k", ".attn2.to_v")


class DiffusersDenoiser:
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

        self.unet = unet.requires_grad_(False)
        scheduler = DDPMScheduler.from_config(scheduler_config)
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod
        self.prediction: Prediction = scheduler.config.prediction_type
        self.home: torch.device = unet.device
        self.device: torch.device = device or unet.device
        self._halves = _halves(unet)
        self._alternate, self._lent = False, Offload()
        self._placed: int | None = None  # in mode low: which half is on the device
        self._context, self._cond = ConstantContext(), Once(self._prepare)
        self._attached = ExitStack()

    def layers(self) -> dict[str, nn.Module]:
        """q, k, v and out of every attention in both blocks, in the reference trainer's order."""
        found: dict[str, nn.Module] = {}
        for name, module in self.unet.named_modules():
            if name.endswith((".attn1", ".attn2")) and block_of(name):
                found |= {f"{name}.{p}": module.get_submodule(p) for p in _PROJECTIONS}
        return found

    def weights(self) -> Iterator[Tensor]:
        """All weights of the UNet, in model order; those in 8 bits are buffers."""
        return chain(self.unet.parameters(), self.unet.buffers())

    def use(self, mode: MemoryMode | None) -> None:
        """Run in this memory mode; None takes back what was attached and moved."""
        self._attached.close()
        self._cond.forget()
        self.unet.disable_gradient_checkpointing()
        self._alternate, self._placed = mode == "low", None
        self._lent.restore()
        if self._alternate:
            self.unet.to("cpu")  # from where either half is lent
        else:
            self.unet.to(self.home if mode is None else self.device)
        if mode is None:
            return
        self._attached.enter_context(gated(self.unet.up_blocks.modules()))
        if mode != "fast":
            self._attached.callback(self.unet.train, self.unet.training)
            self.unet.train()  # older diffusers checkpoint only in training mode; SDXL has no dropout
            self.unet.enable_gradient_checkpointing()
        fed = {n: m for n, m in self.unet.named_modules() if n.endswith(_OF_CONTEXT)}
        self._attached.enter_context(self._context.attached(fed))

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
                told = {"encoder_hidden_states": context} if _has_attention(block) else {}
                hidden, more = block(hidden_states=hidden, temb=embedding, **told)
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

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        return self.suffix(self.prefix(noisy, timesteps, conditioning), conditioning)

    def _prepare(self, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """The context (1, tokens, width), and what size and pooled text add to the timestep's embedding (1, width)."""
        cond = conditioning.to(self.device, self.unet.dtype)
        sizes = self.unet.add_time_proj(cond.time_ids.flatten()).reshape(1, -1)
        both = torch.cat([cond.pooled, sizes.to(cond.pooled.dtype)], dim=-1)
        return cond.context, self.unet.add_embedding(both)

    def _place(self, half: int) -> None:
        """In mode low: this half of the UNet onto the device, the other off it first."""
        if self._alternate and self._placed != half:
            self._lent.move(self._halves[1 - half], torch.device("cpu"))
            self._lent.move(self._halves[half], self.device)
            self._placed = half


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


def _halves(unet: UNet2DConditionModel) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules of the prefix and those of the suffix."""
    first: Any = unet.up_blocks[0]
    before = [unet.conv_in, unet.time_embedding, unet.add_embedding, *unet.down_blocks, unet.mid_block]
    rest: Iterable[nn.Module] = (*first.resnets[1:], *first.attentions, *(first.upsamplers or ()))
    after = [*rest, *unet.up_blocks[1:], unet.conv_norm_out, unet.conv_out]
    return [*before, first.resnets[0]], after
