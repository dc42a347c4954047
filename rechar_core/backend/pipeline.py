"""Loads an SDXL base (a diffusers folder, a single file, a hub id or the demo model); encodes and decodes with it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ModelError, first_line
from ..training.denoiser import Conditioning, LatentMoments
from .defaults import DEMO
from .processes import say

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DiffusionPipeline, StableDiffusionXLPipeline

# diffusers imports image processors that nothing here uses, and transformers warns that they lack torchvision
logging.getLogger("transformers.utils.import_utils").addFilter(
    lambda record: "requires torchvision" not in record.getMessage()
)

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FAMILIES = {  # pipeline class prefix -> what people call it
    "StableDiffusionXL": "SDXL",
    "StableDiffusion3": "Stable Diffusion 3",
    "StableDiffusion": "Stable Diffusion 1.x or 2.x",
    "Flux": "Flux",
}


def load(model: str, dtype: torch.dtype, device: torch.device) -> StableDiffusionXLPipeline:
    """The SDXL pipeline of `model`, on `device`, its UNet and text encoders in `dtype`, its VAE in fp32.

    model: a diffusers folder, a .safetensors checkpoint, a hub id ("owner/name": the only case that uses the
    network), or "demo". Says so on stderr, since a large one takes a while. Raises ModelError if there is no such
    model, it is incomplete, or it is not SDXL.
    """
    say(f"Loading the model {model}.")
    pipeline = _load(model, dtype)
    _check_sdxl(pipeline, model)
    pipeline.set_progress_bar_config(disable=True)
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        cast(part, dtype, device)  # the demo's, which are stored in one type
    cast(pipeline.vae, torch.float32, device)  # SDXL's VAE overflows in fp16
    return pipeline


def cast(module: Any, *to: torch.dtype | torch.device) -> Any:
    """As `module.to`, without diffusers' warnings: of modules to be kept in float32, of which SDXL has none, and of
    fp16 on a CPU, from where training takes it to the GPU."""
    for where in to:
        torch.nn.Module.to(module, where)
    return module


def weights_size(*modules: Any) -> int:
    """Bytes of the modules' weights as they are held: those of a base in 8 bits are smaller."""
    return sum(t.nbytes for module in modules for t in (*module.parameters(), *module.buffers()))


def device_of(part: Any) -> torch.device:
    """Where a part of a pipeline computes; it may lie elsewhere until then (placement.py)."""
    hook = getattr(part, "_hf_hook", None)
    return getattr(hook, "execution_device", None) or part.device


def leave(pipeline: DiffusionPipeline, *others: Any) -> None:
    """Moves the parts that are on the device only while they compute back to the RAM; all others stay."""
    from accelerate.hooks import CpuOffload

    pipeline.maybe_free_model_hooks()
    for part in others:
        hook = getattr(part, "_hf_hook", None)
        if isinstance(hook, CpuOffload):
            hook.init_hook(part)


def _load(model: str, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    path = Path(model).expanduser()
    if model == DEMO:
        return _demo()
    if path.is_file():
        from .single_file import load_single_file

        return load_single_file(path, dtype)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise ModelError(
            f"{path} has no model_index.json; give the folder that diffusers saved, or a single file."
        )
    if path.is_dir():
        return _load_diffusers(str(path), dtype, local=True)
    if _HUB_ID.fullmatch(model):
        return _load_diffusers(model, dtype, local=False)
    raise ModelError(
        f"There is no model at {model}; give a diffusers folder, a .safetensors file, a hub id or 'demo'."
    )


def _demo() -> StableDiffusionXLPipeline:
    from diffusers import StableDiffusionXLPipeline

    from ..demo.build import load_demo

    # the demo model learnt the empty prompt as its unconditional; SDXL itself takes zeros
    return StableDiffusionXLPipeline(
        **vars(load_demo()), force_zeros_for_empty_prompt=False, add_watermarker=False
    )


def _load_diffusers(model: str, dtype: torch.dtype, local: bool) -> StableDiffusionXLPipeline:
    """The pipeline in a folder that diffusers saved, or else the one of a hub id."""
    from diffusers import StableDiffusionXLPipeline

    settings: dict[str, Any] = {"use_safetensors": True, "local_files_only": local}
    try:
        config = StableDiffusionXLPipeline.load_config(model, local_files_only=local)
        _check_class(config.get("_class_name", ""), model)
        vae = _vae_in_fp32(model, config, dtype, **settings, **_variant(Path(model, "vae")))
        settings |= {**_float_type(dtype), **_variant(Path(model, "unet")), **vae, "add_watermarker": False}
        return StableDiffusionXLPipeline.from_pretrained(model, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        advice = "download it again" if local else "no file or folder has that name; check it and the network"
        raise ModelError(f"{model} cannot be loaded ({first_line(error)}); {advice}.") from None


def _float_type(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """The option of diffusers' loaders for the weights' float type: `torch_dtype` warns from 0.40 on."""
    import diffusers

    release = tuple(int(part) for part in diffusers.__version__.split(".")[:2])
    return {"dtype" if release >= (0, 40) else "torch_dtype": dtype}


def _variant(part: Path) -> dict[str, str]:
    """The option that takes the half-precision weights of a part, where its folder has no others."""
    whole = any(part.glob("*model.safetensors")) or any(part.glob("*model-0*.safetensors"))
    return {"variant": "fp16"} if any(part.glob("*.fp16*.safetensors")) and not whole else {}


def _vae_in_fp32(
    model: str, config: Mapping[str, Any], dtype: torch.dtype, **settings: Any
) -> dict[str, AutoencoderKL]:
    """The option that gives a half-precision pipeline its VAE unrounded; {} where the pipeline's own is as good.

    model: folder or hub id; config: its model_index.json; settings: of from_pretrained. Raises as diffusers does.
    """
    from diffusers import AutoencoderKL

    if dtype == torch.float32 or (config.get("vae") or [None])[-1] != "AutoencoderKL":
        return {}
    return {
        "vae": AutoencoderKL.from_pretrained(model, subfolder="vae", **_float_type(torch.float32), **settings)
    }


def _check_class(name: str, model: str) -> None:
    family = next(
        (f for prefix, f in _FAMILIES.items() if name.startswith(prefix)), name or "an unknown kind of model"
    )
    if family != "SDXL":
        raise ModelError(f"{model} is {family}; B-LoRA needs an SDXL model. Choose an SDXL model.")


def _check_sdxl(pipeline: StableDiffusionXLPipeline, model: str) -> None:
    config = pipeline.unet.config
    needed = ("text_encoder", "text_encoder_2", "tokenizer", "vae")
    missing = [part for part in needed if getattr(pipeline, part, None) is None]
    if missing:
        raise ModelError(f"{model} lacks {', '.join(missing)} (an SDXL refiner?); choose an SDXL base model.")
    if config.addition_embed_type != "text_time" or config.in_channels != 4:
        raise ModelError(
            f"{model} has {config.in_channels} input channels and '{config.addition_embed_type}' conditioning; "
            "that is an inpainting, edit or other variant. Choose an SDXL base model."
        )


def encode_prompt(pipeline: StableDiffusionXLPipeline, prompt: str, resolution: int) -> Conditioning:
    """The conditioning of one prompt at `resolution` squared, no crop.

    time_ids are (R, R, 0, 0, R, R) whatever the aspect ratio, as the reference trainer (compute_time_ids).
    """
    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    r = float(resolution)
    return Conditioning(context, pooled, torch.tensor([[r, r, 0, 0, r, r]], device=context.device))


def encode_picture(pipeline: DiffusionPipeline, image: Tensor) -> LatentMoments:
    """The VAE's posterior for IMAGE (1, H, W, 3) in 0..1, encoded once in fp32, scaled."""
    vae, scale = pipeline.vae, pipeline.vae.config.scaling_factor
    pixels = (image * 2 - 1).movedim(-1, 1).contiguous()
    with torch.no_grad():
        posterior = vae.encode(pixels.to(device_of(vae), torch.float32)).latent_dist
    leave(pipeline)
    return LatentMoments(posterior.mean * scale, posterior.std * scale)


def decode_latent(pipeline: DiffusionPipeline, latent: Tensor) -> Tensor:
    """IMAGE (1, H, W, 3) in 0..1 on the CPU, in fp32: the pipeline itself wants one type for all parts.

    Raises ModelError if the latent is no picture: NaN would be saved as black.
    """
    vae = pipeline.vae
    if not latent.isfinite().all():
        raise ModelError(
            "The picture became NaN or infinite; use smaller alphas and scales, or another LoRA."
        )
    with torch.no_grad():
        pixels = vae.decode(latent.to(device_of(vae), torch.float32) / vae.config.scaling_factor).sample
    leave(pipeline)
    return (pixels / 2 + 0.5).clamp(0, 1).cpu().movedim(1, -1)
