"""The `restyle` command: one named object of a picture in another style, all else bit for bit as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from ..backend.pipeline import decode_latent, encode_picture, load
from ..backend.placement import place
from ..backend.processes import processes, say
from ..device import MOST_SEED, RenderPrecision, render_dtype
from ..errors import ImageError, RecipeError
from ..images import LATENT_SCALE, png, read, to_pil
from ..lora import files
from ..lora.fusion import applied, fuse
from ..soulstyler.compositing import ObjectRegion
from ..soulstyler.llm import Llm, read_in_mode
from ..soulstyler.segment import Search, find
from ..soulstyler.segmenters import load_segmenter
from ..storage import file_to_write, write_bytes
from .options import check_range

if TYPE_CHECKING:
    from torch import Tensor

    from ..soulstyler.grammar import Pair, Request

Engine = Literal["sdxl", "clip"]


@dataclass(frozen=True)
class RestyleJob:
    """What to restyle, and by which engine.

    mask: a picture, white on the object; else `segmenter`, a folder with CLIPSeg or GroundingDINO, looks for it, the
    latter with SAM 2 from the folder `sam`; object: its name in English, if the instruction's is none. llm: a folder;
    without it the rules read the instruction. model, style, style_alpha, structure, steps, guidance, strength: of the
    engine "sdxl", with strength 0..1, how much of the object is drawn anew; a structure B-LoRA of the object keeps its
    form. clip, vgg, t: of the engine "clip". precision: of the engine "sdxl".
    """

    image: Path
    instruction: str
    output: Path
    engine: Engine = "sdxl"
    mask: Path | None = None
    segmenter: Path | None = None
    sam: Path | None = None
    object: str = ""
    threshold: float = 0.4
    llm: Path | None = None
    model: str = ""
    style: Path | None = None
    style_alpha: float = 1.0
    structure: Path | None = None
    prompt: str | None = None
    guidance: float = 5.0
    strength: float = 0.6
    steps: int | None = None
    clip: Path | None = None
    vgg: Path | None = None
    t: float = 0.7
    seed: int = 0
    precision: RenderPrecision = "auto"


def restyle(job: RestyleJob) -> Path:
    """Writes the restyled picture as PNG and returns its path; every object that the instruction names, in turn.

    Raises ReCharError on bad input, before anything is drawn.
    """
    check_range("seed", job.seed, 0, MOST_SEED)
    check_range("guidance", job.guidance, 0, 100)
    if job.steps is not None:
        check_range("steps", job.steps, 1, 10_000)
    output = file_to_write(job.output, ".png")
    source = read(job.image)
    request = read_in_mode(job.instruction, "auto", Llm.load(job.llm) if job.llm else None)
    pairs = _pairs(request, job)
    mask_of, engine = _mask_finder(source, job), _ENGINES[job.engine](job)
    picture = source
    for pair in pairs:
        target = ObjectRegion.of(picture, mask_of(pair))
        if not target.mask.any():
            raise ImageError(f"The mask of '{pair.object}' is empty: white is where the picture may change.")
        say(f"{pair.object or 'the mask'}: {pair.style} (read by {request.by})")
        picture = engine(target, pair)
    return write_bytes((png(to_pil(picture[0])),), output)


def _pairs(request: Request, job: RestyleJob) -> tuple[Pair, ...]:
    """The pairs to restyle; with a mask or a given name the instruction need not name an object, only a style."""
    if not request.style:
        raise RecipeError(
            f"'{job.instruction}' names no style; write, say, 'turn the car into a watercolor'."
        )
    if job.mask is None and job.segmenter is None:
        raise RecipeError("Nothing says where the object is: give --mask PICTURE or --segmenter FOLDER.")
    if job.mask is None and not job.object and not request.found:
        raise RecipeError(f"'{job.instruction}' names no object; name one, or give its place with --mask.")
    if (job.mask is not None or job.object) and len(request.pairs) > 1:
        named = ", ".join(pair.object for pair in request.pairs)
        raise RecipeError(f"One mask or name cannot serve several objects ({named}); restyle one at a time.")
    return request.pairs or (request.first,)


def _mask_finder(source: Tensor, job: RestyleJob) -> Callable[[Pair], Tensor]:
    """A function that returns an object's mask: from the picture --mask, or by a segmenter, loaded once."""
    if job.mask is not None:
        mask = read(job.mask).mean(-1)
        return lambda _: mask
    assert job.segmenter is not None
    segmenter = load_segmenter(job.segmenter, job.sam)
    return lambda pair: find(segmenter, source, Search(job.object or pair.target, job.threshold)).mask


class _Sdxl:
    """Masked differential img2img with SDXL and a style B-LoRA."""

    def __init__(self, job: RestyleJob):
        if not job.model:
            raise RecipeError("The engine 'sdxl' needs --model: a diffusers folder, a checkpoint, or 'demo'.")
        if not 0 < job.strength <= 1:
            raise RecipeError(f"strength is {job.strength}; it must be above 0 and at most 1.")
        self.job = job
        structure, style = (files.read(file) if file else None for file in (job.structure, job.style))
        self.fusion = fuse(structure, style, style_alpha=job.style_alpha)
        self.device = processes().device
        dtype = render_dtype(job.precision, self.device)
        self.pipeline = _img2img(load(job.model, dtype, torch.device("cpu")))

    def __call__(self, target: ObjectRegion, pair: Pair) -> Tensor:
        job = self.job
        image, mask = target.for_latents()
        height, width = image.shape[1:3]
        cells = F.interpolate(mask[:, None], (height // LATENT_SCALE, width // LATENT_SCALE), mode="area")
        place(self.pipeline, self.device, height * width)
        differential = _DifferentialDiffusion(self.pipeline, image, cells, job.seed)
        with applied(self.pipeline.unet, self.fusion):
            latent = self.pipeline(
                prompt=job.prompt or f"{pair.object}, {pair.style} style".removeprefix(", "),
                image=torch.cat([differential.latent, differential.noise]),
                strength=job.strength,
                num_inference_steps=job.steps or 30,
                guidance_scale=job.guidance,
                generator=torch.Generator().manual_seed(job.seed),
                callback_on_step_end=differential,
                output_type="latent",
            ).images
        return target.finish(decode_latent(self.pipeline, latent))


class _DifferentialDiffusion:
    """Called after each step: sets the cells that are not free yet to the source, with the noise of that step.

    Differential diffusion (Levin and Fried, 2023): a cell of mask m is free once less than m of all steps is left.
    latent, noise: (1, 4, h, w), fp32; the noise is drawn on the CPU, so that a seed is one picture everywhere.
    """

    def __init__(self, pipeline: Any, image: Tensor, cells: Tensor, seed: int):
        self.latent = encode_picture(pipeline, image).mean
        generator = torch.Generator().manual_seed(seed)
        self.noise = torch.randn(self.latent.shape, generator=generator).to(self.latent)
        self.cells = cells.to(self.latent)

    def __call__(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"]
        source, cells = self.latent.to(latents), self.cells.to(latents)
        left = pipeline.num_timesteps - step - 1
        if left:
            now = pipeline.scheduler.timesteps[-left][None]
            source = pipeline.scheduler.add_noise(source, self.noise.to(latents), now)
        free = cells > left / pipeline.num_timesteps
        return {"latents": torch.where(free, latents, source)}


def _img2img(pipeline: Any) -> Any:
    """Diffusers' img2img with the parts of a pipeline. `image` is a latent and its noise, (2, 4, h, w), in fp32.

    Its own would encode with a VAE that it casts to the UNet's type, and draw the noise in that type.
    """
    from diffusers import StableDiffusionXLImg2ImgPipeline

    class FromLatent(StableDiffusionXLImg2ImgPipeline):
        def prepare_latents(self, image: Tensor, timestep: Tensor, *_: Any) -> Tensor:
            latent, noise = image.to(self._execution_device).chunk(2)
            return self.scheduler.add_noise(latent, noise, timestep).to(self.unet.dtype)

    zeros = pipeline.config.force_zeros_for_empty_prompt
    # from_pipe would cast all parts to fp32
    made = FromLatent(**pipeline.components, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    made.set_progress_bar_config(disable=True)
    return made


class _Clip:
    """The CLIP-guided engine."""

    def __init__(self, job: RestyleJob):
        from ..soulstyler.guide import load_guide

        if job.clip is None or job.vgg is None:
            raise RecipeError("The engine 'clip' needs --clip FOLDER (a CLIP model) and --vgg FILE (VGG19).")
        self.job, self.guide = job, load_guide(job.clip, job.vgg)
        for part in (self.guide.clip, self.guide.vgg):
            part.to(processes().device)

    def __call__(self, target: ObjectRegion, pair: Pair) -> Tensor:
        from tqdm import tqdm

        from ..soulstyler.stylise import Restyling, StyleRecipe

        recipe = StyleRecipe(pair.style, t=self.job.t, steps=self.job.steps or 201, seed=self.job.seed)
        work = Restyling(self.guide, target.image, target.mask, recipe)
        for _ in tqdm(work.steps(), desc="Restyling", total=work.total, unit="step", ascii=True):
            pass
        return work.result()


_ENGINES: dict[str, Any] = {"sdxl": _Sdxl, "clip": _Clip}
