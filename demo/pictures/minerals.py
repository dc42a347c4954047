"""Materials of metal, stone, glass, ice and fire. Each function: (scene, ground) -> picture, (batch, 3, h, w)."""

import torch
from torch import Tensor

from .fields import blur, dome, grid, mix, moved, shade, slopes, step, voronoi
from .scene import Scene, cover, darker, lighter, over


def _shaded(
    ground: Tensor, scene: Scene, length: float = 6.0, soft: float = 4.0, depth: float = 0.5
) -> Tensor:
    """The ground with the raised glyph's shadow on it."""
    return darker(ground, depth * scene.shadow(length, soft))


def _mirrored(height: Tensor, light: Tensor, sky: Tensor, horizon: Tensor, earth: Tensor) -> Tensor:
    """What a polished surface shows: sky above, a bright horizon, dark earth below, by its slope."""
    across, down = slopes(height)
    tilt = (-down + 0.45 * across * light[:, :1].sign()) / (1 + across**2 + down**2).sqrt()
    above = mix(horizon, sky, step(tilt, 0.35, 0.7))
    below = mix(mix(earth, sky, 0.75), earth, step(tilt, -0.4, 0.8))
    return mix(below, above, step(tilt, 0.02, 0.14))


def gold_leaf(scene: Scene, ground: Tensor) -> Tensor:
    """Crinkled leaf over a bevel: bright facets, dark creases, worn spots."""
    s = scene.source
    near, second, numbers = voronoi(s, s.whole(16, 26), 1.0, (5 * s.noise(12, 1.6), 5 * s.noise(12, 1.6)))
    facets = (numbers[:, :1] - 0.5) * near * 0.5
    height = 5 * dome(scene.distance, 7.0) + s.uniform(0.6, 1.1) * s.noise(9, 1.6) + 0.5 * facets
    diffuse, gloss = shade(height, scene.light, 12.0)
    gold = mix(
        darker(scene.ink, 0.55), lighter(scene.ink, 0.42), (0.25 + 0.52 * (diffuse - 0.45)).clamp(0, 1)
    )
    gold = gold + 0.5 * gloss * lighter(scene.ink, 0.5) - 0.12 * step(-(second - near), -1.2, 1.2)
    worn = step(s.noise(5, 1.2) - 2.0, 0.0, 0.6) * 0.6
    return over(_shaded(ground, scene, 4, 3), over(gold, ground, worn), cover(scene.distance))


def chrome(scene: Scene, ground: Tensor) -> Tensor:
    """Polished steel: a horizon in every stroke."""
    s = scene.source
    height = blur(scene.cushion, 1.0) * 1.0 + 0.5 * s.noise(40, 2.6)
    white = torch.ones_like(scene.ink)
    steel = _mirrored(
        height,
        scene.light,
        mix(scene.ink, scene.ink2, 0.35),
        lighter(scene.ink, 0.9),
        darker(scene.ink2, 0.4),
    )
    _, gloss = shade(height, scene.light, 90.0)
    rim = torch.exp(-((scene.distance / 1.4) ** 2))
    metal = mix(steel, darker(scene.ink2, 0.7), 0.6 * rim) + 0.5 * gloss * white
    return over(_shaded(ground, scene, 7, 4, 0.6), metal, cover(scene.distance))


def copper(scene: Scene, ground: Tensor) -> Tensor:
    """Hammered copper; verdigris grows from the edges and the dents."""
    s = scene.source
    near, _, _ = voronoi(s, s.whole(12, 19), 0.9)
    height = scene.cushion * 0.7 + 0.09 * near**1.3
    diffuse, gloss = shade(height, scene.light, 16.0)
    body = scene.ink * (0.35 + 0.65 * diffuse) + 0.45 * gloss * lighter(scene.ink, 0.5)
    grown = s.noise(20, 1.5) + 1.1 * torch.exp(-scene.distance.clamp(min=0) / 3.0) - s.uniform(0.2, 1.0)
    crust = step(grown, 0.0, 0.5)
    grain = s.noise(2.4, 1.0)
    patina = scene.ink2 * (0.85 + 0.1 * grain) * (0.6 + 0.4 * diffuse)
    return over(_shaded(ground, scene), mix(body, patina, crust * 0.95), cover(scene.distance))


def jade(scene: Scene, ground: Tensor) -> Tensor:
    """Polished jade: light goes in, milky veins, bright thin edges, a soft gloss."""
    s = scene.source
    vein = s.noise(30, 1.9, 2.0, s.angle())
    cloud = s.noise(14, 1.6)
    height = scene.cushion * 1.0
    diffuse, _ = shade(height, scene.light)
    _, gloss = shade(height + 0.1 * s.noise(8, 2), scene.light, 45.0)
    thin = torch.exp(-scene.distance.clamp(min=0) / (0.6 * scene.radius + 1))
    stone = mix(
        darker(scene.ink, 0.42), lighter(scene.ink, 0.25), (0.46 + 0.22 * vein + 0.1 * cloud).clamp(0, 1)
    )
    stone = mix(stone, lighter(scene.ink2, 0.35), step(vein.abs() * -1, -0.13, 0.22) * 0.55)
    through = stone * (0.45 + 0.45 * diffuse) + 0.3 * thin * lighter(scene.ink, 0.35)
    return over(_shaded(ground, scene, 6, 5, 0.45), through + 0.75 * gloss, cover(scene.distance))


def celadon(scene: Scene, ground: Tensor) -> Tensor:
    """A relief under celadon glaze, pooled darker where deep, crackled all over."""
    s = scene.source
    warp = (7 * s.noise(40, 2), 7 * s.noise(40, 2))
    near, second, _ = voronoi(s, s.whole(24, 40), 1.0, warp)
    fine, fine2, _ = voronoi(s, s.whole(12, 17), 1.0, warp)
    crackle = 1 - step(second - near, 0.5, 1.8)
    crackle = torch.maximum(crackle, 0.5 * (1 - step(fine2 - fine, 0.3, 1.4)))
    height = 5.5 * dome(blur(scene.distance, 1.0), 6.0)
    diffuse, gloss = shade(height + 2 * s.noise(70, 2.6), scene.light, 40.0)
    rim = torch.exp(-(((scene.distance + 1.5) / 3.0) ** 2))
    body = mix(scene.ground, scene.ink, cover(scene.distance, 1.5))
    body = darker(body, 0.42 * rim) * (0.5 + 0.5 * diffuse) + 0.03 * s.noise(25, 2)
    return mix(body, darker(scene.ground2, 0.35), 0.65 * crackle) + 0.5 * gloss


def stone(scene: Scene, ground: Tensor) -> Tensor:
    """Letters cut into stone: the far wall of the cut is lit, the near one dark, dust inside."""
    s = scene.source
    rough = scene.distance + 0.5 * s.noise(3, 1)
    depth = -6.0 * dome(rough, 8.0)
    face = s.uniform(0.7, 1.3) * s.noise(9, 1.3) + 3 * s.noise(50, 2)
    diffuse, _ = shade(depth + face, scene.light)
    speck = s.noise(1.6, 0.5)
    block = mix(scene.ground, scene.ground2, (0.5 + 0.3 * s.noise(12, 1.2)).clamp(0, 1)) * (1 + 0.06 * speck)
    inside = cover(rough)
    return over(block, scene.ink * (0.85 + 0.07 * speck), inside * 0.88) * (0.35 + 0.65 * diffuse)


def marble(scene: Scene, ground: Tensor) -> Tensor:
    """Polished marble letters: fine dark veins that branch."""
    s = scene.source
    bend = s.noise(60, 2.2)
    vein = (3.0 * bend + 0.6 * s.noise(20, 1.8)).sin().abs()
    veins = torch.exp(-(vein / s.uniform(0.05, 0.12))) + 0.35 * torch.exp(-(s.noise(22, 1.8).abs() / 0.06))
    height = 5 * dome(scene.distance, 5.0)
    diffuse, gloss = shade(height, scene.light, 40.0)
    body = mix(scene.ink * (1 + 0.04 * bend), scene.ink2, veins.clamp(0, 0.9))
    return over(
        _shaded(ground, scene, 7, 5), body * (0.45 + 0.55 * diffuse) + 0.4 * gloss, cover(scene.distance)
    )


def mosaic(scene: Scene, ground: Tensor) -> Tensor:
    """Small glass tiles in mortar; glyph and ground in their own colours."""
    s = scene.source
    near, second, numbers = voronoi(s, s.whole(11, 15), 0.45)
    inside = step(blur(scene.mask, 1.6), 0.5, 0.35)
    gap = step(second - near, 1.3, 1.5)
    tone = (numbers - 0.5) * s.uniform(0.12, 0.3)
    tile = mix(
        mix(scene.ground, scene.ground2, numbers[:, 1:2]),
        mix(scene.ink, scene.ink2, numbers[:, 2:] ** 2),
        inside,
    )
    diffuse, gloss = shade(1.6 * dome(second - near, 4.0), scene.light, 14.0)
    tile = (tile + tone) * (0.45 + 0.55 * diffuse) + 0.25 * gloss
    return mix(lighter(darker(scene.ground2, 0.5), 0.12), tile, gap)


def stained_glass(scene: Scene, ground: Tensor) -> Tensor:
    """Panes of glass in lead: light behind, streaks in the panes, lead along the glyph's outline."""
    s = scene.source
    near, second, numbers = voronoi(s, s.whole(34, 52), 1.0)
    x, y = grid(s.size, s.device)
    streak = s.noise(14, 1.9, 3.0, s.angle())
    behind = 0.75 + 0.45 * torch.exp(
        -((x - s.uniform(80, 176)) ** 2 + (y - s.uniform(60, 160)) ** 2) / 130**2
    )
    outside = mix(scene.ground, scene.ground2, step(numbers[:, :1], 0.5, 0.5)) * (
        0.75 + 0.5 * numbers[:, 1:2]
    )
    inside = mix(scene.ink, scene.ink2, step(numbers[:, 2:], 0.6, 0.4)) * (0.85 + 0.3 * numbers[:, 1:2])
    glass = mix(outside, inside, cover(scene.distance)) * (behind + 0.14 * streak)
    lead = torch.maximum(1 - step(second - near, 2.2, 1.6), 1 - step(scene.distance.abs(), 1.9, 1.4))
    _, gloss = shade(2 * blur(lead, 1.0), scene.light, 20.0)
    return mix(glass, 0.07 + 0.35 * gloss.expand_as(glass), lead)


def ice(scene: Scene, ground: Tensor) -> Tensor:
    """Clear ice: bright bevels, white cracks and bubbles, the ground seen through it, shifted."""
    s = scene.source
    height = 7 * dome(scene.distance, 6.5) + 0.9 * s.noise(14, 2)
    across, down = slopes(height)
    behind = moved(ground, 9 * across, 9 * down)
    _, gloss = shade(height, scene.light, 22.0)
    diffuse, _ = shade(height, scene.light)
    near, second, numbers = voronoi(s, s.whole(26, 42), 1.0, (6 * s.noise(14, 1.8), 6 * s.noise(14, 1.8)))
    crack = (1 - step(second - near, 0.4, 2.2)) * step(numbers[:, :1], 0.3, 0.4)
    frost = torch.exp(-scene.distance.clamp(min=0) / 3.5)
    plane = mix(scene.ink, scene.ink2, (0.5 * numbers[:, 1:2] + 0.25 * s.noise(20, 2) + 0.25).clamp(0, 1))
    body = mix(behind, plane, 0.62) * (0.5 + 0.5 * diffuse)
    body = lighter(body, (0.55 * crack + 0.42 * frost + 0.1 * s.noise(2, 1).clamp(min=0)).clamp(0, 1))
    return over(_shaded(ground, scene, 6, 5, 0.35), body + 0.85 * gloss, cover(scene.distance))


def lava(scene: Scene, ground: Tensor) -> Tensor:
    """Molten rock in the strokes, a black crust floating on it, a red glow on the stone around."""
    s = scene.source
    warp = (4 * s.noise(12, 1.7), 4 * s.noise(12, 1.7))
    near, second, numbers = voronoi(s, s.whole(15, 22), 1.0, warp)
    heat = (
        torch.exp(-(second - near) / s.uniform(2.2, 3.6))
        + 0.35 * numbers[:, :1] ** 2
        + 0.12 * s.noise(8, 1.5)
    )
    rim = torch.exp(-scene.distance.clamp(min=0) / 2.2)
    heat = (heat + 0.5 * rim + 0.12).clamp(0, 1.4)
    white = torch.tensor([1.0, 0.95, 0.7], device=s.device).view(1, 3, 1, 1)
    molten = mix(darker(scene.ink, 0.82), scene.ink, step(heat, 0.3, 0.42))
    molten = mix(molten, scene.ink2, step(heat, 0.72, 0.5))
    molten = mix(molten, white, step(heat, 1.12, 0.4))
    glow = (blur(scene.mask, 4.0) * 0.5 + blur(scene.mask, 15.0) * 0.6).clamp(min=0)
    lit = ground * (0.75 + 0.3 * glow) + 0.55 * glow**1.3 * scene.ink
    return over(lit, molten, cover(scene.distance + 0.6 * s.noise(5, 1.4)))


def neon(scene: Scene, ground: Tensor) -> Tensor:
    """Glass tubes along the strokes: a white-hot core, coloured gas, light on the wall behind."""
    s = scene.source
    tube = torch.minimum(scene.radius * s.uniform(0.75, 1.0), s.uniform(4.0, 9.0))
    centre = (scene.radius - scene.distance).abs()
    near = (scene.distance - (scene.radius - tube).clamp(min=0)).clamp(min=-60)
    inside = step(near, 0.0, 1.6)
    core = torch.exp(-((centre / (0.55 * tube + 0.5)) ** 2)) * inside
    lamp = inside * 0.75 + 0.25 * blur(inside, 1.0)
    halo = 1.5 * blur(inside, 4.0) + 1.5 * blur(inside, 11.0) + 1.3 * blur(inside, 28.0)
    wall = ground * (0.5 + 0.5 * halo * scene.ink + 0.15 * halo) + 0.3 * halo * scene.ink
    light = mix(wall, scene.ink, lamp) + core * (0.35 + 0.6 * lighter(scene.ink, 0.75))
    return light


def stars(scene: Scene, ground: Tensor) -> Tensor:
    """The glyph as a window on a nebula, with a bright edge."""
    s = scene.source
    gas = s.noise(50, 1.9)
    second_gas = s.noise(35, 1.9)
    colour = mix(scene.ink, scene.ink2, (0.5 + 0.6 * second_gas).clamp(0, 1)) * (0.72 + 0.34 * gas).clamp(
        0.3, 1.5
    )
    near, _, numbers = voronoi(s, 9, 1.0)
    bright = numbers[:, :1] ** 4 * torch.exp(-(near**2) / (0.4 + 2.0 * numbers[:, 1:2] ** 3))
    rim = torch.exp(-(((scene.distance - 0.5) / 1.5) ** 2))
    glow = blur(scene.mask, 8.0) * 0.5
    body = colour + 1.3 * bright
    return over(ground + glow * scene.ink * 0.7, body, cover(scene.distance)) + 0.6 * rim * lighter(
        scene.ink, 0.6
    )


MINERALS = {
    "gold leaf": gold_leaf,
    "chrome": chrome,
    "copper": copper,
    "jade": jade,
    "celadon": celadon,
    "carved stone": stone,
    "marble": marble,
    "mosaic": mosaic,
    "stained glass": stained_glass,
    "ice": ice,
    "lava": lava,
    "neon": neon,
    "nebula": stars,
}
