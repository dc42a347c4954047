"""What a material sees: the glyph, its distance field, the light and four colours, for a batch of pictures."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .fields import Source, blur, dome, mix, moved, slopes, step, thickness


@dataclass
class Scene:
    """Everything (batch, channels, h, w) or (batch, channels, 1, 1); colours are sRGB in 0..1.

    mask: the glyph's coverage, 0..1. distance: px to the glyph's edge, positive inside. light: a unit vector to the
    light, x to the right, y down, z to the viewer. ink, ink2: the glyph's main and second colour; ground, ground2.
    """

    source: Source
    mask: Tensor
    distance: Tensor
    light: Tensor
    ink: Tensor
    ink2: Tensor
    ground: Tensor
    ground2: Tensor

    @cached_property
    def radius(self) -> Tensor:
        """Half the stroke's width, in px."""
        return thickness(self.distance)

    @cached_property
    def cushion(self) -> Tensor:
        """Height of round strokes in px, as half as high as wide."""
        return dome(self.distance, self.radius) * self.radius

    @cached_property
    def along(self) -> Tensor:
        """The direction of the strokes in radians, a direction without sense: across the slope of the distance."""
        across, down = slopes(blur(self.distance.clamp(-12, 12), 2.0))
        # the two sides of a stroke have opposite slopes: average the doubled angle
        double = torch.atan2(down, across) * 2
        size = (across**2 + down**2).sqrt()
        return torch.atan2(blur(size * double.sin(), 3.0), blur(size * double.cos(), 3.0)) / 2 + torch.pi / 2

    def rough(self, amount: Tensor | float, scale: float, slope: float = 1.5) -> Tensor:
        """The distance field with edges roughened by noise, amount in px."""
        return self.distance + amount * self.source.noise(scale, slope)

    def shadow(self, length: Tensor | float, soft: Tensor | float) -> Tensor:
        """0..1: where the glyph, raised over the ground, keeps the light off; length and softness in px."""
        away = -self.light[:, :2] / (self.light[:, :2].norm(dim=1, keepdim=True) + 1e-6)
        return blur(moved(self.mask, -away[:, :1] * length, -away[:, 1:] * length), soft).clamp(0, 1)


def cover(distance: Tensor, soft: Tensor | float = 1.0) -> Tensor:
    """Coverage 0..1 of the inside of a distance field."""
    return step(distance, 0.0, 1.0 + soft)


def random_light(source: Source) -> Tensor:
    """From above, mostly from the upper left."""
    angle = source.uniform(-2.9, -1.2)
    height = source.uniform(0.75, 1.3)
    light = torch.cat([angle.cos(), angle.sin(), height], 1)
    return light / light.norm(dim=1, keepdim=True)


def lighter(colour: Tensor, share: Tensor | float) -> Tensor:
    """Towards white."""
    return colour + (1 - colour) * share


def darker(colour: Tensor, share: Tensor | float) -> Tensor:
    """Towards black."""
    return colour * (1 - share)


def luminance(rgb: Tensor) -> Tensor:
    """(batch, 1, h, w): how light a colour looks, 0..1."""
    weights = torch.tensor([0.3, 0.59, 0.11], device=rgb.device).view(1, 3, 1, 1)
    return (rgb * weights).sum(1, keepdim=True)


def over(ground: Tensor, ink: Tensor, cover: Tensor) -> Tensor:
    """The ink laid on the ground."""
    return mix(ground, ink, cover)
