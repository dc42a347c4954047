"""A single-file SDXL checkpoint becomes a diffusers pipeline, offline: the configurations it needs ship in sdxl/.

What the file is gets decided from its header (names and shapes) before any weight is read. The configurations are
SDXL base 1.0's published values, except that both text encoders name the true end token 49407.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileError, ModelError, listed
from ..storage import opened
from .versions import float_type

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, StableDiffusionXLPipeline

Shapes = Mapping[str, tuple[int, ...]]

CONFIG = Path(__file__).with_name("sdxl")
_UNET = "model.diffusion_model."
_CROSS = "transformer_blocks.0.attn2.to_k.weight"

# The first row of which one key is in the file names it. Order matters: special cases before their family.
_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("a Chroma model", ("distilled_guidance_layer.in_proj.bias",)),
    ("a Flux.2 model", ("single_stream_modulation.lin.weight",)),
    ("a Flux model", ("double_blocks.0.img_attn.qkv.weight", "single_transformer_blocks.0.attn.to_q.weight")),
    (
        "an SD3 model",
        (
            "joint_blocks.0.context_block.adaLN_modulation.1.bias",
            "transformer_blocks.0.norm1_context.linear.weight",
        ),
    ),
    ("an AuraFlow model", ("double_layers.0.attn.w1q.weight",)),
    ("a Z-Image or Lumina 2 model", ("cap_embedder.0.weight",)),
    ("a Wan video model", ("head.modulation",)),
    ("a Qwen-Image model", ("transformer_blocks.0.img_mod.1.weight",)),
    ("a ControlNet", ("control_model.time_embed.0.weight", "controlnet_cond_embedding.conv_in.weight")),
    ("Playground v2.5, whose noise schedule (EDM) is not SDXL's", ("edm_mean",)),
    ("an SDXL with the EDM noise schedule (CosXL)", ("edm_vpred.sigma_max",)),
    (
        "an SDXL UNet alone in diffusers' layout (give the folder with model_index.json)",
        ("add_embedding.linear_1.weight",),
    ),
    ("a UNet alone in diffusers' layout", ("down_blocks.0.resnets.0.conv1.weight",)),
    ("a VAE alone", ("decoder.conv_in.weight",)),
)
# Part, its keys' prefix, how many tensors it has at least (CLIP-L's position_ids and bigG's logit_scale are optional).
_PARTS = (
    ("UNet", _UNET, 1680),
    ("VAE", "first_stage_model.", 248),
    ("first text encoder (CLIP-L)", "conditioner.embedders.0.transformer.text_model.", 196),
    ("second text encoder (CLIP-bigG)", "conditioner.embedders.1.model.", 389),
)


def load_single_file(path: Path, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """Load an SDXL checkpoint in the original (SGM) layout from one .safetensors file, without any network.

    Raises: FileError if the file is missing, damaged or not safetensors; ModelError if it is another base model,
    saying which it looks like, or lacks the VAE, a text encoder or single weights.
    """
    shapes = read_shapes(path)
    check_base(path.name, shapes)
    from diffusers import StableDiffusionXLPipeline

    from ..tokenizer import tokenizers

    first, second = tokenizers()
    try:
        pipeline = StableDiffusionXLPipeline.from_single_file(
            str(path),
            config=str(CONFIG),
            local_files_only=True,
            **float_type(dtype),
            tokenizer=first,
            tokenizer_2=second,
            scheduler=scheduler(shapes),
            vae=load_vae(path),
        )
    except (KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelError(f"{path.name} does not hold a complete SDXL model: {error}") from error
    check_complete(path.name, pipeline)
    return pipeline


def load_vae(path: Path) -> AutoencoderKL:
    """The VAE of such a checkpoint in fp32, whatever the other parts' type: rounded weights move the posterior."""
    import torch
    from diffusers import AutoencoderKL

    return AutoencoderKL.from_single_file(
        str(path), config=str(CONFIG), subfolder="vae", local_files_only=True, **float_type(torch.float32)
    )


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors, from the header alone.

    Raises: FileError.
    """
    with opened(path) as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if path.suffix != ".safetensors":  # diffusers would open any other name as a pickle
        raise FileError(f"'{path}' holds safetensors under another name; rename it to end in .safetensors.")
    return shapes


def check_base(name: str, shapes: Shapes) -> None:
    """Let a complete SDXL base model pass.

    Raises: ModelError for any other base, or if a part is missing or incomplete.
    """
    found = looks_like(shapes)
    if found != "SDXL":
        raise ModelError(f"{name} looks like {found}; ReChar needs an SDXL base model.")
    counts = [(part, sum(key.startswith(prefix) for key in shapes), least) for part, prefix, least in _PARTS]
    missing = [part for part, count, _ in counts if count == 0]
    if missing:
        raise ModelError(
            f"{name} is an SDXL model without its {' and '.join(missing)}; get the full checkpoint"
            " (about 7 GB) or a diffusers folder."
        )
    short = [f"{count} of {least} tensors of its {part}" for part, count, least in counts if count < least]
    if short:
        raise ModelError(f"{name} has only {' and '.join(short)}: the file is incomplete, download it again.")


def looks_like(shapes: Shapes) -> str:
    """What a checkpoint is, by its keys and shapes: "SDXL", or a phrase that completes "it looks like ..."."""
    for phrase, keys in _FAMILIES:
        if any(key in shapes or _UNET + key in shapes for key in keys):
            return phrase
    if any("lora_" in key or ".lora." in key for key in shapes):
        return "a LoRA, not a base model"
    first = shapes.get(_UNET + "input_blocks.0.0.weight")
    if first is None or len(first) != 4:
        return "no Stable Diffusion model that is known here"
    if first[0] == 384:
        return "the SDXL refiner"
    family = _unet_family(shapes)
    if first[1] == 9:
        return f"an inpainting model ({family})"
    if first[1] == 8:
        return f"a model for editing pictures by instruction ({family})"
    return family


def _unet_family(shapes: Shapes) -> str:
    """The family of a UNet in the original layout, by the width of its text conditioning and its depth."""
    width = {
        shapes[key][-1]
        for block in ("input_blocks.1.1.", "input_blocks.2.1.", "input_blocks.4.1.", "input_blocks.3.1.")
        for key in [f"{_UNET}{block}{_CROSS}"]
        if key in shapes
    }
    if width == {768}:
        return "an SD1.5 model"
    if width == {1024}:
        return "an SD2 model"
    if width != {2048}:
        return "no Stable Diffusion model that is known here"
    deep, label = f"{_UNET}input_blocks.8.1.transformer_blocks.9.norm1.weight", f"{_UNET}label_emb.0.0.weight"
    if deep not in shapes or shapes.get(label) != (1280, 2816):
        return "a reduced SDXL (SSD-1B, Vega or KOALA)"
    return "SDXL"


def scheduler(shapes: Shapes) -> Any:
    """SDXL's sampler; v-prediction where the marker keys say so, as ComfyUI reads them: v_pred and ztsnr."""
    from diffusers import EulerDiscreteScheduler

    changes: dict[str, Any] = {}
    if "v_pred" in shapes:
        changes["prediction_type"] = "v_prediction"
        if "ztsnr" in shapes:
            changes.update(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return EulerDiscreteScheduler.from_pretrained(str(CONFIG), subfolder="scheduler", **changes)


def check_complete(name: str, pipeline: Any) -> None:
    """Find weights that the file did not hold: diffusers leaves them without data.

    Raises: ModelError with up to ten of them.
    """
    parts = ("unet", "vae", "text_encoder", "text_encoder_2")
    empty = [
        f"{p}.{key}" for p in parts for key, value in getattr(pipeline, p).named_parameters() if value.is_meta
    ]
    if empty:
        raise ModelError(f"{name} lacks {listed(empty)}: the file is incomplete.")
