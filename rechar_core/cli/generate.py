"""The `generate` command: structure + style, structure + text, style + text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..backend.pipeline import decode_latent, load
from ..backend.placement import place
from ..backend.processes import processes
from ..device import MOST_SEED, RenderPrecision, next_seed, render_dtype
from ..errors import FileError, RecipeError
from ..images import PICTURE_SUFFIXES, png, to_pil
from ..lora import files
from ..lora.fusion import AlphaMode, Fusion, applied, fuse
from ..storage import make_folder, write_bytes
from .options import check_range

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How to sample. guidance: classifier-free scale, 1 = off; width, height: pixels, None = the model's own size.

    negative None means SDXL's zeros, as the reference; "" is an empty prompt, which is not the same.
    """

    prompt: str
    negative: str | None = None
    steps: int = 30
    guidance: float = 5.0
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        check_range("steps", self.steps, 1, 1000)
        check_range("guidance", self.guidance, 0, 100)
        check_side("width", self.width)
        check_side("height", self.height)

    def size(self, pipeline: StableDiffusionXLPipeline) -> tuple[int, int]:
        """Width and height in pixels with this model."""
        default = int(pipeline.default_sample_size * pipeline.vae_scale_factor)
        return self.width or default, self.height or default


def check_side(name: str, pixels: int | None) -> None:
    """Raises RecipeError unless a picture's side can be drawn; None is the model's own."""
    if pixels is not None and (pixels < 64 or pixels > 8192 or pixels % 8):
        raise RecipeError(f"{name} is {pixels}; it must be a multiple of 8 from 64 to 8192.")


@dataclass(frozen=True)
class GenerateJob:
    """What to draw from what. structure, style: B-LoRA files; seed + i is the seed of picture i.

    precision: of the UNet and the text encoders; the VAE computes in fp32 always.
    """

    model: str
    sampling: Sampling
    output: Path
    structure: Path | None = None
    style: Path | None = None
    structure_alpha: float = 1.0
    style_alpha: float = 1.0
    alpha_mode: AlphaMode = "linear"
    images: int = 4
    seed: int = 0
    precision: RenderPrecision = "auto"


def generate(job: GenerateJob) -> list[Path]:
    """Writes `job.images` PNG files into the folder `job.output` and returns their paths.

    Under `accelerate launch` the pictures are shared out between the processes; each returns its own.
    Raises ReCharError on bad input, before anything is drawn.
    """
    here = processes()
    check_series(job.output, job.images, job.seed)
    structure, style = (files.read(path) if path else None for path in (job.structure, job.style))
    fusion = fuse(structure, style, job.structure_alpha, job.style_alpha, job.alpha_mode)
    make_folder(job.output)
    pipeline = load(job.model, render_dtype(job.precision, here.device), torch.device("cpu"))
    width, height = job.sampling.size(pipeline)
    place(pipeline, here.device, width * height)
    seeds = [next_seed(job.seed, i) for i in range(job.images)][here.process_index :: here.num_processes]
    pictures = sample(pipeline, job.sampling, fusion, seeds)
    written = [_save(picture, job, seed) for picture, seed in zip(pictures, seeds, strict=True)]
    here.wait_for_everyone()
    return written


def check_series(output: Path, images: int, seed: int) -> None:
    """Raises RecipeError or FileError unless `images` pictures from `seed` on can go into the folder `output`."""
    check_range("images", images, 1, 10_000)
    check_range("seed", seed, 0, MOST_SEED)
    if output.suffix.lower() in PICTURE_SUFFIXES and not output.is_dir():
        raise FileError(
            f"'{output}' is named as a picture; --output is the folder that the pictures go into: "
            f"give one, say '{output.with_suffix('')}'."
        )


def sample(
    pipeline: StableDiffusionXLPipeline,
    sampling: Sampling,
    fusion: Fusion,
    seeds: list[int],
    progress: bool = True,
) -> Iterator[Image]:
    """One picture per seed, with `fusion` added to the UNet's weights while it runs; then they are restored.

    The noise is drawn on the CPU in fp32: a seed means the same picture on every device and in every precision, up to
    rounding. (PyTorch before 2.5 draws other numbers in half precision, and diffusers asks for the UNet's.)
    """
    from tqdm import tqdm

    width, height = sampling.size(pipeline)
    pipeline.unet.eval()
    prompt = _encoded(pipeline, sampling)
    with (
        applied(pipeline.unet, fusion),
        tqdm(total=len(seeds), desc="Drawing", unit="picture", ascii=True, disable=not progress) as bar,
    ):
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(1, 4, height // 8, width // 8, generator=generator)
            latent = pipeline(
                **prompt,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                width=width,
                height=height,
                latents=noise.to(pipeline.unet.dtype),
                generator=generator,
                output_type="latent",
            ).images
            yield to_pil(decode_latent(pipeline, latent)[0])
            bar.update()


def _encoded(pipeline: StableDiffusionXLPipeline, sampling: Sampling) -> dict[str, Tensor | None]:
    """The prompts as the pipeline's call takes them, so that one encoding serves all pictures; None if unused."""
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    with torch.no_grad():
        encoded = pipeline.encode_prompt(
            sampling.prompt,
            negative_prompt=sampling.negative,
            do_classifier_free_guidance=sampling.guidance > 1,
        )
    return dict(zip(names, encoded, strict=True))


def _save(picture: Image, job: GenerateJob, seed: int) -> Path:
    settings = {
        "model": job.model,
        **vars(job.sampling),
        "seed": seed,
        "structure": job.structure and job.structure.name,
        "structure_alpha": job.structure_alpha,
        "style": job.style and job.style.name,
        "style_alpha": job.style_alpha,
        "alpha_mode": job.alpha_mode,
    }
    about = json.dumps(settings, ensure_ascii=False)
    return write_bytes((png(picture, about),), job.output / f"seed_{seed:05d}.png")
