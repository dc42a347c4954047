"""The intensity layout map: weights for where text, structure and style act in the picture.

The framework figure of ReChar (SIGGRAPH Asia 2025, doi 10.1145/3757376.3771409) does not define the operator, so there
are two. Branch i has a map M_i of area a_i and the gate g_i = sigmoid(|union of all maps| / a_i):

    softmax: omega = softmax_i(g_i M_i / tau)        gated_softmax: omega_i = g_i M_i softmax_i(M / tau)

"off" is the published code: text everywhere, each reference times its own mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import check_choice
from ...glyph.structure_map import distance_falloff, fill
from ...images import check_same_shape
from .errors import AdapterError

if TYPE_CHECKING:
    from torch import Tensor

TEXT = "text"
ROLES = ("structure", "style")
Grid = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Maps of the branches, (H, W) in 0..1 by "text", "structure" and "style"; one without a map acts everywhere.

    operator: "off", "softmax" or "gated_softmax". temperature: tau of the latter two. mask_mode: how a map is scaled to
    a layer's grid (MASK_MODES). Raises AdapterError for an unknown operator or mode, a temperature not above 0,
    or a mask of another shape. A deep copy is the object itself: it is never changed, and ComfyUI deep-copies all
    patches of a cloned MODEL.
    """

    masks: Mapping[str, Tensor] = field(default_factory=dict)
    operator: str = "off"
    temperature: float = 1.0
    mask_mode: str = "area"
    _known: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_choice("operator", self.operator, OPERATORS, AdapterError)
        check_choice("mask mode", self.mask_mode, MASK_MODES, AdapterError)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise AdapterError(f"The temperature is {self.temperature}; it must be above 0.")
        for role, mask in self.masks.items():
            if mask.ndim != 2 or not mask.numel():
                raise AdapterError(
                    f"The {role} mask has the shape {tuple(mask.shape)}; give one (height, width)."
                )

    def __deepcopy__(self, _: Any) -> Layout:
        return self

    def weights(
        self, roles: Sequence[str], grid: Grid, *where: Any
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """The weights of the text and of each reference on a layer's grid, (1, height * width, 1); None for 1.

        where: their device and dtype. Cached for each grid, because every layer needs them at every step.
        """
        key = (tuple(roles), grid, where)
        if key not in self._known:
            maps = [self._map(TEXT, grid), *(self._map(role, grid) for role in roles)]
            flat = OPERATORS[self.operator](maps, self.temperature)
            text, *others = (None if w is None else w[None, :, None].to(*where) for w in flat)
            self._known[key] = text, others
        return self._known[key]

    def _map(self, role: str, grid: Grid) -> Tensor | None:
        """A branch's map on the grid, flattened to (cells,); None if it has no map."""
        mask = self.masks.get(role)
        if mask is None:
            return None
        if self.mask_mode != "official":  # which pads and cuts
            check_same_shape(mask, grid, "latent")
        return MASK_MODES[self.mask_mode](mask.float(), grid)


# Operators: maps (cells,), the text's first -> weights in the same order


def gates(maps: Tensor) -> Tensor:
    """g_i = sigmoid(|union| / a_i) of maps (branches, cells), as (branches, 1); 1 for a branch without area."""
    import torch

    areas = maps.mean(1, keepdim=True)
    union = maps.amax(0).mean()
    return torch.where(areas > 0, torch.sigmoid(union / areas.clamp_min(1e-12)), torch.ones_like(areas))


def _off(maps: Sequence[Tensor | None], _: float) -> list[Tensor | None]:
    return [None, *maps[1:]]


def _softmax(maps: Sequence[Tensor | None], temperature: float) -> list[Tensor | None]:
    full = _full(maps)
    return list((gates(full) * full / temperature).softmax(0))


def _gated_softmax(maps: Sequence[Tensor | None], temperature: float) -> list[Tensor | None]:
    full = _full(maps)
    return list(gates(full) * full * (full / temperature).softmax(0))


def _full(maps: Sequence[Tensor | None]) -> Tensor:
    """All maps as (branches, cells) in 0..1; a branch without a map acts everywhere."""
    import torch

    one = next((torch.ones_like(m) for m in maps if m is not None), torch.ones(1))
    return torch.stack([one if m is None else m for m in maps]).clamp(0, 1)


OPERATORS: Mapping[str, Callable[[Sequence[Tensor | None], float], list[Tensor | None]]] = {
    "off": _off,
    "softmax": _softmax,
    "gated_softmax": _gated_softmax,
}


# Mask modes: (H, W) -> (cells,)


def official_grid(mask: Grid, cells: int) -> Grid:
    """The grid to which diffusers scales masks (IPAdapterMaskProcessor.downsample); not always `cells` large."""
    height = max(
        1, int(math.sqrt(cells / (mask[1] / mask[0])))
    )  # diffusers divides by 0 for a very flat mask
    height += int(cells % height != 0)
    return height, cells // height


def _official(mask: Tensor, grid: Grid) -> Tensor:
    """As published: binarised, bicubic without antialiasing, not clamped; padded with 0 or cut if aspects differ."""
    import torch.nn.functional as F

    cells = grid[0] * grid[1]
    size = official_grid((mask.shape[0], mask.shape[1]), cells)
    binary = (mask >= 0.5).to(mask)[None, None]
    flat = F.interpolate(binary, size, mode="bicubic").flatten()[:cells]
    return F.pad(flat, (0, cells - len(flat)))


def _area(mask: Tensor, grid: Grid) -> Tensor:
    import torch.nn.functional as F

    return F.adaptive_avg_pool2d(mask[None, None], grid).flatten()


def _maxpool(mask: Tensor, grid: Grid) -> Tensor:
    import torch.nn.functional as F

    return F.adaptive_max_pool2d(mask[None, None], grid).flatten()


def _fill(mask: Tensor, grid: Grid) -> Tensor:
    """The mask together with the area that its lines enclose, averaged per cell."""
    return _area(fill(mask), grid)


def _distance(mask: Tensor, grid: Grid) -> Tensor:
    """Fades out around the mask, averaged per cell: thin strokes keep weight on coarse grids."""
    return _area(distance_falloff(mask), grid)


MASK_MODES: Mapping[str, Callable[[Tensor, Grid], Tensor]] = {
    "official": _official,
    "area": _area,
    "maxpool": _maxpool,
    "fill": _fill,
    "distance": _distance,
}
