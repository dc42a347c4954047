"""What glyphs lie on: each function gives (batch, 3, h, w) in 0..1 from a scene's ground colours."""

from collections.abc import Callable

import torch
from torch import Tensor

from .fields import blur, grid, mix, shade, step, strands, voronoi
from .scene import Scene, darker, lighter


def plain(scene: Scene) -> Tensor:
    return scene.ground.expand(-1, -1, scene.source.size, scene.source.size)


def paper(scene: Scene) -> Tensor:
    """Rice paper: fine fibres, a slightly uneven tone."""
    s = scene.source
    fibres = strands(s, 3 * s.noise(40, 2), 2.0, 16.0, 4)
    tone = 0.018 * s.noise(60, 2) + 0.016 * s.noise(2.0, 1.2) + s.uniform(0.004, 0.02) * fibres
    return scene.ground + tone


def gradient(scene: Scene) -> Tensor:
    x, y = grid(scene.source.size, scene.source.device)
    angle = scene.source.angle()
    t = ((x - 128) * angle.cos() + (y - 128) * angle.sin()) / 256 + 0.5
    return mix(scene.ground, scene.ground2, t.clamp(0, 1)) + 0.008 * scene.source.noise(1.5, 1)


def silk(scene: Scene) -> Tensor:
    """Folds of smooth cloth in the light."""
    s = scene.source
    folds = s.noise(s.uniform(35, 70), 3.2, 2.5, s.angle())
    diffuse, gloss = shade(folds * s.uniform(6, 12), scene.light, 12.0)
    base = mix(scene.ground, scene.ground2, (0.5 + 0.25 * folds).clamp(0, 1))
    return base * (0.45 + 0.55 * diffuse) + 0.22 * gloss + 0.012 * s.noise(1.2, 0.6)


def lacquer(scene: Scene) -> Tensor:
    """Polished lacquer: a soft reflection and a breath of dust."""
    s = scene.source
    x, y = grid(s.size, s.device)
    cx, cy = s.uniform(0, 256), s.uniform(-80, 60)
    glow = torch.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * s.uniform(90, 160) ** 2))
    return (
        lighter(darker(scene.ground, 0.12), 0.0)
        + 0.22 * glow * lighter(scene.ground, 0.4)
        + 0.012 * s.noise(30, 2)
    )


def weave(scene: Scene) -> Tensor:
    """Linen: threads over and under."""
    s = scene.source
    x, y = grid(s.size, s.device)
    pitch = s.uniform(5.0, 8.0)
    bend = 1.2 * s.noise(24, 2)
    a, b = torch.pi * (x + bend) / pitch, torch.pi * (y + bend) / pitch
    above = (a.sin() * b.sin() > 0).float()
    height = mix(a.cos().abs(), b.cos().abs(), above) * (1 + 0.2 * s.noise(3, 1, 6))
    colour = mix(scene.ground, scene.ground2, above * s.uniform(0.15, 0.5))
    return colour * (0.72 + 0.33 * height) + 0.02 * s.noise(2, 1)


def denim(scene: Scene) -> Tensor:
    """Twill: slanting ribs of dyed thread over white, faded in patches."""
    s = scene.source
    x, y = grid(s.size, s.device)
    pitch = s.uniform(5.0, 7.0)
    phase = (x + y * s.uniform(0.8, 1.2) + 0.8 * s.noise(12, 1.5)) / pitch
    rib = 0.5 + 0.5 * (2 * torch.pi * phase).cos()
    cross = 0.5 + 0.5 * (2 * torch.pi * y / pitch * 1.3).cos()
    fade = (0.3 * s.noise(50, 2) + 0.25).clamp(0, 1)
    colour = mix(scene.ground, lighter(scene.ground, 0.65), (0.55 * rib * cross + fade * 0.35).clamp(0, 1))
    return colour * (0.86 + 0.1 * rib) + 0.03 * s.noise(1.5, 0.8)


def wood(scene: Scene) -> Tensor:
    """Boards: rings cut lengthwise, fine pores."""
    s = scene.source
    x, y = grid(s.size, s.device)
    angle = torch.where(s.chance(0.5) > 0, s.uniform(-0.08, 0.08), torch.pi / 2 + s.uniform(-0.08, 0.08))
    u = (x - 128) * angle.cos() + (y - 128) * angle.sin()
    v = (y - 128) * angle.cos() - (x - 128) * angle.sin()
    bend = s.noise(110, 2.6, 4.0, angle)
    rings = (v / s.uniform(7, 13) + s.uniform(1.2, 3.0) * bend + 0 * u).mul(2 * torch.pi).sin()
    rings = 0.5 + 0.5 * rings.sign() * rings.abs() ** 0.7
    pores = s.noise(3, 1.6, 14.0, angle)
    colour = mix(scene.ground, scene.ground2, 0.75 * rings)
    return colour + 0.035 * pores + 0.03 * s.noise(60, 2)


def brick(scene: Scene) -> Tensor:
    """A wall in the dark."""
    s = scene.source
    x, y = grid(s.size, s.device)
    high = s.uniform(22, 32)
    row = (y / high).floor()
    u = x / (2.1 * high) + 0.5 * row.remainder(2)
    du, dv = (u - u.floor()) * 2.1 * high, y - row * high
    edge = torch.minimum(torch.minimum(du, 2.1 * high - du), torch.minimum(dv, high - dv))
    body = step(edge + 0.8 * s.noise(5, 1.5), 2.2, 2.0)
    tone = torch.sin(row * 12.9 + u.floor() * 78.2 + 3) * 0.5
    colour = scene.ground * (1 + 0.3 * tone + 0.22 * s.noise(6, 1.2))
    return mix(darker(scene.ground2, 0.35), colour, body)


def slate(scene: Scene) -> Tensor:
    """A blackboard, wiped."""
    s = scene.source
    wiped = s.noise(30, 2, 5, s.uniform(-0.4, 0.4))
    dust = s.noise(4, 1.0, 3, s.uniform(-0.4, 0.4))
    return lighter(scene.ground, (0.05 + 0.05 * wiped + 0.022 * dust).clamp(0, 1)) + 0.012 * s.noise(1, 0.3)


def rock(scene: Scene) -> Tensor:
    """Rough stone in slanting light."""
    s = scene.source
    height = 5 * s.noise(50, 2) + s.uniform(0.8, 1.8) * s.noise(10, 1.4)
    diffuse, _ = shade(height, scene.light)
    colour = mix(scene.ground, scene.ground2, (0.5 + 0.35 * s.noise(18, 1.5)).clamp(0, 1))
    return colour * (0.25 + 0.75 * diffuse)


def cracked(scene: Scene) -> Tensor:
    """Dry earth or old glaze: plates with dark cracks."""
    s = scene.source
    warp = (5 * s.noise(30, 2), 5 * s.noise(30, 2))
    near, second, numbers = voronoi(s, s.whole(26, 48), 0.95, warp)
    crack = 1 - step(second - near, 1.0, 2.4)
    colour = mix(scene.ground, scene.ground2, 0.5 * numbers[:, :1])
    return mix(colour + 0.03 * s.noise(8, 1.4), darker(scene.ground, 0.7), crack * 0.85)


def stars(scene: Scene) -> Tensor:
    """A night sky: stars, a band of mist."""
    s = scene.source
    mist = (0.5 + 0.5 * s.noise(60, 2.2, 2.5, s.angle())).clamp(0, 1)
    sky = mix(darker(scene.ground, 0.25), scene.ground2, 0.75 * mist**2)
    near, _, numbers = voronoi(s, 11, 1.0)
    bright = (numbers[:, :1] ** 5) * torch.exp(-(near**2) / (0.5 + 1.6 * numbers[:, 1:2] ** 3))
    return sky + 0.015 * s.noise(3, 1) + 1.2 * bright


def glaze(scene: Scene) -> Tensor:
    """Porcelain: a white, glossy, faintly uneven glaze."""
    s = scene.source
    x, y = grid(s.size, s.device)
    round_off = 1 - 0.1 * (((x - 128) / 150) ** 2 + ((y - 118) / 150) ** 2)
    _, gloss = shade(3 * s.noise(70, 2.6), scene.light, 50.0)
    speckle = step(s.noise(2.2, 1.2), 3.0, 0.6) * 0.3
    return (scene.ground + 0.012 * s.noise(20, 2)) * round_off + 0.16 * gloss - speckle * 0.5


def water(scene: Scene) -> Tensor:
    """Ripples with light on them."""
    s = scene.source
    waves = s.noise(16, 3.0, 3.0, s.uniform(-0.3, 0.3))
    diffuse, gloss = shade(waves * s.uniform(1.5, 3), scene.light, 30.0)
    return (
        mix(scene.ground, scene.ground2, (0.5 + 0.3 * waves).clamp(0, 1)) * (0.6 + 0.4 * diffuse)
        + 0.5 * gloss
    )


def dots(scene: Scene) -> Tensor:
    """Printed dots or seigaiha-like rows on a plain ground."""
    s = scene.source
    x, y = grid(s.size, s.device)
    pitch = s.uniform(13, 26)
    row = (y / pitch).floor()
    u = x / pitch + 0.5 * row.remainder(2)
    far = (((u - u.floor() - 0.5) ** 2) + ((y / pitch - row - 0.5) ** 2)).sqrt() * pitch
    dot = 1 - step(far, pitch * s.uniform(0.16, 0.3), 1.3)
    return mix(scene.ground, scene.ground2, dot) + 0.008 * s.noise(2, 1)


def stripes(scene: Scene) -> Tensor:
    s = scene.source
    x, y = grid(s.size, s.device)
    angle = s.angle()
    wave = (2 * torch.pi * (x * angle.cos() + y * angle.sin()) / s.uniform(13, 34)).sin()
    return mix(scene.ground, scene.ground2, step(wave, 0.0, 0.35)) + 0.008 * s.noise(2, 1)


def clouds(scene: Scene) -> Tensor:
    """Soft colour, as light out of focus."""
    s = scene.source
    return mix(scene.ground, scene.ground2, (0.5 + 0.38 * s.noise(70, 2.6)).clamp(0, 1)) + 0.01 * s.noise(
        2, 1
    )


def leaves(scene: Scene) -> Tensor:
    """Foliage: layers of leaves, the lower ones in shade."""
    s = scene.source
    x, y = grid(s.size, s.device)
    picture = darker(scene.ground, 0.6) + 0.02 * s.noise(4, 1)
    count = s.whole(14, 22)
    for index in range(count):
        depth = index / count
        cx, cy, turn = s.uniform(-10, 266), s.uniform(-10, 266), s.angle()
        long, wide = s.uniform(28, 56), s.uniform(0.3, 0.55)
        u = ((x - cx) * turn.cos() + (y - cy) * turn.sin()) / long
        v = ((y - cy) * turn.cos() - (x - cx) * turn.sin()) / long
        inside = step(wide * (1 - u**2) - v.abs(), 0.0, 0.06)
        vein = torch.exp(-((v * long) ** 2) / 1.6) + 0.3 * (14 * (u.abs() + 0.7 * v.abs())).cos() ** 8
        light = 0.3 + 0.7 * depth + 0.25 * v / wide * s.uniform(-1, 1)
        colour = mix(scene.ground, scene.ground2, s.uniform()) * light
        picture = mix(
            darker(picture, 0.25 * step(wide * (1 - u**2) - v.abs() + 0.12, 0.0, 0.2)),
            lighter(colour, 0.2 * vein),
            inside,
        )
    return picture


def spectrum(scene: Scene) -> Tensor:
    """Noise with the spectrum of natural pictures, its colours mixed at random between the two."""
    s = scene.source
    slope = s.uniform(1.0, 2.2).mean().item()
    first, second, third = (
        s.noise(s.uniform(20, 120), slope, s.uniform(1, 2.5), s.angle()) for _ in range(3)
    )
    base = mix(scene.ground, scene.ground2, (0.5 + 0.4 * first).clamp(0, 1))
    return base + 0.1 * s.uniform(0.3, 1) * second + 0.06 * s.uniform(-1, 1, 3) * third


def labyrinth(scene: Scene) -> Tensor:
    """What reaction and diffusion make: spots and winding stripes of one width."""
    s = scene.source
    wide = s.uniform(5, 11)
    band = s.white()
    band = blur(band, wide * 0.28) - blur(band, wide * 0.62)
    band = band / (band.std((2, 3), keepdim=True) + 1e-6)
    return mix(scene.ground, scene.ground2, step(band, s.uniform(-0.8, 0.8), 0.6)) + 0.02 * s.noise(6, 1.4)


def bokeh(scene: Scene) -> Tensor:
    """Lights out of focus."""
    s = scene.source
    x, y = grid(s.size, s.device)
    picture = mix(scene.ground, darker(scene.ground, 0.5), (0.5 + 0.4 * s.noise(80, 2.6)).clamp(0, 1))
    for _ in range(s.whole(10, 22)):
        radius = s.uniform(7, 26)
        far = ((x - s.uniform(0, 256)) ** 2 + (y - s.uniform(0, 256)) ** 2).sqrt()
        disc = step(radius - far, 0.0, 2.0 + 0.2 * radius)
        lamp = mix(scene.ground2, lighter(scene.ground2, 0.6), s.uniform()) + 0.25 * s.uniform(-1, 1, 3)
        picture = mix(picture, lamp, disc * s.uniform(0.15, 0.65))
    return picture


def grass(scene: Scene) -> Tensor:
    """Blades, hair or straw, mostly one way."""
    s = scene.source
    angle = s.angle() + s.uniform(0.2, 0.9) * s.noise(30, 2)
    blades = strands(s, angle, 2.2, 26.0, 6)
    coarse = strands(s, angle + 0.3, 4.5, 40.0, 4)
    return mix(scene.ground, scene.ground2, (0.5 + 0.28 * blades + 0.2 * coarse).clamp(0, 1)) * (
        0.9 + 0.16 * blades
    )


def pebbles(scene: Scene) -> Tensor:
    """Round stones or grains, lit, dark between them."""
    s = scene.source
    near, second, numbers = voronoi(s, s.whole(13, 40), 0.9, (3 * s.noise(14, 2), 3 * s.noise(14, 2)))
    gap = second - near
    height = 4 * (1 - torch.exp(-gap / 4.0))
    diffuse, gloss = shade(height, scene.light, 12.0)
    colour = mix(scene.ground, scene.ground2, numbers[:, :1]) * (0.8 + 0.4 * numbers[:, 1:2])
    return (
        colour * (0.3 + 0.7 * diffuse) * step(gap, 1.0, 4.0).clamp(min=0.25)
        + 0.12 * gloss
        + 0.02 * s.noise(3, 1)
    )


GROUNDS: dict[str, Callable[[Scene], Tensor]] = {
    function.__name__: function
    for function in (
        plain, paper, gradient, silk, lacquer, weave, denim, wood, brick, slate, rock, cracked, stars, glaze, water,
        dots, stripes, clouds, leaves, spectrum, labyrinth, bokeh, grass, pebbles,
    )
}  # fmt: skip
