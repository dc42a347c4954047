"""Frozen layers behind the LoRA: what their backward pass does not need is neither kept nor computed.

Autograd keeps the input of every convolution, normalisation and nonlinearity, and follows gradients into the skip
connections, which come from before the LoRA and have none. Here each step keeps its input alone, once; the elementwise
parts are computed again, the convolutions and matrix products never.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_input

from .context import forward_replaced


def normed_conv(norm: nn.GroupNorm, conv: nn.Conv2d, hidden: Tensor, skip: Tensor | None = None) -> Tensor:
    """conv(silu(norm(x))) with x = hidden (B, C, h, w), or hidden and skip (B, S, h, w) side by side.

    The gradient goes to hidden alone: skip must come from before the first trained layer.
    """
    return _NormedConv.apply(hidden, skip, norm, conv)


def plain_conv(conv: nn.Conv2d, hidden: Tensor, skip: Tensor | None = None) -> Tensor:
    """conv(x), as `normed_conv`."""
    return _PlainConv.apply(hidden, skip, conv)


def upsampled(conv: nn.Conv2d, hidden: Tensor, size: torch.Size | None) -> Tensor:
    """conv(hidden enlarged to `size` (h, w), or twofold): nearest neighbour, as both code bases do it."""
    factor = {"size": tuple(size)} if size else {"scale_factor": 2.0}
    return plain_conv(conv, F.interpolate(hidden, mode="nearest", **factor))


class _NormedConv(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, skip: Tensor | None, norm: nn.GroupNorm, conv: nn.Conv2d) -> Tensor:
        ctx.norm, ctx.conv = norm, conv
        ctx.save_for_backward(hidden, skip)
        return conv(F.silu(norm(_joined(hidden, skip))))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, skip = ctx.saved_tensors
        norm, wanted = ctx.norm, hidden.shape[1]
        # whole groups only: a group's statistics are of all its channels, and groups know nothing of each other
        group = norm.num_channels // norm.num_groups
        groups = -(-wanted // group)
        x = _joined(hidden, None if skip is None else skip[:, : groups * group - wanted]).detach()
        gradient = _into(ctx.conv, gradient, x.shape)
        weight, bias = (t[: groups * group].to(x.dtype) for t in (norm.weight, norm.bias))
        with torch.enable_grad():
            x.requires_grad_()
            y = F.silu(F.group_norm(x, groups, weight, bias, norm.eps))
            (gradient,) = torch.autograd.grad(y, x, gradient)
        return gradient[:, :wanted], None, None, None


class _PlainConv(Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, skip: Tensor | None, conv: nn.Conv2d) -> Tensor:
        ctx.conv, ctx.shape = conv, hidden.shape
        return conv(_joined(hidden, skip))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _into(ctx.conv, gradient, ctx.shape), None, None


def _joined(hidden: Tensor, skip: Tensor | None) -> Tensor:
    # a part of the skip may be empty, and hidden is never changed in place
    return hidden if skip is None or not skip.shape[1] else torch.cat([hidden, skip], dim=1)


def _into(conv: nn.Conv2d, gradient: Tensor, shape: torch.Size) -> Tensor:
    """The gradient of the first channels, `shape` of them, of a convolution's input."""
    weight = conv.weight.detach()[:, : shape[1]].to(gradient.dtype)
    return conv2d_input(shape, weight, gradient, conv.stride, conv.padding, conv.dilation)


class _Gated(Function):
    """h * gelu(gate) of both halves of x, keeping x alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        hidden, gate = x.chunk(2, dim=-1)
        return hidden * F.gelu(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        hidden, gate = x.chunk(2, dim=-1)
        back = torch.empty_like(x)
        torch.mul(gradient, F.gelu(gate), out=back[..., : hidden.shape[-1]])
        back[..., hidden.shape[-1] :] = torch.ops.aten.gelu_backward(gradient * hidden, gate)
        return back


def gated(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """Lets the GEGLU layers among `modules` (`proj`, then h * gelu(gate)) keep less, until the end."""
    return forward_replaced({m: partial(_gated_forward, m) for m in modules if type(m).__name__ == "GEGLU"})


def _gated_forward(module: Any, x: Tensor, *_: Any, **__: Any) -> Any:
    return _Gated.apply(module.proj(x))
