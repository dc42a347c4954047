"""Sampling with the host's own sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ...rechar_core.images import labelled_sheet, to_pil
from ...rechar_core.lora.blora import BLora
from ...rechar_core.lora.fusion import decimal_comma, fuse
from .patch import patch_model
from .progress import Progress, say


def samplers_and_schedulers() -> tuple[list[str], list[str]]:
    """The names of the host's samplers and schedulers."""
    from comfy.samplers import KSampler

    return list(KSampler.SAMPLERS), list(KSampler.SCHEDULERS)


def sample(
    model: Any,
    vae: Any,
    latent: dict[str, Any],
    positive: Any,
    negative: Any,
    settings: dict[str, Any],
    progress: Progress,
) -> Tensor:
    """One picture (H, W, 3) in 0..1 from the first of a LATENT, as KSampler and VAEDecode make it.

    latent: samples (B, 4, h, w), and what other nodes put beside them (`_first_of`). settings: seed, steps, cfg,
    sampler_name, scheduler. progress: shows each step, as a part of its next part, with the host's previews; the user
    can cancel between steps.
    """
    import comfy.sample

    first = _first_of(model, latent)
    noise = comfy.sample.prepare_noise(first["samples"], settings["seed"], first.get("batch_index"))
    denoised = comfy.sample.sample(
        model,
        noise,
        positive=positive,
        negative=negative,
        latent_image=first["samples"],
        noise_mask=first.get("noise_mask"),
        callback=_each_step(model, progress),
        disable_pbar=True,
        **settings,
    )
    return vae.decode(denoised)[0]


def _first_of(model: Any, latent: dict[str, Any]) -> dict[str, Any]:
    """The first of a LATENT, with the channels and size of the model if it is empty.

    Kept beside it: noise_mask (B, H, W), the part that is sampled; batch_index, which noise of the seed it gets.
    """
    import comfy.sample

    kept = ("samples", "noise_mask", "batch_index")
    first: dict[str, Any] = {name: latent[name][:1] for name in kept if name in latent}
    # newer hosts: how many pixels and frames a value of an empty latent stands for
    ratios = [
        latent[name] for name in ("downscale_ratio_spacial", "downscale_ratio_temporal") if name in latent
    ]
    first["samples"] = comfy.sample.fix_empty_latent_channels(model, first["samples"], *ratios)
    return first


def _each_step(model: Any, progress: Progress) -> Callable[[int, Tensor, Tensor, int], None]:
    """What KSampler does at each step: progress, a preview where the user has them switched on, and cancel."""
    from latent_preview import get_previewer

    previewer = get_previewer(model.load_device, model.model.latent_format)

    def show(step: int, denoised: Tensor, _: Tensor, steps: int) -> None:
        preview = previewer and previewer.decode_latent_to_preview_image("JPEG", denoised)
        progress.within(step + 1, steps, preview)

    return show


def alpha_grid(
    columns: Sequence[float],
    rows: Sequence[float],
    *,
    model: Any,
    vae: Any,
    positive: Any,
    negative: Any,
    latent_image: dict[str, Any],
    structure: BLora | None = None,
    style: BLora | None = None,
    **settings: Any,
) -> tuple[Tensor, Tensor]:
    """A labelled sheet (1, H, W, 3) and the pictures (N, H, W, 3), one for each style alpha (row) and structure alpha.

    Without one of the B-LoRAs its alphas change nothing, and its axis shrinks to one.
    """
    columns, rows = (columns if structure else [0.0]), (rows if style else [0.0])
    progress = Progress(len(columns) * len(rows))
    for sentence in filter(None, map(decimal_comma, (columns, rows))):
        say(sentence)
    cells: list[list[tuple[str, Tensor]]] = []
    for style_alpha in rows:
        cells.append([])
        for structure_alpha in columns:
            patched = patch_model(model, fuse(structure, style, structure_alpha, style_alpha))
            picture = sample(patched, vae, latent_image, positive, negative, settings, progress)
            cells[-1].append((f"structure {structure_alpha:g}\nstyle {style_alpha:g}", picture))
            progress.show(progress.done + 1, to_pil(picture))
    return labelled_sheet(cells, f"seed {settings['seed']}")
