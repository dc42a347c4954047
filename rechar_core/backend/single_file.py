"""A single-file SDXL checkpoint becomes a diffusers pipeline, offline: the configurations it needs ship in sdxl/.

What the file is gets decided from its header (names and shapes) before any weight is read. The configurations are
SDXL base 1.0's published values, except that both text encoders name the true end token 49407.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import FileError, ModelError
from ..storage import opened
from . import sdxl_layout
from .processes import processes, say, shown
from .sdxl_layout import BIGG, CLIP_L, UNET, VAE, Shapes
from .stored import Stored, examine, read

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline

CONFIG = Path(__file__).with_name("sdxl")
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
_BY_WIDTH = {768: "an SD1.5 model", 1024: "an SD2 model", 2048: "SDXL"}  # of the text conditioning
_UNKNOWN = "no Stable Diffusion model that is known here"
_PARTS = {
    UNET: "UNet",
    VAE: "VAE",
    CLIP_L: "first text encoder (CLIP-L)",
    BIGG: "second text encoder (CLIP-bigG)",
}


def load_single_file(path: Path, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """Load an SDXL checkpoint in the original (SGM) layout from one .safetensors file, without any network.

    All in `dtype` but the VAE, which is in fp32: rounded weights move the posterior. Shows its progress, and says what
    was dequantised and how many keys are of no use.
    Raises: FileError if the file is missing, damaged or not safetensors; ModelError if it is another base model,
    saying which it looks like, lacks weights, or stores them in a way that is not known (stored.py says which are).
    """
    with opened(path) as reader:
        shapes = {key: tuple(reader.get_slice(key).get_shape()) for key in reader.keys()}  # noqa: SIM118
        if path.suffix != ".safetensors":  # diffusers would open any other name as a pickle
            raise FileError(
                f"'{path}' holds safetensors under another name; rename it to end in .safetensors."
            )
        check_base(path.name, shapes)
        stored = examine(path.name, reader, sdxl_layout.checkpoint())
        if stored.eight:
            scaled = len(stored.scales)
            say(
                f"{path.name}: {stored.eight} weights in 8 bits are dequantised, {scaled} of them by a scale."
            )
        if stored.rest:
            say(f"{path.name}: {stored.rest} tensors that are of no use to SDXL are passed over.")
        return _assembled(reader, stored, scheduler(shapes), dtype)


def _assembled(reader: Any, stored: Stored, schedule: Any, dtype: torch.dtype) -> StableDiffusionXLPipeline:
    """The pipeline with the weights of the open file `reader`."""
    from diffusers import StableDiffusionXLPipeline

    from ..synthesis.tokenizer import tokenizers

    first, second = tokenizers()
    parts: dict[str, Any] = {}
    total = len(sdxl_layout.checkpoint())
    with shown("Loading", processes().is_main_process) as ran:
        done = 0
        for name, (prefix, model) in empty_models().items():
            held, weights = torch.float32 if name == "vae" else dtype, {}
            for key, shape in sdxl_layout.required(prefix).items():
                weights[key] = read(reader, stored, key, shape, held)
                done += 1
                ran(done, total)
            model.load_state_dict(converted(name, model, weights), strict=True, assign=True)
            parts[name] = model.eval()
    return StableDiffusionXLPipeline(
        **parts, tokenizer=first, tokenizer_2=second, scheduler=schedule, add_watermarker=False
    )


def empty_models() -> dict[str, tuple[str, Any]]:
    """The pipeline's four models, their parameters without data, by the shipped configurations; with keys' prefixes."""
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(CONFIG / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIG / "vae"))
        first = CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIG / "text_encoder"))
        second = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(CONFIG / "text_encoder_2"))
    return {
        "unet": (UNET, unet),
        "vae": (VAE, vae),
        "text_encoder": (CLIP_L, first),
        "text_encoder_2": (BIGG, second),
    }


def converted(name: str, model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """One model's weights under the names that it gives them itself, by diffusers' converters."""
    from diffusers.loaders import single_file_utils as convert

    if name == "unet":
        return convert.convert_ldm_unet_checkpoint(weights, config=dict(model.config))
    if name == "vae":
        return convert.convert_ldm_vae_checkpoint(weights, config=dict(model.config))
    if name == "text_encoder":
        state = convert.convert_ldm_clip_checkpoint(weights)
    else:
        state = convert.convert_open_clip_checkpoint(model, weights, prefix=BIGG)
    if not hasattr(model, "text_model"):  # transformers 5.6 flattened CLIPTextModel
        state = {key.removeprefix("text_model."): value for key, value in state.items()}
    return {key: value for key, value in state.items() if "position_ids" not in key}


def check_base(name: str, shapes: Shapes) -> None:
    """Let an SDXL base model with all its parts pass.

    Raises: ModelError for any other base, or if a part is missing.
    """
    family = looks_like(shapes)
    if family != "SDXL":
        raise ModelError(f"{name} looks like {family}; ReChar needs an SDXL base model.")
    missing = [part for prefix, part in _PARTS.items() if not any(key.startswith(prefix) for key in shapes)]
    if missing:
        raise ModelError(
            f"{name} is an SDXL model without its {' and '.join(missing)}; get the full checkpoint"
            " (about 7 GB) or a diffusers folder."
        )


def looks_like(shapes: Shapes) -> str:
    """What a checkpoint is, by its keys and shapes: "SDXL", or a phrase that completes "it looks like ..."."""
    for phrase, keys in _FAMILIES:
        if any(key in shapes or UNET + key in shapes for key in keys):
            return phrase
    first = shapes.get(UNET + "input_blocks.0.0.weight")
    if first is None and any("lora_" in key or ".lora." in key for key in shapes):
        return "a LoRA, not a base model"
    if first is None or len(first) != 4:
        return _UNKNOWN
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
    blocks = ("input_blocks.1.1.", "input_blocks.2.1.", "input_blocks.4.1.", "input_blocks.3.1.")
    keys = [f"{UNET}{block}{_CROSS}" for block in blocks]
    widths = {shapes[key][-1] for key in keys if key in shapes}
    family = _BY_WIDTH.get(widths.pop(), _UNKNOWN) if len(widths) == 1 else _UNKNOWN
    deep, label = f"{UNET}input_blocks.8.1.transformer_blocks.9.norm1.weight", f"{UNET}label_emb.0.0.weight"
    if family == "SDXL" and (deep not in shapes or shapes.get(label) != (1280, 2816)):
        return "a reduced SDXL (SSD-1B, Vega or KOALA)"
    return family


def scheduler(shapes: Shapes) -> Any:
    """SDXL's sampler; v-prediction where the marker keys say so, as ComfyUI reads them: v_pred and ztsnr."""
    from diffusers import EulerDiscreteScheduler

    changes: dict[str, Any] = {}
    if "v_pred" in shapes:
        changes["prediction_type"] = "v_prediction"
        if "ztsnr" in shapes:
            changes.update(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    return EulerDiscreteScheduler.from_pretrained(str(CONFIG), subfolder="scheduler", **changes)
