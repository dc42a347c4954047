"""Soulstyler on the host: its model folder, the models on the host's device, masked img2img, progress and previews."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...rechar_core.errors import FileError
from ...rechar_core.images import labelled_sheet, to_pil
from ...rechar_core.soulstyler.compositing import ObjectRegion, check_object
from ...rechar_core.soulstyler.folders import folders_of
from ...rechar_core.soulstyler.guide import Guide
from ...rechar_core.soulstyler.segment import Detection, Search
from ...rechar_core.soulstyler.segment import find as find_object
from ...rechar_core.soulstyler.segmenters import ClipSeg, Grounded
from ...rechar_core.soulstyler.stylise import Restyling, StyleRecipe
from .folders import roots
from .progress import Progress, say

if TYPE_CHECKING:
    from ...rechar_core.soulstyler.grammar import Request

CATEGORY, LLMS = "soulstyler", "LLM"
SEGMENTERS, SAM = ("clipseg-rd64-refined", "grounding-dino-tiny"), "sam2.1-hiera-tiny"  # the usual names
CLIP, VGG = "clip-vit-base-patch32", "vgg19.safetensors"
_PREVIEWS = 40  # at most this many a run


def folder_names(kinds: Collection[str], *usual: str) -> list[str]:
    """Folders that hold a model of these types, and the usual ones, which are always offered: if one is missing, the
    error says where it belongs.
    """
    return sorted({*usual, *(name for root in roots(CATEGORY) for name in folders_of(root, kinds))})


def llm_names() -> list[str]:
    """Folders in models/LLM that hold a model."""
    return sorted({f.parent.name for root in roots(LLMS) for f in root.glob("*/config.json")})


def vgg_names() -> list[str]:
    """The .safetensors files directly in models/soulstyler, and the usual one."""
    return sorted({VGG, *(f.name for root in roots(CATEGORY) for f in root.glob("*.safetensors"))})


def place(name: str, category: str = CATEGORY) -> Path:
    """The file or folder called `name`, or where it should be. Raises FileError if the name leads elsewhere."""
    if Path(name).name != name or name in ("", ".", ".."):
        raise FileError(
            f"'{name}' is no name of a file or folder in models/{category}; choose one of the list."
        )
    paths = [root / name for root in roots(category)]
    return next((path for path in paths if path.exists()), paths[0])


@contextmanager
def on_device(model: Any) -> Iterator[None]:
    """A torch model on the host's device; afterwards it is moved to the CPU, to leave the memory to samplers."""
    import comfy.model_management

    device = comfy.model_management.get_torch_device()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if device.type != "cpu":
        comfy.model_management.free_memory(2 * size, device)
    try:
        with torch.inference_mode(False):
            model.to(device)
        yield
    finally:
        with torch.inference_mode(False):
            model.to("cpu")


def read_instruction(instruction: str, mode: str, llm: Any, answer: str) -> Request:
    """Splits an instruction. A language model runs on the host's device; an answer replaces a language model's."""
    from ...rechar_core.soulstyler.llm import read_in_mode  # compiles a grammar: not at start-up

    if answer or llm is None or mode == "rules":
        return read_in_mode(instruction, mode, (lambda _: answer) if answer else llm)
    with on_device(llm.model):
        return read_in_mode(instruction, mode, llm)


def find(segmenter: ClipSeg | Grounded, image: Tensor, search: Search) -> Detection:
    """The object's mask; a segmenter with a torch model works on the host's device."""
    with on_device(segmenter.model):
        return find_object(segmenter, image, search)


def warn_if_empty(mask: Tensor, on_empty: str) -> None:
    """Says on the node and in the log which pictures stay as they are.

    Raises ImageError if one would, and on_empty is "error".
    """
    if sentence := check_object(mask, on_empty):
        say(sentence)


def restyle(guide: Guide, restylings: Sequence[Restyling], on_empty: str) -> list[float]:
    """Runs the CLIP-guided engine, with progress, previews and cancel. Returns the loss of every step."""
    warn_if_empty(restylings[0].mask, on_empty)
    progress = Progress(max(1, sum(each.total for each in restylings)))
    every, losses = max(1, progress.total // _PREVIEWS), []
    with on_device(guide.clip), on_device(guide.vgg):
        for each in restylings:
            for step in each.steps():
                losses.append(step.loss)
                shown = len(losses) % every == 0 or len(losses) == progress.total
                progress.show(len(losses), to_pil(step.picture[0].movedim(0, -1)) if shown else None)
    return losses


def sweep(
    guide: Guide, image: Tensor, mask: Tensor, recipes: list[list[StyleRecipe]], on_empty: str
) -> tuple[Tensor, Tensor]:
    """A labelled sheet (1, H, W, 3) and the pictures (N, H, W, 3): a row of recipes after the other.

    One picture, one mask, one set of loaded models for all.
    """
    restylings = [[Restyling(guide, image[:1], mask[:1], recipe) for recipe in row] for row in recipes]
    restyle(guide, [each for row in restylings for each in row], on_empty)
    rows = [
        [(f"{each.recipe.style}\nseed {each.recipe.seed}", each.result()[0]) for each in row]
        for row in restylings
    ]
    first = recipes[0][0]
    return labelled_sheet(rows, f"t {first.t:g}, {first.steps} steps")


# Masked img2img


def prepare(model: Any, vae: Any, target: ObjectRegion) -> tuple[Any, dict[str, Tensor]]:
    """MODEL with differential denoising, and the LATENT of the picture with the mask on it.

    The latent's mask is a cell wider than the region's, so that the whole edge is generated; `finish` cuts it off.
    """
    image, mask = target.for_latents()
    patched = model.clone()
    patched.set_model_denoise_mask_function(_release)
    return patched, {"samples": vae.encode(image), "noise_mask": mask[:, None]}


def _release(sigma: Tensor, denoise_mask: Tensor, extra_options: dict[str, Any]) -> Tensor:
    """Differential diffusion (Levin and Fried, 2023): a cell is generated from the step on that its mask sets.

    denoise_mask: 1 = from the first step, 0 = never, between: the later the lower.
    """
    sampling = extra_options["model"].inner_model.model_sampling
    steps = extra_options["sigmas"]
    last = max(steps[-1].to(sigma), sampling.sigma_min.to(sigma))
    first, end, now = (sampling.timestep(s) for s in (steps[0].to(sigma), last, sigma[0]))
    left = (now - end) / (first - end)
    return (denoise_mask >= left.to(denoise_mask).clamp_min(1e-6)).to(denoise_mask)
