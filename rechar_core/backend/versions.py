"""Names that differ between the releases of diffusers that we support."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def float_type(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The option of diffusers' loaders for the weights' float type: `torch_dtype` warns from 0.40 on."""
    import diffusers

    release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if release >= (0, 40) else "torch_dtype": dtype}
