"""The interface of training to a frozen SDXL UNet, and the values that go in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .context import ConstantContext
from .frozen_layers import gated
from .memory import MemoryMode

Prediction = Literal["epsilon", "v_prediction"]
ATTENTION = tuple(f".{attn}.{p}" for attn in ("attn1", "attn2") for p in ("to_q", "to_k", "to_v", "to_out.0"))
_OF_CONTEXT = (".attn2.to_k", ".attn2.to_v")


@dataclass(frozen=True)
class Conditioning:
    """SDXL's text and size conditioning of one prompt.

    context: (1, tokens, width) penultimate hidden states of both text encoders side by side; pooled: (1, pooled
    width) of the second; time_ids: (1, 6) = original height and width, crop top and left, target height and width.
    """

    context: Tensor
    pooled: Tensor
    time_ids: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditioning:
        """The same on another device, in another float type."""
        return Conditioning(*(t.to(device, dtype) for t in (self.context, self.pooled, self.time_ids)))


@dataclass(frozen=True)
class LatentMoments:
    """What the VAE says of one picture, encoded once in fp32: the posterior is sampled anew at every step.

    mean, std: (1, 4, h, w), already multiplied by the VAE's scaling factor.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """x0 = mean + std * noise for noise of (B, 4, h, w)."""
        return self.mean + self.std * noise


@dataclass(frozen=True)
class Prefix:
    """All that the part of the UNet before the first LoRA layer hands on; the LoRA has no say in it.

    hidden: (B, C, h, w) behind up_blocks.0.resnets.0. skips: what the later resnets still take, last one first
    to go. embedding: (B, width) of timestep, size and pooled text.
    """

    hidden: Tensor
    skips: tuple[Tensor, ...]
    embedding: Tensor

    def part(self, start: int, stop: int) -> Prefix:
        """Samples start..stop of the batch, without a copy."""
        skips = tuple(skip[start:stop] for skip in self.skips)
        return Prefix(self.hidden[start:stop], skips, self.embedding[start:stop])

    def to(self, device: torch.device) -> Prefix:
        """The same on another device."""
        skips = tuple(skip.to(device) for skip in self.skips)
        return Prefix(self.hidden.to(device), skips, self.embedding.to(device))


class Denoiser(ABC):
    """A frozen SDXL UNet, the host's or diffusers'; nothing downstream asks which it is.

    prediction: what `predict` returns. alphas_cumprod: (T,) fp32, the noise schedule's abar_t. device: where the UNet
    computes; in mode low only one of its halves is there at a time: the modules of the prefix, or those of the suffix.
    decoder: the blocks from the first LoRA layer on.
    """

    prediction: Prediction
    alphas_cumprod: Tensor

    def __init__(
        self,
        unet: Any,
        device: torch.device,
        halves: tuple[list[nn.Module], list[nn.Module]],
        decoder: nn.Module,
    ):
        self.unet, self.device, self._halves, self._decoder = unet, device, halves, decoder
        self._alternate = False  # whether the halves take turns on the device
        self._placed: int | None = None  # the half that is there
        self._context, self._cond = ConstantContext(), lru_cache(maxsize=1)(self._prepare)
        self._attached = ExitStack()

    @abstractmethod
    def layers(self) -> Mapping[str, nn.Module]:
        """Diffusers module path -> linear layer, for the attention projections of both blocks, in model order."""

    @abstractmethod
    def weights(self) -> Iterable[Tensor | str]:
        """All weights of the UNet, in model order, and words on them: they tell one base from another."""

    def use(self, mode: MemoryMode | None) -> None:
        """Run in this memory mode from now on; None takes back everything that training attached, and what it moved.

        In ComfyUI moved weights are back when `own_weights` (nodes/host/weights.py) ends.
        """
        self._attached.close()
        self._cond.cache_clear()
        self._alternate, self._placed = mode == "low", None
        self._load(mode)
        if mode is None:
            return
        self._attached.enter_context(gated(self._decoder.modules()))
        if mode != "fast":
            self._attached.enter_context(self._checkpointed())
        fed = [module for name, module in self.unet.named_modules() if name.endswith(_OF_CONTEXT)]
        self._attached.enter_context(self._context.attached(fed))

    @abstractmethod
    def prefix(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Prefix:
        """The first part of the UNet, without gradients, for noisy latents (B, 4, h, w) fp32, timesteps (B,)."""

    @abstractmethod
    def suffix(self, prefix: Prefix, conditioning: Conditioning) -> Tensor:
        """The rest: the raw prediction, (B, 4, h, w), with gradients if they are enabled."""

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The raw prediction for noisy latents (B, 4, h, w) fp32 at timesteps (B,): suffix of prefix."""
        return self.suffix(self.prefix(noisy, timesteps, conditioning), conditioning)

    @abstractmethod
    def _prepare(self, conditioning: Conditioning) -> tuple[Tensor, Tensor]:
        """The context (1, tokens, width), and what size and pooled text add to the timestep's embedding (1, width)."""

    @abstractmethod
    def _load(self, mode: MemoryMode | None) -> None:
        """All weights to where the mode starts from."""

    @abstractmethod
    def _move(self, modules: Iterable[nn.Module], device: torch.device) -> None:
        """The weights of these modules to another device."""

    @abstractmethod
    def _checkpointed(self) -> AbstractContextManager[None]:
        """Gradient checkpointing of the decoder's transformer blocks, until the end."""

    def _place(self, half: int) -> None:
        """In mode low: this half of the UNet onto the device, the other off it first."""
        if self._alternate and self._placed != half:
            self._move(self._halves[1 - half], torch.device("cpu"))
            self._move(self._halves[half], self.device)
            self._placed = half
