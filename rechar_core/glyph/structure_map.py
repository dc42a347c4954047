"""Structure maps of a glyph, for a ControlNet or as masks: edges, skeleton, distance, filled outlines.

The functions take arrays (H, W); `structure_map` takes pictures in ComfyUI's layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ImageError, check_choice
from ..images import batch_of, rgb
from .picture import ink

if TYPE_CHECKING:
    from torch import Tensor

Array = Any  # a NumPy array; NumPy's own generic types differ between its versions

_TG22 = 13573  # tan(22.5 degrees) in 15 bits, as OpenCV has it
_LINE_WIDTH = (
    0.004  # of the shorter side: a shape that is thinner everywhere is an outline, not a solid shape
)
_FALLOFF = 1 / 16  # of the shorter side


def structure_map(kind: str, image: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """IMAGE (B, H, W, 3) of the kind's map, white on black, of a MASK (B, H, W) or an IMAGE (B, H, W, C) in 0..1.

    The ink of an IMAGE is found by brightness, except for "canny-cv2", which uses the colours.
    Raises ImageError without input, or for an unknown kind.
    """
    import numpy as np
    import torch

    check_choice("structure map", kind, KINDS, ImageError)
    if mask is not None:
        sources = [m.float().cpu().numpy() for m in batch_of(mask)]
    elif image is None:
        raise ImageError("There is nothing to map: connect a MASK or an IMAGE.")
    elif kind == "canny-cv2":
        sources = [rgb(picture).cpu().numpy() for picture in image]
    else:
        sources = [ink(picture).numpy() for picture in image]
    maps = [torch.from_numpy(np.ascontiguousarray(KINDS[kind](s), dtype=np.float32)) for s in sources]
    return torch.stack(maps)[..., None].expand(-1, -1, -1, 3).contiguous()


# Edges


def canny(picture: Array, low: int = 100, high: int = 200) -> Array:
    """Edges (H, W), True or False, of a uint8 picture (H, W) or (H, W, C), equal to cv2.Canny(picture, low, high).

    Sobel of width 3, |dx| + |dy|, the strongest of the channels, non-maximum suppression in four directions in
    OpenCV's integer arithmetic, hysteresis over eight neighbours (Canny, 1986; OpenCV, canny.cpp).
    """
    import numpy as np
    from scipy import ndimage

    dx, dy = _sobel(picture if picture.ndim == 3 else picture[..., None])
    size = np.abs(dx) + np.abs(dy)  # (H, W, C)
    strongest = size.argmax(-1)[..., None]
    dx, dy, size = (np.take_along_axis(t, strongest, -1)[..., 0] for t in (dx, dy, size))
    peaks = _peaks(dx, dy, size) & (size > low)
    labels, count = ndimage.label(peaks, np.ones((3, 3)))
    strong = np.zeros(count + 1, bool)
    strong[labels[peaks & (size > high)]] = True
    return strong[labels]


def edges(picture: Array) -> Array:
    """`canny` of a picture in 0..1."""
    import numpy as np

    return canny(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))


def _sobel(picture: Array) -> tuple[Array, Array]:
    """Derivatives (H, W, C) in int32; the border is replicated."""
    import numpy as np

    p = np.pad(picture.astype(np.int32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    across, down = p[:, 2:] - p[:, :-2], p[2:] - p[:-2]
    dx = across[:-2] + 2 * across[1:-1] + across[2:]
    return dx, down[:, :-2] + 2 * down[:, 1:-1] + down[:, 2:]


def _peaks(dx: Array, dy: Array, size: Array) -> Array:
    """Where the size is a maximum along the gradient; ties go to one side, as in OpenCV."""
    import numpy as np

    p = np.pad(size, 1)
    height, width = size.shape

    def at(y: int, x: int) -> Array:
        return p[1 + y : 1 + y + height, 1 + x : 1 + x + width]

    x, y = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << 15
    flat = y < x * _TG22
    steep = y > x * _TG22 + (x << 16)
    falling = (dx ^ dy) < 0
    diagonal = np.where(
        falling, (size > at(-1, 1)) & (size > at(1, -1)), (size > at(-1, -1)) & (size > at(1, 1))
    )
    vertical = (size > at(-1, 0)) & (size >= at(1, 0))
    horizontal = (size > at(0, -1)) & (size >= at(0, 1))
    return np.where(flat, horizontal, np.where(steep, vertical, diagonal))


# Shapes


def skeleton(mask: Array) -> Array:
    """The one-pixel skeleton (H, W) of a mask (Guo and Hall, 1989): thin, inside the mask, as connected as it is."""
    import numpy as np

    thin = np.pad(np.asarray(mask) >= 0.5, 1).astype(np.uint8)
    tables, changed = _thinning_tables(), True
    while changed:
        changed = False
        for table in tables:
            y, x = np.nonzero(thin)
            code = sum(thin[y + dy, x + dx] << bit for bit, (dy, dx) in enumerate(_RING))
            gone = table[code]
            thin[y[gone], x[gone]] = 0
            changed |= bool(gone.any())
    return thin[1:-1, 1:-1].astype(bool)


_RING = (
    (-1, 0),
    (-1, 1),
    (0, 1),
    (1, 1),
    (1, 0),
    (1, -1),
    (0, -1),
    (-1, -1),
)  # P2 ... P9, clockwise from above


def _thinning_tables() -> tuple[Array, Array]:
    """For each of the 256 neighbourhoods, whether its centre is removed in the first and in the second pass."""
    import numpy as np

    p2, p3, p4, p5, p6, p7, p8, p9 = ((np.arange(256) >> bit) & 1 == 1 for bit in range(8))

    def count(*pairs: tuple[Array, Array]) -> Array:
        return np.sum([one | other for one, other in pairs], axis=0)

    sides = ((~p2 & (p3 | p4)), (~p4 & (p5 | p6)), (~p6 & (p7 | p8)), (~p8 & (p9 | p2)))
    branches = np.sum(sides, axis=0)
    near = np.minimum(
        count((p9, p2), (p3, p4), (p5, p6), (p7, p8)), count((p2, p3), (p4, p5), (p6, p7), (p8, p9))
    )
    border = (branches == 1) & (near >= 2) & (near <= 3)
    return border & ~((p2 | p3 | ~p5) & p4), border & ~((p6 | p7 | ~p9) & p8)


def distance(mask: Array) -> Array:
    """Euclidean distance to the nearest cell outside the mask, scaled to a maximum of 1; all 0 for an empty mask."""
    import numpy as np
    from scipy import ndimage

    distances = ndimage.distance_transform_edt(np.pad(np.asarray(mask) >= 0.5, 1))[1:-1, 1:-1]
    return distances / max(distances.max(), 1.0)


def filled(mask: Array) -> Array:
    """The area that lines enclose, including the lines, by the even-odd rule: the inner line of a ring bounds a hole.

    A solid shape, which is somewhere thicker than a line, is not changed.
    """
    import numpy as np
    from scipy import ndimage

    lines = np.pad(np.asarray(mask) >= 0.5, 1)
    half_width = ndimage.distance_transform_edt(lines).max()
    if not lines.any() or half_width > max(2.0, _LINE_WIDTH * min(np.shape(mask))):
        return lines[1:-1, 1:-1]
    regions, _ = ndimage.label(~lines)
    contours, _ = ndimage.label(lines, np.ones((3, 3)))
    area = seen = regions == regions[0, 0]  # from the outside inwards, one contour after the other
    result, enclosed = lines.copy(), False
    while area.any():
        result |= area & enclosed
        crossed = np.isin(contours, contours[lines & ndimage.binary_dilation(area)])
        area = np.isin(regions, regions[~lines & ndimage.binary_dilation(crossed)]) & ~seen
        seen, enclosed = seen | area, not enclosed
    return result[1:-1, 1:-1]


# Masks as tensors, for the layout


def fill(mask: Tensor) -> Tensor:
    """`filled` of a mask (H, W), on its own device."""
    import torch

    return torch.from_numpy(filled(mask.cpu().numpy())).to(mask)


def distance_falloff(mask: Tensor) -> Tensor:
    """1 inside a mask (H, W), decreasing linearly to 0 at a distance of 1/16 of the shorter side."""
    import torch
    from scipy import ndimage

    outside = (mask < 0.5).cpu().numpy()
    if outside.all():
        return torch.zeros_like(mask)
    away = torch.from_numpy(ndimage.distance_transform_edt(outside)).to(mask)
    return (1 - away / (_FALLOFF * min(mask.shape))).clamp(0, 1)


KINDS: Mapping[str, Callable[[Array], Array]] = {
    "canny-cv2": edges,
    "skeleton": skeleton,
    "distance": distance,
    "fill": filled,
}
