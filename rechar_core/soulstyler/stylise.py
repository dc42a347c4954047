"""The CLIP-guided engine: fits a small U-Net to one picture so that the object approaches the style text in CLIP space.

Soulstyler (arXiv 2311.13562) as in its code, with three differences: crops are chosen with an integral image of the
mask, the t of its README multiplies the background loss, and pixels outside the mask are restored bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..device import MOST_SEED
from ..errors import ImageError, RecipeError
from . import crops, losses
from .compositing import composite, fit_mask
from .guide import Guide
from .network import StyleNet
from .templates import SOURCE, sentences

_LEAST, _MOST = 0.8, 0.1  # of the object, in an object crop and in a background crop
_DISTORTION, _THRESHOLD = 0.5, 0.7
_SMALLEST = 16  # pixels: VGG's four poolings


@dataclass(frozen=True)
class StyleRecipe:
    """Settings of the restyling. The weights of the losses are the published ones.

    t: how strongly the surroundings are held, 0 = not at all. steps: of Adam; its rate halves every 100.
    crops: a step, of crop_size pixels squared. resolution: pixels of the shorter side while fitting; a larger picture
    is drawn at its own size at the end.
    """

    style: str
    t: float = 0.7
    steps: int = 201
    learning_rate: float = 5e-4
    crops: int = 64
    crop_size: int = 64
    resolution: int = 512
    seed: int = 0
    patch: float = 9000.0
    content: float = 150.0
    smoothness: float = 0.002
    background: float = 150.0

    def __post_init__(self) -> None:
        if not self.style.strip():
            raise RecipeError("The style is empty; say one, for example 'cubism'.")
        ranges = {
            "t": (0, 100),
            "steps": (1, 10_000),
            "learning_rate": (1e-7, 1),
            "crops": (1, 1024),
            "crop_size": (8, 1024),
            "resolution": (_SMALLEST, 4096),
            "seed": (0, MOST_SEED),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise RecipeError(f"{name} is {getattr(self, name)}; it must be from {low} to {high}.")


def sweep_recipes(styles: str, seeds: str, **settings: Any) -> list[list[StyleRecipe]]:
    """A row of recipes for each style (one per line), a column for each seed ("0, 1, 2").

    Raises RecipeError if there is no style, a seed is not a whole number, or there are more than 256 in all.
    """
    names = [line.strip() for line in styles.splitlines() if line.strip()]
    try:
        numbers = [int(part) for part in re.split(r"[,;，、；\s]", seeds) if part]
    except ValueError:
        raise RecipeError(f"'{seeds}' is no list of seeds; write whole numbers, like 0, 1, 2.") from None
    if not 1 <= len(names) * len(numbers) <= 256:
        raise RecipeError(
            f"{len(names)} styles and {len(numbers)} seeds; give at least one of each, 256 pairs at most."
        )
    return [[StyleRecipe(name, seed=seed, **settings) for seed in numbers] for name in names]


@dataclass(frozen=True)
class StyleStep:
    """The result of one step. loss: the total; parts: weighted losses by name; picture (1, 3, h, w)."""

    loss: float
    parts: dict[str, float]
    picture: Tensor


class Stylisation:
    """Restyles one picture. It has its own random generator: the same seed gives the same picture.

    image: (1, 3, H, W) in 0..1; mask: (H, W) in 0..1, not empty. Works inside the host's inference_mode.
    """

    def __init__(self, guide: Guide, image: Tensor, mask: Tensor, recipe: StyleRecipe):
        self.guide, self.recipe = guide, recipe
        with torch.inference_mode(False):
            self.image = image.detach().to(guide.device, torch.float32).clone()
            self.source = _within(self.image, recipe.resolution)
            size = self.source.shape[-2:]
            mask = mask.detach().clone().float().cpu()
            mask = F.interpolate(mask[None, None], tuple(size), mode="area")[0, 0]
            self.generator = torch.Generator().manual_seed(recipe.seed)
            self.network = StyleNet(self.generator).to(guide.device)
            self.optimizer = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate)
            self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizer, step_size=100, gamma=0.5)
            self.side = min(recipe.crop_size, *size)
            self.coverage = crops.coverage(mask, self.side)
            with torch.no_grad():
                self.content = guide.vgg(self.source)
                self.embedding = guide.see_whole(self.source)
                style, photo = (guide.read(sentences(text)) for text in (recipe.style, SOURCE))
                self.direction = style - photo

    def steps(self) -> Iterator[StyleStep]:
        """Runs the steps; to cancel, stop iterating."""
        for _ in range(self.recipe.steps):
            yield self._step()

    def result(self) -> Tensor:
        """The network's current output for the whole picture at its own size, (1, 3, H, W) in 0..1."""
        with torch.inference_mode(False), torch.no_grad():
            return self.network(self.image).detach()

    def _step(self) -> StyleStep:
        with torch.inference_mode(False), torch.enable_grad():
            picture = self.network(self.source)
            parts = self._losses(picture)
            loss = torch.stack(list(parts.values())).sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()
        values = {name: float(value.detach()) for name, value in parts.items()}
        return StyleStep(float(loss.detach()), values, picture.detach())

    def _losses(self, picture: Tensor) -> dict[str, Tensor]:
        recipe, side = self.recipe, self.side
        inside = crops.object_windows(self.coverage, recipe.crops, _LEAST, self.generator)
        outside = crops.background_windows(self.coverage, recipe.crops, _MOST, self.generator)
        perspectives = crops.homographies(len(inside), _DISTORTION, self.generator)
        features = self.guide.see(crops.bend(crops.cut(picture, inside, side), perspectives, self.guide.side))
        background = losses.background_loss(*(crops.cut(t, outside, side) for t in (picture, self.source)))
        return {
            "patch": recipe.patch * losses.patch_loss(features, self.embedding, self.direction, _THRESHOLD),
            "content": recipe.content * losses.content_loss(self.guide.vgg(picture), self.content),
            "smoothness": recipe.smoothness * losses.smoothness_loss(picture),
            "background": recipe.background * recipe.t * background,
        }


class Restyling:
    """A batch: IMAGE (B, H, W, 3), MASK (1 or B, h, w), one recipe. A picture with an empty mask stays as it is.

    composited: outside the mask the result is the source, bit for bit; else the network's picture everywhere.
    Raises ImageError if a picture is too small or the mask does not fit.
    """

    def __init__(
        self, guide: Guide, image: Tensor, mask: Tensor, recipe: StyleRecipe, composited: bool = True
    ):
        if min(image.shape[1:3]) < _SMALLEST:
            raise ImageError(
                f"The picture is {image.shape[2]} x {image.shape[1]}; both sides need {_SMALLEST} pixels or more."
            )
        self.guide, self.recipe, self.composited = guide, recipe, composited
        self.image, self.mask = image[..., :3], fit_mask(mask, image)
        self.pictures: list[Tensor] = []

    @property
    def total(self) -> int:
        """The number of steps over all pictures."""
        return self.recipe.steps * sum(bool(mask.any()) for mask in self.mask)

    def steps(self) -> Iterator[StyleStep]:
        """Runs the steps of all pictures, one after the other."""
        for image, mask in zip(self.image, self.mask):
            if not mask.any():
                self.pictures.append(image)
                continue
            work = Stylisation(self.guide, image.movedim(-1, 0)[None], mask, self.recipe)
            yield from work.steps()
            styled = work.result()[0].movedim(0, -1).to(image)
            self.pictures.append(composite(image, styled, mask) if self.composited else styled)

    def result(self) -> Tensor:
        """IMAGE (B, H, W, 3), once all steps are done."""
        return torch.stack(self.pictures)


def _within(image: Tensor, resolution: int) -> Tensor:
    """(1, 3, H, W) with a shorter side of at most `resolution` pixels."""
    shorter = min(image.shape[-2:])
    if shorter <= resolution:
        return image
    size = [max(_SMALLEST, round(n * resolution / shorter)) for n in image.shape[-2:]]
    return F.interpolate(image, size, mode="bilinear", antialias=True)
