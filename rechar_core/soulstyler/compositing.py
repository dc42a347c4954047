"""Fits masks to pictures, and composites results so that nothing outside the mask changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ImageError, RecipeError, check_choice, listed
from ..images import LATENT_SCALE, batch_of, check_same_shape


def fit_mask(mask: Tensor, image: Tensor) -> Tensor:
    """A MASK (H, W) or (N, h, w) in 0..1 as one (B, H, W) for IMAGE (B, H, W, C); one mask serves all pictures.

    A mask of another resolution is scaled. Raises ImageError if its aspect ratio or the number of masks does not fit,
    or if values are not finite.
    """
    mask = batch_of(mask).to(image.device, torch.float32)
    if not mask.isfinite().all():
        raise ImageError("The mask holds values that are no numbers (NaN); make it again.")
    if len(mask) not in (1, len(image)):
        raise ImageError(
            f"There are {len(mask)} masks for {len(image)} pictures; give one mask, or one for each."
        )
    if mask.shape[-2:] != image.shape[1:3]:
        if mask.any():  # Load Image gives an empty mask of 64 x 64 where none is painted
            check_same_shape(mask, (image.shape[1], image.shape[2]))
        mask = F.interpolate(mask[:, None], tuple(image.shape[1:3]), mode="bilinear")[:, 0]
    return mask.clamp(0, 1).expand(len(image), -1, -1)


OnEmpty = Literal["error", "keep the picture"]
ON_EMPTY: tuple[str, ...] = get_args(OnEmpty)


def check_object(mask: Tensor, on_empty: str) -> str:
    """ "" if every mask of (B, H, W) has an object, else a sentence which says that these pictures stay as they are.

    Raises ImageError instead if on_empty is "error", RecipeError if it is none of ON_EMPTY.
    """
    check_choice("on_empty", on_empty, ON_EMPTY, RecipeError)
    empty = [str(number) for number, each in enumerate(mask, 1) if not each.any()]
    if not empty:
        return ""
    where = f"The mask of picture {listed(empty)} is empty" if len(mask) > 1 else "The mask is empty"
    if on_empty == "error":
        raise ImageError(
            f"{where}: white is where the picture may change. Paint it, or set on_empty to keep the picture."
        )
    return f"{where}; the picture stays as it is."


def composite(image: Tensor, styled: Tensor, mask: Tensor) -> Tensor:
    """`styled` where the mask is 1, `image` where it is 0, bit for bit, a blend between; (..., H, W, 3).

    mask: (..., H, W) in 0..1.
    """
    mask = mask[..., None]
    blend = torch.where(mask >= 1, styled, torch.lerp(image, styled, mask))
    return torch.where(mask > 0, blend, image)


def shaped(mask: Tensor, grow: int = 0, feather: int = 0) -> Tensor:
    """The mask (B, H, W) grown (or shrunk, below 0) by `grow` pixels, then its edge blurred over `feather` pixels.

    Blurring reaches `feather` pixels beyond the grown mask and no further.
    """
    mask = mask[:, None]
    if grow:
        size = 2 * abs(grow) + 1
        sign = 1 if grow > 0 else -1
        mask = sign * F.max_pool2d(sign * mask, size, stride=1, padding=abs(grow))
    if feather:
        size = 2 * feather + 1
        line = torch.arange(-feather, feather + 1, dtype=mask.dtype, device=mask.device)
        weights = torch.exp(-0.5 * (2 * line / feather) ** 2)
        weights = (weights / weights.sum()).view(1, 1, 1, size)
        for kernel, pad in ((weights, (feather, feather, 0, 0)), (weights.mT, (0, 0, feather, feather))):
            mask = F.conv2d(F.pad(mask, pad, mode="replicate"), kernel)
    return mask[:, 0].clamp(0, 1)


def padded(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, C) or MASK (B, H, W), its lower and right edge repeated up to whole latent cells."""
    planes = image.movedim(-1, 1) if image.ndim == 4 else image[:, None]
    height, width = planes.shape[-2:]
    planes = F.pad(planes, (0, -width % LATENT_SCALE, 0, -height % LATENT_SCALE), mode="replicate")
    return planes.movedim(1, -1) if image.ndim == 4 else planes[:, 0]


@dataclass(frozen=True)
class ObjectRegion:
    """A picture and the mask where it may change. image: IMAGE (B, H, W, 3); mask: (B, H, W) in 0..1, same size."""

    image: Tensor
    mask: Tensor

    @classmethod
    def of(cls, image: Tensor, mask: Tensor) -> ObjectRegion:
        """The mask fitted to the picture. Raises ImageError if it cannot be."""
        return cls(image[..., :3], fit_mask(mask, image))

    def for_latents(self) -> tuple[Tensor, Tensor]:
        """Both padded. The mask is a cell wider, so that its whole edge is drawn; `finish` cuts it sharp."""
        return padded(self.image), shaped(padded(self.mask), grow=LATENT_SCALE)

    def finish(self, styled: Tensor) -> Tensor:
        """Composites a restyled IMAGE: outside the mask every pixel equals the source, bit for bit.

        styled: of the picture's size, or padded at its right and lower edge to whole latent cells; several results
        of one picture may come as a batch. Raises ImageError on any other size or number.
        """
        height, width = self.image.shape[1:3]
        extra = styled.shape[1] - height, styled.shape[2] - width
        if len(self.image) not in (1, len(styled)) or not all(0 <= pixels < LATENT_SCALE for pixels in extra):
            raise ImageError(
                f"The restyled picture is {styled.shape[2]} x {styled.shape[1]} ({len(styled)}), its source {width} x "
                f"{height} ({len(self.image)}); decode the latent that Prepare gave, without scaling it."
            )
        image, mask = (t.expand(len(styled), *t.shape[1:]) for t in (self.image, self.mask))
        return composite(image, styled[:, :height, :width, :3].to(image), mask)
