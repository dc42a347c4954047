"""Frozen layers with a backward pass of their own: autograd's gradients, with less kept."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rechar_core.training.frozen_layers import gated, normed_conv, plain_conv, upsampled


def layers(width: int, out: int, groups: int) -> tuple[nn.GroupNorm, nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    norm, conv, shortcut = (
        nn.GroupNorm(groups, width),
        nn.Conv2d(width, out, 3, padding=1),
        nn.Conv2d(width, out, 1),
    )
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return tuple(layer.requires_grad_(False) for layer in (norm, conv, shortcut))


def gradient(output: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    seed = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    (found,) = torch.autograd.grad(output, hidden, seed)
    return output.detach(), found


def equal(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-5, rtol=1e-5) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("skipped", [0, 2, 6, 18])
def test_gradients_are_autograds(skipped: int):
    """6 channels beside a skip, in groups of 4: the boundary lies inside a group, on its end (18: 24/6) or nowhere."""
    norm, conv, shortcut = layers(6 + skipped, 5, (6 + skipped) // (3 if skipped in (0, 6) else 4))
    hidden = torch.randn(2, 6, 7, 9, requires_grad=True)
    skip = torch.randn(2, skipped, 7, 9) if skipped else None
    joined = hidden if skip is None else torch.cat([hidden, skip], 1)
    plain = conv(F.silu(norm(joined)))
    assert equal(gradient(normed_conv(norm, conv, hidden, skip), hidden), gradient(plain, hidden))
    assert equal(gradient(plain_conv(shortcut, hidden, skip), hidden), gradient(shortcut(joined), hidden))


@pytest.mark.parametrize("size", [None, torch.Size((15, 17))])
def test_enlarging_is_interpolation_and_convolution(size: torch.Size | None):
    _, conv, _ = layers(6, 6, 3)
    hidden = torch.randn(1, 6, 7, 9, requires_grad=True)
    large = F.interpolate(hidden, size or (14, 18), mode="nearest")
    assert equal(gradient(upsampled(conv, hidden, size), hidden), gradient(conv(large), hidden))


class GEGLU(nn.Module):
    """As both code bases have it."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        hidden, gate = self.proj(x).chunk(2, dim=-1)
        return hidden * F.gelu(gate)


def test_gated_layers_are_themselves_and_only_for_the_time():
    layer, x = GEGLU(), torch.randn(2, 5, 8, requires_grad=True)
    theirs = gradient(layer(x), x)
    with gated([layer]):
        assert "forward" in layer.__dict__
        assert equal(gradient(layer(x), x), theirs)
    assert "forward" not in layer.__dict__


def kept(run) -> int:
    """Bytes of all tensors that autograd keeps for the backward pass of `run`, each storage once."""
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    assert alive.requires_grad
    return sum(storages.values())


def test_a_residual_block_keeps_its_two_inputs_and_its_middle():
    """A failure means that the memory modes cost what they did before: seven tensors where three do."""
    norm, conv, shortcut = layers(16, 8, 8)
    after, last, _ = layers(8, 8, 8)
    hidden, skip = torch.randn(1, 8, 16, 16, requires_grad=True), torch.randn(1, 8, 16, 16)

    def plain() -> Tensor:
        joined = torch.cat([hidden, skip], 1)
        return last(F.silu(after(conv(F.silu(norm(joined))) + 1))) + shortcut(joined)

    def frugal() -> Tensor:
        inner = normed_conv(norm, conv, hidden, skip) + 1
        return normed_conv(after, last, inner) + plain_conv(shortcut, hidden, skip)

    one = hidden.nbytes
    assert kept(frugal) == 3 * one
    assert kept(plain) > 8 * one
