"""Materials put on with a brush, a roller or a press. Each function: (scene, ground) -> picture, (batch, 3, h, w)."""

import torch
from torch import Tensor

from .fields import blur, dome, grid, mix, moved, shade, step, strands
from .scene import Scene, cover, darker, lighter, luminance, over


def plain(scene: Scene, ground: Tensor) -> Tensor:
    return over(ground, scene.ink, scene.mask)


def ink_wash(scene: Scene, ground: Tensor) -> Tensor:
    """Sumi ink: edges that bleed along the fibres, dry streaks, a paler second wash round the strokes."""
    s = scene.source
    fibre = strands(s, 3 * s.noise(40, 2), 2.0, 14.0, 4)
    edge = scene.distance + s.uniform(0.4, 1.3) * fibre + s.uniform(0.3, 1.0) * s.noise(8, 1.4)
    body = step(edge, 0.0, s.uniform(1.6, 4.0))
    wet = step(scene.distance + 6 * s.noise(22, 2), -s.uniform(3, 9), s.uniform(5, 12))
    tone = (0.86 + 0.16 * s.noise(18, 1.8)).clamp(0.4, 1)
    dry = step(strands(s, scene.along, 2.0, 30.0) + s.uniform(0.9, 2.2), 0.0, 0.7)
    paint = mix(lighter(scene.ink, 0.35), darker(scene.ink, 0.25), tone)
    washed = over(ground, lighter(scene.ink, 0.45), wet * s.uniform(0.12, 0.38))
    return over(washed, paint, body * (0.55 + 0.45 * dry))


def watercolour(scene: Scene, ground: Tensor) -> Tensor:
    """Pigment gathered at the edges, blooms, granulation; two colours run into each other."""
    s = scene.source
    edge = scene.distance + 0.9 * s.noise(9, 1.4)
    body = step(edge, 0.0, 1.6)
    rim = torch.exp(-((edge.clamp(min=0) / s.uniform(1.4, 2.6)) ** 2))
    run = step(s.noise(40, 2.2), 0.0, 1.6)
    bloom = s.noise(20, 1.8)
    depth = (0.62 + 0.16 * bloom + 0.34 * rim + 0.07 * s.noise(2.0, 0.8)).clamp(0.15, 1.1)
    pigment = mix(scene.ink, scene.ink2, run)
    dark = step(luminance(scene.ground) - luminance(scene.ink), -0.05, 0.3)
    # colour through paint: light is taken away, the more the deeper
    through = pigment.clamp(0.03, 0.97) ** (1.25 * depth)
    splash = step(s.noise(34, 2.4) - 2.2, 0.0, 0.4) * 0.35
    paint = mix(pigment * (1.1 - 0.3 * depth), ground * through, dark)  # on a dark ground paint covers
    return over(over(ground, ground * lighter(scene.ink2, 0.35), splash * dark), paint, body)


def woodblock(scene: Scene, ground: Tensor) -> Tensor:
    """Printed from a cut block: grain in the colour, chipped edges, a bokashi from dark to light."""
    s = scene.source
    angle = s.uniform(-0.1, 0.1)
    grain = s.noise(3.5, 1.8, 16.0, angle)
    edge = scene.distance + 0.35 * s.noise(3, 1) + 0.35 * grain
    body = step(edge, 0.0, 1.3)
    y = grid(s.size, s.device)[1]
    fade = mix(scene.ink, scene.ink2, ((y - 40) / 176).clamp(0, 1) * s.uniform(0.0, 0.9))
    worn = step(grain + s.uniform(1.0, 1.9), 0.0, 0.9)
    return over(ground, fade * (1 + 0.06 * grain), body * (0.35 + 0.65 * worn))


def chalk(scene: Scene, ground: Tensor) -> Tensor:
    """Chalk on a rough board: grains of board show through, dust round the strokes."""
    s = scene.source
    tooth = s.noise(2.6, 1.1)
    streak = strands(s, scene.along, 2.2, 18.0)
    edge = scene.distance + 0.9 * tooth + 0.4 * streak
    body = step(edge, 0.4, 2.2) * step(tooth * 0.8 + streak * 0.7 + s.uniform(0.7, 1.3), 0.0, 1.0)
    dust = blur(scene.mask, 7.0) * 0.16
    return over(over(ground, scene.ink, dust), lighter(scene.ink, 0.1) - 0.05 * tooth, body * 0.93)


def riso(scene: Scene, ground: Tensor) -> Tensor:
    """Two inks printed one after the other: flat and screened, a little out of register."""
    s = scene.source
    x, y = grid(s.size, s.device)
    angle, pitch = s.uniform(0.2, 1.3), s.uniform(6.5, 9.0)
    u = (x * angle.cos() + y * angle.sin()) / pitch * 2 * torch.pi
    v = (y * angle.cos() - x * angle.sin()) / pitch * 2 * torch.pi
    screen = (u.cos() + v.cos()) / 4 + 0.5
    grain = s.noise(1.2, 0.6)
    right, down = s.uniform(-5, 5), s.uniform(-5, 5)
    second = moved(scene.distance, right, down)
    tone = (0.25 + (y / 256) * 0.55).expand_as(scene.mask)
    halftone = step(tone - screen + 0.02 * grain, 0.0, 0.2) * cover(second + 0.2 * grain)
    speck = step(grain + 2.3, 0.0, 0.8)
    flat = cover(scene.distance + 0.25 * grain) * (0.86 + 0.14 * speck)
    sheet = over(ground, mix(ground * scene.ink2, scene.ink2, 0.6), halftone * 0.92)
    return over(sheet, scene.ink * mix(torch.ones_like(scene.ink2), scene.ink2, 0.35 * halftone), flat * 0.94)


def oil(scene: Scene, ground: Tensor) -> Tensor:
    """Thick oil paint: bristle marks along the strokes, ridges in the light, a canvas painted too."""
    s = scene.source
    marks = strands(s, scene.along, 3.4, 26.0)
    field = strands(s, 1.5 * s.noise(60, 2.4), 4.0, 24.0)
    body = step(scene.distance + 0.7 * marks, 0.0, 1.6)
    height = mix(0.9 * field, 1.1 * marks + 2.2 * dome(scene.distance, 6.0), body)
    diffuse, gloss = shade(height, scene.light, 25.0)
    back = mix(ground, scene.ground2, (0.5 + 0.35 * field).clamp(0, 1) * 0.7)
    front = mix(scene.ink, scene.ink2, (0.35 + 0.42 * marks).clamp(0, 1))
    return over(back, front, body) * (0.5 + 0.5 * diffuse) + 0.22 * gloss


def porcelain(scene: Scene, ground: Tensor) -> Tensor:
    """Cobalt under glaze: washes in three depths, dark pools at the outline, blurred by the glaze."""
    s = scene.source
    soft = scene.distance + 0.6 * s.noise(10, 1.6)
    body = step(soft, 0.0, 2.6)
    outline = torch.exp(-(((soft - 1.8) / 1.7) ** 2))
    tone = (0.42 + 0.22 * s.noise(14, 1.8) + 0.55 * outline).clamp(0.12, 1.0)
    cobalt = mix(lighter(scene.ink, 0.5), darker(scene.ink, 0.35), tone)
    halo = step(scene.distance + 3 * s.noise(16, 2), -6.0, 9.0) * 0.12
    _, gloss = shade(blur(scene.mask, 2.0) * 1.5 + 3 * s.noise(80, 2.6), scene.light, 40.0)
    return over(over(ground, scene.ink2, halo), cobalt, body) + 0.1 * gloss


def graffiti(scene: Scene, ground: Tensor) -> Tensor:
    """Spray paint: fog round the strokes, a dark outline, drips, a highlight."""
    s = scene.source
    y = grid(s.size, s.device)[1]
    drip = s.noise(5, 2.2, 1.0)[..., :1, :].expand_as(scene.mask)
    run = blur(moved(scene.mask, 0 * drip, -(6 + 9 * drip).clamp(min=0)), 0.8) * step(drip, 1.0, 0.5)
    fog = blur(scene.mask, 9.0)
    fill = mix(scene.ink, scene.ink2, ((y - 50) / 150 + 0.25 * s.noise(30, 2)).clamp(0, 1))
    outline = cover(scene.distance + s.uniform(3.0, 5.0), 1.0)
    sheet = over(ground, scene.ink2, (fog * (0.6 + 0.25 * s.noise(1.2, 0.5))).clamp(0, 1) * 0.8)
    sheet = over(sheet, scene.ground2, torch.maximum(outline, run * 0.9))
    picture = over(sheet, fill, cover(scene.distance - 0.2))
    shine = cover(
        moved(scene.distance, scene.light[:, :1] * -2, scene.light[:, 1:2] * -2) - scene.radius * 0.62
    )
    return over(picture, lighter(scene.ink, 0.85), shine * 0.8)


PAINTS = {
    "plain": plain,
    "ink wash": ink_wash,
    "watercolour": watercolour,
    "woodblock": woodblock,
    "chalk": chalk,
    "riso print": riso,
    "oil paint": oil,
    "porcelain": porcelain,
    "graffiti": graffiti,
}
