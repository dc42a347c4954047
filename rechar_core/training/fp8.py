"""A frozen base of half the size: its linear layers' weights stored in 8 bits, computed with in the base's type."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

_LARGEST = 448.0  # of float8_e4m3fn


class Fp8Linear(nn.Module):
    """A frozen linear layer; weight (out, in) float8_e4m3fn, scale (out, 1) of the base's type: one a row."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        weight = layer.weight.detach()
        scale = (weight.float().abs().amax(1, keepdim=True) / _LARGEST).clamp(
            min=torch.finfo(torch.float32).tiny
        )
        stored = (weight.float() / scale).to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(stored, requires_grad=False)
        self.scale = nn.Parameter(scale.to(weight.dtype), requires_grad=False)
        self.bias = layer.bias
        self.out_features, self.in_features = weight.shape

    def whole(self) -> Tensor:
        """The weight (out, in) in the base's type."""
        return self.weight.to(self.scale.dtype) * self.scale

    def forward(self, x: Tensor) -> Tensor:
        return _Linear.apply(x, self)


class _Linear(Function):
    """Unpacks the weight anew for the backward pass: keeping it would undo the saving."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Fp8Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.whole(), layer.bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.whole(), None


def shrink(unet: nn.Module) -> None:
    """Replaces every linear layer inside by an Fp8Linear; what the rounding takes cannot be had back."""
    for module in unet.modules():
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, Fp8Linear(child))
