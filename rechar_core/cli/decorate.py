"""`generate --mode`: ReChar's three passes on diffusers, from a glyph, B-LoRAs, a style picture and references."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..device import RenderPrecision, next_seed, render_dtype
from ..errors import RecipeError
from ..glyph.picture import ink
from ..images import fit, png, read, to_pil
from ..lora import files
from ..storage import make_folder, write_bytes
from ..synthesis.modes import MODES, PipelineConfig, mode_named
from ..synthesis.passes import STYLE_TEMPLATE, TEMPLATE, Passes
from ..synthesis.references.layout import MASK_MODES, OPERATORS
from .options import check_range, job_from

if TYPE_CHECKING:
    from torch import Tensor

# Settings of a mode that options of their own change
_CHANGEABLE = ("structure_scale", "style_scale", "operator", "temperature", "mask_mode")


@dataclass(frozen=True)
class DecorateJob:
    """What to decorate with what. glyph: a picture, dark on light or light on dark; style_image: a picture or None.

    structure, style: B-LoRA files. composition_adapter, style_adapter: IP-Adapter files, image_encoder and control_net
    folders in transformers' and diffusers' layout; each may be "demo", for the demo model. resolution: pixels of the
    shorter side, None = the model's own. seed + i is the seed of picture i.
    """

    model: str
    mode: PipelineConfig
    glyph: Path
    output: Path
    elements: str = ""
    template: str = TEMPLATE
    style_template: str = STYLE_TEMPLATE
    structure: Path | None = None
    style: Path | None = None
    style_image: Path | None = None
    composition_adapter: Path | None = None
    style_adapter: Path | None = None
    image_encoder: Path | None = None
    control_net: Path | None = None
    images: int = 4
    seed: int = 0
    resolution: int | None = None
    precision: RenderPrecision = "auto"


def decorate(job: DecorateJob) -> list[Path]:
    """Writes seed_N.png, seed_N_structure.png and seed_N_style.png for each picture; returns the first of each.

    Under `accelerate launch` the pictures are shared out between the processes; each returns its own.
    Raises ReCharError on bad input, before anything is drawn.
    """
    import torch
    from tqdm import tqdm

    from ..backend.ip_adapters import control_net, ip_adapters
    from ..backend.pipeline import load
    from ..backend.placement import place
    from ..backend.processes import processes
    from ..backend.renderer import DiffusersRenderer
    from .generate import check_series, check_side

    here = processes()
    check_series(job.output, job.images, job.seed)
    check_side("width", job.resolution)
    structure, style = (files.read(path) if path else None for path in (job.structure, job.style))
    picture, style_image = read(job.glyph), read(job.style_image) if job.style_image else None
    make_folder(job.output)
    where = (render_dtype(job.precision, here.device), torch.device("cpu"))
    adapters = ip_adapters(job.composition_adapter, job.style_adapter, job.image_encoder, *where)
    net = control_net(job.control_net, *where)
    renderer = DiffusersRenderer(load(job.model, *where), adapters, net)
    model_side = int(renderer.pipeline.unet.config.sample_size) * 8
    glyph, mask = glyph_of(picture, job.resolution or model_side)
    place(renderer.pipeline, here.device, mask.numel(), adapters.encoder, net)
    texts = (job.elements, job.template, job.style_template)
    first = Passes(renderer, glyph, mask, job.mode, job.seed, *texts, structure, style, style_image)
    first.check()
    passes = [replace(first, seed=next_seed(job.seed, i)) for i in range(job.images)]
    mine = passes[here.process_index :: here.num_processes]
    bar = tqdm(mine, desc="Drawing", unit="picture", ascii=True, disable=not here.is_main_process)
    written = [_draw(one, job) for one in bar]
    here.wait_for_everyone()
    return written


def _draw(passes: Passes, job: DecorateJob) -> Path:
    pictures = passes.run()
    about = passes.mode.settings(
        model=job.model,
        seed=passes.seed,
        glyph=job.glyph.name,
        elements=job.elements,
        template=job.template,
        style_template=job.style_template,
    )
    path = job.output / f"seed_{passes.seed:05d}.png"
    names = (path, *(path.with_stem(f"{path.stem}_{part}") for part in ("structure", "style")))
    for name, image in zip(names, pictures, strict=True):
        write_bytes((png(to_pil(image[0]), about),), name)
    return path


def glyph_of(picture: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """IMAGE (1, H, W, 3) and MASK (1, H, W) of a picture (1, h, w, 3) in 0..1, its shorter side `side` pixels.

    Raises RecipeError if the picture is of one colour.
    """
    glyph = fit(picture, side)
    mask = ink(glyph[0]).float()[None]
    if not mask.any():
        raise RecipeError("The glyph's picture is of one colour; give one with a glyph in it.")
    return glyph, mask


def add_options(sub: argparse.ArgumentParser) -> None:
    """The options of generate that belong to --mode."""
    add, unset = sub.add_argument, argparse.SUPPRESS
    add("--mode", choices=tuple(MODES), help="draw ReChar's three passes; --prompt is then a template")
    add("--glyph", type=Path, help="with --mode: a picture of the glyph")
    add("--elements", default="", help="with --mode: decorative things, separated by commas")
    add("--style-prompt", default=STYLE_TEMPLATE, help="with --mode: the style picture's prompt")
    add(
        "--style-image",
        type=Path,
        help="with --mode: a picture of the style; not used beside --style, but by references-only",
    )
    add("--composition-adapter", type=Path, help="with --mode: IP-Adapter file for the structure, or 'demo'")
    add("--style-adapter", type=Path, help="with --mode: IP-Adapter file for the style, or 'demo'")
    add(
        "--image-encoder", type=Path, help="with --mode: folder of the adapters' CLIP vision model, or 'demo'"
    )
    add("--control-net", type=Path, help="with --mode: folder of a canny ControlNet for SDXL, or 'demo'")
    add(
        "--structure-scale",
        type=float,
        default=unset,
        help="with --mode: of structure references (the mode's)",
    )
    add("--style-scale", type=float, default=unset, help="with --mode: of style references (the mode's)")
    add("--operator", choices=tuple(OPERATORS), default=unset, help="with --mode: layout map (the mode's)")
    add("--temperature", type=float, default=unset, help="with --mode: of the layout map (the mode's)")
    add("--mask-mode", choices=tuple(MASK_MODES), default=unset, help="with --mode: of masks (the mode's)")


def job_of(options: argparse.Namespace) -> DecorateJob:
    """A job from the command line. Raises RecipeError for options that the modes do not know."""
    if options.glyph is None:
        raise RecipeError("generate --mode needs --glyph as well.")
    for name, plain in (("structure_alpha", 1.0), ("style_alpha", 1.0), ("alpha_mode", "linear")):
        if getattr(options, name) != plain:
            raise RecipeError(
                f"--{name.replace('_', '-')} is not for --mode, whose B-LoRAs have alpha 1; leave it out."
            )
    if options.negative is not None or options.height is not None:
        raise RecipeError("--negative and --height are not for --mode; the mode and the glyph set them.")
    steps, guidance = (getattr(options, name, 0) for name in ("steps", "guidance"))
    check_range("steps", steps, 0, 1000)
    check_range("guidance", guidance, 0, 100)
    changes = {name: getattr(options, name) for name in _CHANGEABLE if hasattr(options, name)}
    if "style_scale" in changes:  # the user's value is not reduced
        changes["style_beside_lora"] = 1.0
    return job_from(
        DecorateJob,
        options,
        mode=replace(mode_named(options.mode, steps, guidance), **changes),
        template=options.prompt or TEMPLATE,
        style_template=options.style_prompt,
        resolution=options.width,
    )
