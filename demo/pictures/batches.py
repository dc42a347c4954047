"""Random training pictures: which glyph in which style with which elements, and what is known of them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .elements import ELEMENTS, element_layer
from .families import FAMILIES, MATERIALS, named_styles
from .fields import SIZE, Source
from .glyph_masks import random_glyph, signed_distance
from .grounds import GROUNDS
from .render import Style, own_style, scene_of, textured
from .scene import Scene, cover

Array = np.ndarray
TEXTURED = "textured"  # the family of glyphs and shapes that show a ground: what stands for photographs
FAMILY_NAMES = (*FAMILIES, TEXTURED)
SELF_CONTAINED = ("mosaic", "stained glass", "knitted", "celadon", "carved stone")  # draw their own ground
SHARED_STYLES = {"black on white": 0.08, "named": 0.34, "random": 0.34, "textured": 0.15, "natural": 0.09}
FAINT = 0.13  # pictures whose glyph and ground differ less (RGB, mean) are thrown away


@dataclass(frozen=True)
class Plan:
    """How a batch is drawn. inner: the ground that fills the glyph (family "textured"); natural: no glyph at all."""

    style: Style
    inner: str = ""
    natural: bool = False
    exact: bool = False  # black on white, as glyph pictures are


@dataclass
class Pictures:
    """A drawn batch. pictures (n, 3, 256, 256), masks and elements' coverage (n, 1, 256, 256), all 0..1 float32;
    distances (n, 1, 256, 256) in px; kinds: names of each picture's elements.
    """

    pictures: Tensor
    masks: Tensor
    distances: Tensor
    elements: Tensor
    kinds: list[tuple[str, ...]]
    plan: Plan

    def keep(self, rows: Tensor) -> "Pictures":
        """The pictures where rows is true."""
        kinds = [kind for kind, wanted in zip(self.kinds, rows.tolist()) if wanted]
        parts = (self.pictures, self.masks, self.distances, self.elements)
        return Pictures(*(part[rows] for part in parts), kinds, self.plan)


def random_plan(rng: np.random.Generator) -> Plan:
    """A style for one batch."""
    chance = str(rng.choice(list(SHARED_STYLES), p=list(SHARED_STYLES.values())))
    grounds = list(GROUNDS)

    def any_ground() -> str:
        return grounds[rng.integers(len(grounds))]

    if chance == "black on white":
        return Plan(own_style("plain"), exact=True)
    if chance == "named":
        family, palette = named_styles()[rng.integers(len(named_styles()))]
        return Plan(Style(family, FAMILIES[family].ground, palette))
    if chance == "random":
        family = list(FAMILIES)[rng.integers(len(FAMILIES))]
        return Plan(Style(family, FAMILIES[family].ground if rng.random() < 0.5 else any_ground(), None))
    return Plan(Style(TEXTURED, any_ground(), None), any_ground(), chance == "natural")


def random_kinds(rng: np.random.Generator) -> tuple[str, ...]:
    """No element (62 %), one (28 %) or two."""
    count = int(rng.choice(3, p=(0.62, 0.28, 0.1)))
    return tuple(str(kind) for kind in rng.choice(ELEMENTS, count, replace=False))


def natural_mask(rng: np.random.Generator) -> Array:
    """A shape as photographs hold them: blobs, a horizon, discs; uint8 (256, 256)."""
    source = Source(int(rng.integers(1 << 31)), 1)
    field = source.noise(float(rng.uniform(12, 80)), float(rng.uniform(1.6, 3.2)))[0, 0].numpy()
    kind, (down, across) = rng.integers(3), np.mgrid[:SIZE, :SIZE] / SIZE
    if kind == 1:
        angle = rng.uniform(0, 2 * np.pi)
        field = 0.5 * field + 5 * (
            np.cos(angle) * (across - 0.5) + np.sin(angle) * (down - rng.uniform(0.3, 0.7))
        )
    if kind == 2:
        radius, x, y = rng.uniform(0.15, 0.42), *rng.uniform(0.3, 0.7, 2)
        field = 0.4 * field + 12 * (radius - np.hypot(across - x, down - y))
    level = np.quantile(field, rng.uniform(0.4, 0.85)) if kind == 0 else 0.0
    return (255 * np.clip((field - level) / rng.uniform(0.03, 0.6) + 0.5, 0, 1)).astype(np.uint8)


def paint(scene: Scene, ground: Tensor, plan: Plan) -> Tensor:
    if plan.style.family == TEXTURED:
        return textured(scene, ground, plan.inner).clamp(0, 1)
    return MATERIALS[plan.style.family](scene, ground).clamp(0, 1)


def draw(masks: Tensor, distances: Tensor, layers: Tensor, plan: Plan, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of a plan, and how much of each pixel its elements cover.

    masks, distances: (n, 1, h, w), 0..1 and px; layers: elements (n, 4, h, w), RGBA in 0..1.
    """
    scene = scene_of(masks, distances, plan.style, Source(seed, len(masks), masks.device, masks.shape[-1]))
    if plan.exact:
        scene.ink, scene.ground = torch.zeros_like(scene.ink), torch.ones_like(scene.ground)
    ground = GROUNDS[plan.style.ground](scene).clamp(0, 1)
    rgb, alpha = layers[:, :3], layers[:, 3:]
    pictures = paint(scene, ground + (rgb - ground) * alpha, plan)
    behind = alpha * (1 - cover(distances + 1.5))
    if plan.style.family in SELF_CONTAINED:
        pictures = pictures + (rgb - pictures) * behind
    return pictures, behind


def contrast(pictures: Tensor, masks: Tensor) -> Tensor:
    """(n,): distance of the mean colours (RGB) of glyph and ground."""
    inside = (pictures * masks).sum((2, 3)) / (masks.sum((2, 3)) + 1)
    outside = (pictures * (1 - masks)).sum((2, 3)) / ((1 - masks).sum((2, 3)) + 1)
    return (inside - outside).norm(dim=1)


def random_batch(rng: np.random.Generator, count: int = 4) -> Pictures:
    """Up to `count` pictures of one random plan, drawn on the CPU; faint ones are left out."""
    plan, seed = random_plan(rng), int(rng.integers(1 << 31))
    kinds = [() if plan.natural else random_kinds(rng) for _ in range(count)]
    drawn = [natural_mask(rng) if plan.natural else random_glyph(rng)[2] for _ in range(count)]
    masks = torch.from_numpy(np.stack(drawn) / np.float32(255))[:, None]
    distances = torch.from_numpy(np.stack([signed_distance(mask) for mask in drawn]))[:, None]
    empty = np.zeros((SIZE, SIZE, 4), np.uint8)
    layers = np.stack([element_layer(kind, rng) if kind else empty for kind in kinds])
    rgba = torch.from_numpy(layers).permute(0, 3, 1, 2).float() / 255
    pictures, elements = draw(masks, distances, rgba, plan, seed)
    if plan.natural and rng.random() < 0.7:  # light that differs over the picture, as in photographs
        source = Source(seed + 1, count)
        pictures = (pictures * (1 + 0.25 * source.noise(90, 2.8))).clamp(0, 1)
    found = Pictures(pictures, masks, distances, elements, kinds, plan)
    return found.keep(contrast(pictures, masks) > FAINT)


def halved(images: Tensor) -> Tensor:
    """Half the size, by averaging."""
    return nn.functional.avg_pool2d(images, 2)
