"""A picture of the layout: the weight of each branch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...images import batch_of, sheet, to_tensor
from .layout import ROLES, TEXT, Layout

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_GRID = 64  # cells of the finest cross-attention of a square SDXL picture


def layout_of(
    masks: Mapping[str, Tensor | None], operator: str, temperature: float, mask_mode: str
) -> Layout:
    """A layout from MASKs (H, W) or (B, H, W) named "text_mask", "structure_mask", "style_mask"; a batch is merged."""
    joined = {
        name.removesuffix("_mask"): batch_of(mask.float().cpu()).amax(0)
        for name, mask in masks.items()
        if mask is not None
    }
    return Layout(joined, operator, temperature, mask_mode)


def preview(layout: Layout) -> Tensor:
    """IMAGE (1, H, W, 3): text, structure and style side by side, on the finest grid, white where strongest."""
    shape = next((tuple(mask.shape) for mask in layout.masks.values()), (1, 1))
    height, width = (max(1, round(_GRID * (side / max(shape)))) for side in shape)
    grid = (height, width)
    text, others = layout.weights(ROLES, grid)
    weights = dict(zip((TEXT, *ROLES), (text, *others), strict=True))
    top = max((float(w.max()) for w in weights.values() if w is not None), default=1.0)
    cells = [(_label(role, w), _panel(w, grid, max(top, 1e-6))) for role, w in weights.items()]
    return to_tensor(sheet([cells], f"{layout.operator}, masks by {layout.mask_mode}"))


def _label(role: str, weight: Tensor | None) -> str:
    return (
        f"{role}\n1" if weight is None else f"{role}\n{float(weight.min()):.2f} to {float(weight.max()):.2f}"
    )


def _panel(weight: Tensor | None, grid: tuple[int, int], top: float) -> Image:
    """A square picture with the map in its centre."""
    import torch
    from PIL import Image

    values = torch.ones(grid) if weight is None else (weight.reshape(-1) / top).expand(grid[0] * grid[1])
    bytes_ = (values.reshape(grid).clamp(0, 1) * 255).round().byte().numpy()
    page = Image.new("RGB", (_GRID, _GRID), "#335577")
    page.paste(Image.fromarray(bytes_).convert("RGB"), ((_GRID - grid[1]) // 2, (_GRID - grid[0]) // 2))
    return page.resize((4 * _GRID, 4 * _GRID), Image.Resampling.NEAREST)
