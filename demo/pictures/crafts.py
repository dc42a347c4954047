"""Materials of paper, cloth, wood, fur and plants. Each function: (scene, ground) -> picture, (batch, 3, h, w)."""

import torch
from torch import Tensor

from .fields import blur, dome, grid, mix, moved, shade, step, strands, voronoi
from .scene import Scene, cover, darker, lighter, over


def paper_cut(scene: Scene, ground: Tensor) -> Tensor:
    """Sheets of coloured paper, the glyph cut through or laid on, with soft shadows between the layers."""
    s = scene.source
    fibre = 0.03 * s.noise(2, 1) + 0.02 * s.noise(6, 1.4)
    wide = cover(scene.distance + s.uniform(6, 11))
    away = -scene.light[:, :2] / scene.light[:, :2].norm(dim=1, keepdim=True)
    under = blur(moved(wide, -6 * away[:, :1], -6 * away[:, 1:]), 4.0)
    sheet = over(darker(ground, 0.5 * under), scene.ink2 + fibre, wide)
    top = blur(moved(scene.mask, -4.5 * away[:, :1], -4.5 * away[:, 1:]), 2.6)
    picture = over(darker(sheet, 0.55 * top), scene.ink + fibre, cover(scene.distance))
    diffuse, _ = shade(0.9 * (wide + scene.mask), scene.light)
    return picture * (0.88 + 0.12 * diffuse)


def embroidery(scene: Scene, ground: Tensor) -> Tensor:
    """Satin stitch across the strokes: threads side by side, sheen, a raised pad, on cloth."""
    s = scene.source
    x, y = grid(s.size, s.device)
    angle = s.angle() / 2
    pitch = s.uniform(5.0, 6.6)
    phase = (x * angle.cos() + y * angle.sin() + 1.6 * s.noise(50, 2.4)) / pitch
    thread = phase.floor()
    bow = (phase - thread - 0.5).abs() * 2
    shade_of = ((thread * 12.9898).sin() * 43758.5).remainder(1.0)
    edge = scene.distance + 1.1 * (shade_of - 0.5)
    body = cover(edge)
    diffuse, _ = shade(2.2 * dome(scene.distance, 8.0), scene.light)
    sheen = 0.55 + 0.45 * (1 - bow**2).clamp(min=0).sqrt()
    colour = mix(scene.ink, scene.ink2, 0.45 * shade_of)
    silk = colour * sheen * (0.5 + 0.55 * diffuse) + 0.2 * (1 - bow) * lighter(colour, 0.5) * diffuse
    return over(darker(ground, 0.5 * scene.shadow(3.0, 2.2)), silk, body)


def denim_patch(scene: Scene, ground: Tensor) -> Tensor:
    """A felt letter sewn on with a running stitch."""
    s = scene.source
    wool = s.noise(2.4, 0.9)
    fuzzy = scene.distance + 0.5 * wool
    diffuse, _ = shade(2.4 * dome(scene.distance, 4.0) + 0.25 * wool, scene.light)
    felt = scene.ink * (0.55 + 0.45 * diffuse) * (1 + 0.07 * wool)
    near = (scene.distance - torch.minimum(scene.radius * 0.5, s.uniform(4.5, 5.5))).abs()
    x, y = grid(s.size, s.device)
    run = (x * scene.along.cos() + y * scene.along.sin()) / 9.0
    stitch = step(-near, -1.3, 1.0) * step((2 * torch.pi * run).sin(), -0.1, 0.6)
    patch = over(felt, scene.ink2, stitch * 0.95)
    return over(darker(ground, 0.55 * scene.shadow(3.0, 2.4)), patch, cover(fuzzy))


def carved_wood(scene: Scene, ground: Tensor) -> Tensor:
    """Letters sawn from one wood, lying on another; grain along the board, a rounded edge."""
    s = scene.source
    x, y = grid(s.size, s.device)
    angle = s.angle() / 2
    v = y * angle.cos() - x * angle.sin()
    rings = (v / s.uniform(4.5, 8) + 2.2 * s.noise(90, 2.6, 3.0, angle)).mul(2 * torch.pi).sin()
    pores = s.noise(2.6, 1.5, 10.0, angle)
    body = mix(scene.ink, scene.ink2, (0.45 + 0.45 * rings).clamp(0, 1)) + 0.04 * pores
    diffuse, gloss = shade(5.5 * dome(scene.distance, 5.5) + 0.12 * rings, scene.light, 18.0)
    return over(
        darker(ground, 0.6 * scene.shadow(6.0, 4.0)),
        body * (0.4 + 0.6 * diffuse) + 0.14 * gloss,
        cover(scene.distance),
    )


def mother_of_pearl(scene: Scene, ground: Tensor) -> Tensor:
    """Shell laid into lacquer: splinters that shimmer between rose, green and blue."""
    s = scene.source
    near, second, numbers = voronoi(s, s.whole(14, 22), 1.0)
    bands = s.noise(16, 2, 4.0, s.angle())
    hue = 2 * torch.pi * (numbers[:, :1] * 0.55 + 0.16 * bands + s.uniform())
    shift = torch.tensor([0.0, 2.1, 4.2], device=s.device).view(1, 3, 1, 1)
    shimmer = 0.5 + 0.5 * (hue + shift).cos()
    pearl = mix(scene.ink, shimmer, s.uniform(0.2, 0.36)) * (0.78 + 0.3 * numbers[:, 1:2]) + 0.06 * bands
    joint = 1 - step(second - near, 0.6, 1.4)
    inlay = mix(pearl, darker(scene.ground, 0.3), 0.7 * joint)
    rim = torch.exp(-(((scene.distance + 0.4) / 1.2) ** 2))
    return darker(over(ground, inlay, cover(scene.distance)), 0.35 * rim)


def fur(scene: Scene, ground: Tensor) -> Tensor:
    """A pelt: hairs lie one way, stand out over the edge, light at the tips."""
    s = scene.source
    angle = s.angle() + 0.5 * s.noise(60, 2.4)
    hair = strands(s, angle, 2.0, 13.0, 8)
    edge = scene.distance + 1.3 * hair.clamp(-1.0, 2.0) + 0.8
    body = step(edge, 0.0, 2.0)
    diffuse, _ = shade(0.8 * scene.cushion.clamp(max=14), scene.light)
    spots = step(s.noise(22, 2.2), s.uniform(0.3, 1.6), 0.7)
    colour = mix(scene.ink, scene.ink2, spots)
    coat = colour * (0.62 + 0.26 * hair.clamp(-2, 2)) * (0.5 + 0.55 * diffuse)
    return over(darker(ground, 0.5 * scene.shadow(5.0, 5.0)), coat + 0.07 * hair.clamp(min=0), body)


def moss(scene: Scene, ground: Tensor) -> Tensor:
    """Blades and cushions of moss growing in the strokes."""
    s = scene.source
    near, second, numbers = voronoi(s, s.whole(8, 12), 1.0, (3 * s.noise(6, 1.2), 3 * s.noise(6, 1.2)))
    blades = strands(s, 2.5 * s.noise(20, 1.6), 2.2, 8.0)
    edge = scene.distance + 1.6 * blades + 1.2 * (numbers[:, :1] - 0.5) * 2
    body = step(edge, 0.0, 1.6)
    tuft = dome(second - near + 1, 6.0)
    colour = mix(darker(scene.ink, 0.4), scene.ink2, (0.3 + 0.35 * tuft + 0.28 * blades * 0.8).clamp(0, 1))
    diffuse, _ = shade(scene.cushion.clamp(max=10) * 0.6, scene.light)
    return over(
        darker(ground, 0.55 * scene.shadow(4.0, 4.0)),
        colour * (0.6 + 0.5 * diffuse) * (0.75 + 0.5 * numbers[:, 1:2]),
        body,
    )


def balloon(scene: Scene, ground: Tensor) -> Tensor:
    """Foil or rubber blown up: broad highlights, reflected light from below, a soft shadow."""
    s = scene.source
    height = blur(scene.cushion, 1.2) * 1.3
    diffuse, gloss = shade(height, scene.light, 36.0)
    below = scene.light * torch.tensor([-1.0, -1.0, 0.6], device=s.device).view(1, 3, 1, 1)
    back, _ = shade(height, below / below.norm(dim=1, keepdim=True))
    body = scene.ink * (0.3 + 0.62 * diffuse) + 0.2 * back.clamp(0, 1.5) * scene.ink2 * (
        1 - diffuse.clamp(0, 1)
    )
    return over(darker(ground, 0.45 * scene.shadow(9.0, 6.0)), body + 0.95 * gloss, cover(scene.distance))


def glitter(scene: Scene, ground: Tensor) -> Tensor:
    """Sequins: small discs, each at its own angle to the light."""
    s = scene.source
    near, _, numbers = voronoi(s, s.whole(6, 9), 0.55)
    disc = step(3.6 - near, 0.0, 1.4)
    spark = numbers[:, :1] ** 4
    colour = mix(darker(scene.ink, 0.45), lighter(scene.ink, 0.25), numbers[:, 1:2])
    colour = mix(colour, scene.ink2, step(numbers[:, 2:], 0.72, 0.2))
    body = colour * (0.55 + 0.45 * disc) + 1.1 * spark * disc
    return over(
        darker(ground, 0.45 * scene.shadow(3.0, 3.0)),
        body,
        cover(scene.distance + 1.2 * (numbers[:, 2:] - 0.5)),
    )


def knit(scene: Scene, ground: Tensor) -> Tensor:
    """A jumper: rows of stitches, the glyph knitted in another colour."""
    s = scene.source
    x, y = grid(s.size, s.device)
    wide = s.uniform(7.0, 9.0)
    column = (x / wide).floor()
    u = x / wide - column - 0.5
    v = (y + 1.5 * s.noise(60, 2) + u.abs() * wide * 0.9) / (wide * 0.8)
    row = v.floor()
    w = v - row - 0.5
    px, py = (column + 0.5) * wide, (row + 0.15) * wide * 0.8
    inside = moved(blur(scene.mask, 1.2), px - x, py - y)
    loop = (1 - (2 * w) ** 2).clamp(min=0).sqrt() * (1 - (2 * (u.abs() - 0.25) / 0.55) ** 2).clamp(
        min=0.02
    ).sqrt()
    fluff = s.noise(1.8, 0.9)
    yarn = mix(mix(scene.ground, scene.ground2, 0.15 * (row.remainder(2))), scene.ink, step(inside, 0.5, 0.3))
    return yarn * (0.42 + 0.62 * loop) * (1 + 0.06 * fluff)


CRAFTS = {
    "paper-cut": paper_cut,
    "embroidery": embroidery,
    "denim": denim_patch,
    "wood": carved_wood,
    "mother-of-pearl": mother_of_pearl,
    "fur": fur,
    "moss": moss,
    "balloon": balloon,
    "sequin": glitter,
    "knitted": knit,
}
