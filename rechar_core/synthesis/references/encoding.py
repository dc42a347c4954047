"""Encodes reference pictures: preprocessing for CLIP, image tokens kept by a mask, and the unconditional tokens."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from ...images import CLIP, batch_of, check_same_shape, normalised, rgb
from .attention import Reference
from .errors import AdapterError
from .projection import IPAdapter, Kind

if TYPE_CHECKING:
    from torch import Tensor

_TOUCH = 0.02  # of a token's area; small, because the strokes of a glyph are narrower than a token


@dataclass(frozen=True)
class IPAdapters(ABC):
    """What reads references: an adapter for each role, either may be missing, and the image encoder they share."""

    structure: IPAdapter | None = None
    style: IPAdapter | None = None
    encoder: Any = None
    _last: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @abstractmethod
    def widths(self) -> tuple[int, int]:
        """Of the encoder's hidden states and of its pooled embedding. Raises AdapterError for other encoders."""

    @abstractmethod
    def features(self, image: Tensor | None, kind: Kind) -> Tensor:
        """What the encoder sees in IMAGE (B, H, W, C), in fp32 on the CPU: pooled (plain) or hidden states (plus).

        None: zeros after the normalisation, CLIP's mean grey.
        """

    def check(self, layers: tuple[int, ...] | None = None) -> None:
        """Raises AdapterError unless the adapters fit the encoder and a model's cross-attentions of these widths."""
        for adapter in filter(None, (self.structure, self.style)):
            adapter.check_encoder(*self.widths())
            if layers is not None:
                adapter.check_layers(layers)

    def encode_reference(
        self,
        image: Tensor,
        role: str,
        mask: Tensor | None = None,
        uncond: str = "diffusers",
        weight: float = 1.0,
    ) -> Reference:
        """A reference from all pictures of IMAGE (B, H, W, C), and an optional MASK (B, H, W) of what to keep of them.

        uncond: what the unconditional half sees: nothing ("zeros"), a "black" picture, or what "diffusers" takes for no
        picture. What a role saw last is not encoded again. Raises AdapterError.
        """
        key = (_digest(image), _digest(mask), uncond, weight)
        if self._last.get(role, (None,))[0] != key:
            self._last[role] = key, self._encode(image, role, mask, uncond, weight)
        reference: Reference = self._last[role][1]
        return reference

    def _encode(self, image: Tensor, role: str, mask: Tensor | None, uncond: str, weight: float) -> Reference:
        import torch

        adapter: IPAdapter | None = getattr(self, role)
        if adapter is None:
            raise AdapterError(
                f"No adapter for {role} references is loaded; choose one in Load Reference Adapters."
            )
        if mask is not None and adapter.kind == "plain":
            raise AdapterError(
                f"The adapter '{adapter.name}' sees one embedding of the whole picture, from which no part can be "
                "dropped; disconnect the mask, or use a plus adapter."
            )
        adapter.check_encoder(*self.widths())
        seen, kept = self.features(image, adapter.kind), None
        if mask is not None:
            side = int((seen.shape[1] - 1) ** 0.5)
            kept = kept_tokens(batch_of(mask), (image.shape[1], image.shape[2]), side)
        if uncond == "zeros" or (uncond == "diffusers" and adapter.kind == "plain"):
            unseen = torch.zeros_like(seen[:1])
        else:
            unseen = self.features(torch.zeros(1, 224, 224, 3) if uncond == "black" else None, adapter.kind)
        return reference_of(adapter, role, seen, unseen, kept, weight)


def _digest(tensor: Tensor | None) -> Any:
    """Equal for equal tensors."""
    return (
        tensor if tensor is None else (tensor.shape, sha256(tensor.float().cpu().numpy().tobytes()).digest())
    )


def reference_of(
    adapter: IPAdapter,
    role: str,
    seen: Tensor,
    unseen: Tensor,
    kept: Tensor | None = None,
    weight: float = 1.0,
) -> Reference:
    """Makes a Reference from image features: pooled embeddings (plain) or hidden states (plus).

    seen: (B, ...), features of the pictures. unseen: (1, ...), features for the unconditional half. kept: (B, N - 1)
    bool, the image tokens that stay; the others are removed, and also the class token, which has information about the
    whole picture. Raises AdapterError if nothing would be left, and unless there is one mask for all pictures or one
    for each.
    """
    import torch

    if kept is None:
        rows = adapter.tokens(seen)
        none = adapter.tokens(unseen).expand(len(seen), -1, -1)
        return Reference(adapter, role, rows.flatten(0, 1), none.flatten(0, 1), weight)
    if len(kept) not in (1, len(seen)):
        raise AdapterError(
            f"There are {len(kept)} masks for {len(seen)} reference pictures; give one mask, or one for each picture."
        )
    parts = [_positions(tokens) for tokens in kept.expand(len(seen), -1)]
    rows = torch.cat([adapter.tokens(seen[i : i + 1, part])[0] for i, part in enumerate(parts)])
    none = torch.cat([adapter.tokens(unseen[:, part])[0] for part in parts])
    return Reference(adapter, role, rows, none, weight)


def clip_pixels(images: Tensor, side: int) -> Tensor:
    """CLIP's input for IMAGE (B, H, W, C): the central square, (B, 3, side, side), normalised.

    Bicubic with antialiasing, the shorter side to `side`, rounded to 8 bits, as ComfyUI's clip_preprocess does.
    """
    import torch.nn.functional as F

    pictures = rgb(images).movedim(-1, 1)
    height, width = pictures.shape[-2:]
    if (height, width) != (side, side):
        scale = side / min(height, width)
        size = (round(scale * height), round(scale * width))
        pictures = F.interpolate(pictures, size, mode="bicubic", antialias=True)
        top, left = (size[0] - side) // 2, (size[1] - side) // 2
        pictures = pictures[:, :, top : top + side, left : left + side]
    return normalised((255 * pictures).clamp(0, 255).round() / 255, CLIP)


def _positions(kept: Tensor) -> Tensor:
    """Positions of the kept image tokens in the encoder's sequence, which starts with a class token."""
    positions = kept.nonzero().flatten() + 1
    if not len(positions):
        raise AdapterError(
            "The mask keeps no part of the reference picture; paint where the picture matters."
        )
    return positions


def kept_tokens(mask: Tensor, picture: tuple[int, int], side: int) -> Tensor:
    """Which of side x side image tokens a MASK (B, H, W) keeps, (B, side * side) bool: those it overlaps.

    The encoder sees the central square of a picture (height, width), so the mask is first scaled to the picture's size
    and cropped in the same way.
    """
    import torch.nn.functional as F

    mask = mask.float()
    if tuple(mask.shape[-2:]) != picture:
        check_same_shape(mask, picture, "reference")
        mask = F.interpolate(mask[:, None], picture, mode="bilinear", antialias=True)[:, 0]
    edge = min(picture)
    top, left = (picture[0] - edge) // 2, (picture[1] - edge) // 2
    square = mask[:, top : top + edge, left : left + edge]
    return F.adaptive_avg_pool2d(square[:, None], side).flatten(1) > _TOUCH
