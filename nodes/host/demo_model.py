"""The demo model of rechar_core as ordinary host objects: MODEL, CLIP and VAE, in fp32 on every device.

The host has only full-size SDXL, so each part is built from the host's classes with the demo's sizes; the weights are
renamed from diffusers' names by the host's own tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar

import comfy.diffusers_convert
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import comfy.utils
import folder_paths
import torch
from comfy.model_base import ModelType
from comfy.supported_models_base import ClipTarget
from torch import Tensor, nn

from ...rechar_core.demo.build import demo_state, part_of
from ...rechar_core.errors import ModelError

Config = Mapping[str, Any]
State = Mapping[str, Tensor]

PREDICTIONS = {"epsilon": ModelType.EPS, "v_prediction": ModelType.V_PREDICTION}


def shared_demo() -> tuple[Any, Any, Any]:
    """MODEL, CLIP and VAE of the shipped demo model.

    They are built once a process. Each call returns new clones of MODEL and CLIP over the same weights, so that the
    patches of one workflow are not in another.
    Raises: ReCharError for damaged files, ModelError where weights and host do not fit.
    """
    model, clip, vae = _built()
    return model.clone(), clip.clone(), vae


@lru_cache(maxsize=1)
def _built() -> tuple[Any, Any, Any]:
    model, clip, vae = load_demo(*demo_state())
    for part, patcher in enumerate((model, clip.patcher, vae.patcher)):
        patcher.cached_patcher_init = (reload_demo, (part,))
    return model, clip, vae


def load_demo(state: State, config: Config, disable_dynamic: bool = False) -> tuple[Any, Any, Any]:
    """Host objects (ModelPatcher, CLIP, VAE) from what `demo_state` gives.

    state: fp32 tensors under "unet.", "vae.", "text_encoder." and "text_encoder_2.", named as in diffusers.
    config: each part's configuration under the same names, and the scheduler's.
    disable_dynamic: MODEL and CLIP with plain patchers also where the host streams weights.
    Raises: ModelError.
    """
    model = load_unet(part_of(state, "unet."), config, disable_dynamic)
    encoders = part_of(state, "text_encoder."), part_of(state, "text_encoder_2.")
    clip = load_clip(*encoders, config, disable_dynamic)
    return model, clip, load_vae(part_of(state, "vae."), config["vae"])


def reload_demo(part: int, disable_dynamic: bool = False) -> Any:
    """The patcher of one part (0 MODEL, 1 CLIP, 2 VAE), loaded anew from the shipped files.

    The host calls it (`cached_patcher_init`) where it needs a copy of the weights: in Train LoRA, in the Select Device
    nodes and for MultiGPU.
    """
    loaded = load_demo(*demo_state(), disable_dynamic=disable_dynamic)[part]
    return loaded if part == 0 else loaded.patcher


def fill(module: nn.Module, tensors: State, part: str) -> None:
    """Copies the tensors into the module, which then computes in their dtype.

    Raises: ModelError if a name is missing or left over, or a shape differs.
    """
    try:
        module.load_state_dict(dict(tensors))
        for name, layer in module.named_modules():  # a layer that had no weights before took any shape
            if isinstance(layer, nn.Linear) and layer.weight.shape != (layer.out_features, layer.in_features):
                raise RuntimeError(f"the shape of {name}.weight is {tuple(layer.weight.shape)}")
    except RuntimeError as error:
        raise ModelError(
            f"The demo model's {part} does not fit this ComfyUI or its own configuration ({error}). Install ReChar "
            "again, or report this with your ComfyUI version."
        ) from error
    keep_dtypes(module)


def keep_dtypes(module: nn.Module) -> None:
    """Sets the present dtype as the one to compute in; dynamic VRAM would cast to the one a layer was created with."""
    for layer in module.modules():
        for name, tensor in (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)):
            setattr(layer, f"{name}_comfy_model_dtype", tensor.dtype)


# The UNet


class DemoSDXL(comfy.supported_models.SDXL):
    """SDXL in another size, with the noise schedule and the latent scale of the demo's configuration."""

    unet_extra_config: ClassVar[dict[str, Any]] = {}  # full SDXL's head width; the demo's is in unet_sizes

    def __init__(self, config: Config):
        super().__init__(unet_sizes(config["unet"]))
        schedule = config["scheduler"]
        self.sampling_settings = {
            "beta_schedule": {"scaled_linear": "linear"}[schedule["beta_schedule"]],
            "linear_start": schedule["beta_start"],
            "linear_end": schedule["beta_end"],
            "timesteps": schedule["num_train_timesteps"],
        }
        self.latent_format.scale_factor = config["vae"]["scaling_factor"]
        self.latent_format.latent_channels = config["vae"]["latent_channels"]
        self.prediction = PREDICTIONS[schedule["prediction_type"]]

    def inpaint_model(self) -> bool:
        """Always False: the host would take more than four channels for an inpainting model."""
        return False

    def model_type(self, state_dict: Any, prefix: str = "") -> Any:
        """The prediction type, which the host would otherwise detect from a checkpoint."""
        return self.prediction


def unet_sizes(unet: Config) -> dict[str, Any]:
    """The host's UNet arguments for a diffusers UNet configuration of SDXL's kind.

    The host counts depths for each residual block, the decoder's taken from the end of its list, and heads by their
    width; diffusers counts depths for each level, and its attention_head_dim is the number of heads.
    """
    widths, blocks = unet["block_out_channels"], unet["layers_per_block"]
    with_attention = ["CrossAttn" in kind for kind in unet["down_block_types"]]
    depths = [depth * on for depth, on in zip(unet["transformer_layers_per_block"], with_attention)]
    (head_width,) = {width // heads for width, heads in zip(widths, unet["attention_head_dim"])}
    return {
        "image_size": 32,
        "in_channels": unet["in_channels"],
        "out_channels": unet["out_channels"],
        "use_spatial_transformer": True,
        "legacy": False,
        "num_classes": "sequential",
        "adm_in_channels": unet["projection_class_embeddings_input_dim"],
        "model_channels": widths[0],
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": [blocks] * len(widths),
        "transformer_depth": [depth for depth in depths for _ in range(blocks)],
        "transformer_depth_output": [depth for depth in depths for _ in range(blocks + 1)],
        "transformer_depth_middle": depths[-1],
        "use_linear_in_transformer": unet["use_linear_projection"],
        "context_dim": unet["cross_attention_dim"],
        "num_head_channels": head_width,
    }


def load_unet(tensors: State, config: Config, disable_dynamic: bool = False) -> Any:
    """A ModelPatcher over the host's own SDXL model; `tensors` under diffusers' names. Raises: ModelError."""
    sizes = DemoSDXL(config)
    sizes.set_inference_dtype(torch.float32, None)
    offload = comfy.model_management.unet_offload_device()
    model = sizes.get_model({}, "", device=offload)
    names = comfy.utils.unet_to_diffusers(sizes.unet_config)
    fill(model.diffusion_model, {names.get(name, name): value for name, value in tensors.items()}, "UNet")
    device = comfy.model_management.get_torch_device()
    plain = comfy.model_patcher.ModelPatcher
    kind = plain if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", plain)
    return kind(model, load_device=device, offload_device=offload)


# The text encoders


def load_clip(first: State, second: State, config: Config, disable_dynamic: bool = False) -> Any:
    """The host's CLIP with its SDXL tokenizer over both encoders; tensors under transformers' names.

    The host's class has a projection in every encoder. The first encoder's file has none, and SDXL does not use its
    result; it is set to the identity.
    Raises: ModelError.
    """
    options = {  # the host has transformers' names for all that it reads of the two configurations
        "dtype": torch.float32,
        "clip_l_model_config": config["text_encoder"],
        "clip_g_model_config": config["text_encoder_2"],
    }
    target = ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    embeddings = folder_paths.get_folder_paths("embeddings")
    plain = {"disable_dynamic": True} if disable_dynamic else {}  # older hosts do not know the argument
    clip = comfy.sd.CLIP(target, embedding_directory=embeddings, model_options=options, **plain)
    identity = {"text_projection.weight": torch.eye(config["text_encoder"]["hidden_size"])}
    fill(clip.cond_stage_model.clip_l.transformer, {**first, **identity}, "first text encoder")
    fill(clip.cond_stage_model.clip_g.transformer, second, "second text encoder")
    return clip


# The VAE


class Width:
    """One level's width where the host computes `ch * ch_mult[level]`: not every width is a multiple of the first."""

    def __init__(self, channels: int):
        self.channels = channels

    def __rmul__(self, _: int) -> int:
        return self.channels


def load_vae(tensors: State, vae: Config) -> Any:
    """The host's VAE (latents of an eighth of the picture's size); tensors under diffusers' names.

    Raises: ModelError.
    """
    widths = vae["block_out_channels"]
    sizes = {
        "double_z": True,
        "z_channels": vae["latent_channels"],
        "resolution": vae["sample_size"],
        "in_channels": vae["in_channels"],
        "out_ch": vae["out_channels"],
        "ch": widths[0],
        "ch_mult": [Width(channels) for channels in widths],
        "num_res_blocks": vae["layers_per_block"],
        "attn_resolutions": [],
    }
    converted = comfy.diffusers_convert.convert_vae_state_dict(dict(tensors))
    params = {"params": {"ddconfig": sizes, "embed_dim": vae["latent_channels"]}}
    try:
        loaded = comfy.sd.VAE(sd=converted, config=params, dtype=torch.float32)
    except RuntimeError as error:  # a shape
        raise ModelError(f"The demo model's VAE does not fit its own configuration: {error}") from error
    fill(loaded.first_stage_model, converted, "VAE")  # once more: the host only logs a missing name
    loaded.latent_channels = vae["latent_channels"]
    return loaded
