"""Draw batches: glyph masks in materials on grounds, named or random."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .families import FAMILIES, MATERIALS, Palette
from .fields import Source
from .grounds import GROUNDS
from .scene import Scene, darker, luminance, over, random_light


@dataclass(frozen=True)
class Style:
    """What a batch is drawn in: a material on a ground, in a named palette or (None) in random colours."""

    family: str
    ground: str
    palette: Palette | None


def colour(code: str, device: torch.device) -> Tensor:
    """RRGGBB -> (1, 3, 1, 1) in 0..1."""
    values = [int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def _rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """HSV -> RGB, each (batch, 1, 1, 1), hue in turns."""
    offset = torch.tensor([5.0, 3.0, 1.0], device=hue.device).view(1, 3, 1, 1)
    k = (offset + 6 * hue).remainder(6)
    return value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1)


def random_colours(source: Source) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ink, ink2, ground, ground2: any hues; ink and ground differ in lightness or strongly in colour."""

    def any_colour() -> Tensor:
        return _rgb(source.uniform(), source.uniform() ** 0.7, 0.06 + 0.92 * source.uniform() ** 0.8)

    ink, ground = any_colour(), any_colour()
    for _ in range(6):  # draw again where the two are too close
        gap = (luminance(ink) - luminance(ground)).abs() + 0.35 * (ink - ground).norm(dim=1, keepdim=True)
        ink = torch.where(gap < 0.36, any_colour(), ink)
    near = 0.06 + 0.3 * source.uniform()
    ground2 = (ground + near * (any_colour() - ground)).clamp(0, 1)
    far = source.uniform()
    return ink, ink + far * (any_colour() - ink), ground, ground2


def colours(style: Style, source: Source) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four colours of a batch; named ones vary a little from picture to picture."""
    if style.palette is None:
        return random_colours(source)
    p = style.palette
    exact = [colour(code, source.device) for code in (p.ink, p.ink2, p.ground, p.ground2)]
    return tuple((c + 0.02 * (source.uniform(-1, 1, 3))).clamp(0, 1) for c in exact)


def scene_of(mask: Tensor, distance: Tensor, style: Style, source: Source) -> Scene:
    return Scene(source, mask, distance, random_light(source), *colours(style, source))


def draw(mask: Tensor, distance: Tensor, style: Style, seed: int) -> Tensor:
    """Pictures (batch, 3, size, size) in 0..1 of masks (batch, 1, size, size) in 0..1 and their distances in px."""
    source = Source(seed, len(mask), mask.device, mask.shape[-1])
    scene = scene_of(mask, distance, style, source)
    ground = GROUNDS[style.ground](scene).clamp(0, 1)
    return MATERIALS[style.family](scene, ground).clamp(0, 1)


def own_style(family: str, palette: int = 0) -> Style:
    """A material on its own ground in one of its named palettes."""
    found = FAMILIES[family]
    return Style(family, found.ground, found.palettes[palette])


def textured(scene: Scene, ground: Tensor, inner: str) -> Tensor:
    """The glyph's area shows another ground, in the ink's colours: as if cut out of a photograph."""
    within = Scene(
        scene.source, scene.mask, scene.distance, scene.light, scene.ink, scene.ink2, scene.ink, scene.ink2
    )
    texture = GROUNDS[inner](within).clamp(0, 1)
    return over(darker(ground, scene.source.uniform(0, 0.5) * scene.shadow(4.0, 4.0)), texture, scene.mask)
