"""Sampling with the host's own sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ...rechar_core.images import sheet, to_pil, to_tensor
from ...rechar_core.lora.fusion import fuse
from .patch import patch_model
from .progress import Progress


def sampler_names() -> list[str]:
    """The host's samplers."""
    import comfy.samplers

    return list(comfy.samplers.KSampler.SAMPLERS)


def scheduler_names() -> list[str]:
    """The host's schedulers."""
    import comfy.samplers

    return list(comfy.samplers.KSampler.SCHEDULERS)


def sample(
    model: Any,
    vae: Any,
    latent: Tensor,
    positive: Any,
    negative: Any,
    settings: dict[str, Any],
    progress: Progress | None = None,
) -> Tensor:
    """One picture (H, W, 3) in 0..1 from an empty or given latent (1, 4, h, w), as KSampler and VAEDecode make it.

    settings: seed, steps, cfg, sampler_name, scheduler. progress: is told each step, as a part of its next part;
    None: a bar of its own. Either way the user can cancel between steps, and sees the host's previews.
    """
    import comfy.sample

    noise = comfy.sample.prepare_noise(latent, settings["seed"])
    out = comfy.sample.sample(
        model,
        noise,
        settings["steps"],
        settings["cfg"],
        settings["sampler_name"],
        settings["scheduler"],
        positive,
        negative,
        latent,
        callback=_each_step(model, progress or Progress(1)),
        disable_pbar=True,
        seed=settings["seed"],
    )
    return vae.decode(out)[0]


def _each_step(model: Any, progress: Progress) -> Callable[[int, Tensor, Tensor, int], None]:
    """What KSampler does at each step: progress, a preview where the user has them switched on, and cancel."""
    from latent_preview import get_previewer

    previewer = get_previewer(model.load_device, model.model.latent_format)

    def told(step: int, denoised: Tensor, _: Tensor, steps: int) -> None:
        preview = previewer and previewer.decode_latent_to_preview_image("JPEG", denoised)
        progress.within(step + 1, steps, preview)

    return told


def alpha_grid(
    columns: Sequence[float],
    rows: Sequence[float],
    *,
    model: Any,
    vae: Any,
    positive: Any,
    negative: Any,
    latent_image: dict[str, Tensor],
    structure: Any = None,
    style: Any = None,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """A labelled sheet (1, H, W, 3) and the pictures (N, H, W, 3), one for each style alpha (row) and structure alpha.

    Without one of the B-LoRAs its alphas change nothing, and its axis shrinks to one.
    """
    import comfy.sample

    columns, rows = (columns if structure else [0.0]), (rows if style else [0.0])
    latent = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"][:1])
    progress = Progress(len(columns) * len(rows))
    pictures: list[Tensor] = []
    for style_alpha in rows:
        for structure_alpha in columns:
            patched = patch_model(model, fuse(structure, style, structure_alpha, style_alpha))
            pictures.append(sample(patched, vae, latent, positive, negative, settings, progress))
            progress.show(len(pictures), to_pil(pictures[-1]))
    labels = [f"structure {c:g}\nstyle {r:g}" for r in rows for c in columns]
    cells = list(zip(labels, map(to_pil, pictures), strict=True))
    lines = [cells[i : i + len(columns)] for i in range(0, len(cells), len(columns))]
    side = min(512, max(pictures[0].shape[:2]))
    return to_tensor(sheet(lines, f"seed {settings['seed']}", side)), torch.stack(pictures)
