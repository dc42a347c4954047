"""Checks that MODEL, CLIP and VAE are SDXL's before any work is done, and reads the prediction type and schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...rechar_core.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from ...rechar_core.training.denoiser import Prediction

_LATENT_CHANNELS = 4


def check_sdxl(model: Any) -> None:
    """Raises ModelError unless a MODEL is SDXL with epsilon or v-prediction, naming what it is instead."""
    from comfy import model_base

    kind = type(model.model)
    if not issubclass(kind, model_base.SDXL):
        raise ModelError(
            f"This MODEL is {kind.__name__}; B-LoRA needs an SDXL model. Load an SDXL checkpoint."
        )
    if model.model.model_type not in (model_base.ModelType.EPS, model_base.ModelType.V_PREDICTION):
        raise ModelError(
            f"This SDXL has {model.model.model_type.name} sampling; load one with epsilon or v-prediction."
        )


def check_trainable(model: Any, clip: Any, vae: Any) -> None:
    """Raises ModelError unless all three are SDXL's, and MODEL generates from noise alone."""
    check_sdxl(model)
    prediction_of(model)
    channels = model.model.diffusion_model.in_channels
    if channels != _LATENT_CHANNELS:
        raise ModelError(
            f"This SDXL takes {channels} channels (an inpainting or editing model); train on a plain SDXL checkpoint."
        )
    # the host's own, bypassed LoRAs, are trained over
    injections = [each for several in getattr(model, "injections", {}).values() for each in several]
    if not all(each.inject.__module__.startswith("comfy.") for each in injections):
        raise ModelError(
            "A node of another pack puts code of its own into this MODEL, which training cannot tell from other code: "
            "take MODEL from before that node."
        )
    check_clip(clip)
    encoder = getattr(vae, "first_stage_model", None)
    if getattr(encoder, "quant_conv", None) is None or vae.latent_channels != _LATENT_CHANNELS:
        kind = "missing" if vae is None else f"a {type(encoder).__name__}"
        raise ModelError(f"The VAE is {kind}; training needs SDXL's own: use Load VAE with sdxl_vae.")


def not_trained(model: Any) -> str:
    """A sentence on what other nodes put around MODEL's UNet and training leaves out; "" if there is nothing."""
    options = model.model_options.get("transformer_options", {})
    found = [
        name for name in ("patches", "patches_replace", "wrappers") if any(options.get(name, {}).values())
    ]
    if "model_function_wrapper" in model.model_options or found:
        return (
            "Training uses MODEL without its attention patches and wrappers (such as IPAdapter's or FreeU's)."
        )
    return ""


def prediction_of(model: Any) -> Prediction:
    """What MODEL's UNet predicts by its present sampling, which a node may have changed since it was loaded.

    Raises ModelError for the samplings that have no such training objective (LCM, x0, EDM).
    """
    from comfy.model_sampling import EPS, V_PREDICTION, ModelSamplingDiscrete

    kinds = type(model.get_model_object("model_sampling")).__bases__
    if ModelSamplingDiscrete in kinds and V_PREDICTION in kinds:
        return "v_prediction"
    if ModelSamplingDiscrete in kinds and EPS in kinds:
        return "epsilon"
    raise ModelError(
        f"This MODEL is sampled as {', '.join(k.__name__ for k in kinds)}; training needs epsilon or v-prediction: "
        "take MODEL from before the Model Sampling node."
    )


def alphas_cumprod(model: Any) -> Tensor:
    """MODEL's noise schedule (T,), fp32 on the CPU: 1 / (1 + sigma^2) of its own sampling.

    Computed again where possible: with dynamic VRAM, ComfyUI copies the sigmas of one sampling object into another when
    it unloads a model (Comfy-Org/ComfyUI#16490), so that the object may contain another workflow's schedule.
    """
    import torch
    from comfy import model_base
    from comfy.model_sampling import ModelSamplingDiscrete

    base, name = model.model, "model_sampling"
    sampling = model.get_model_object(name)
    sigmas = sampling.sigmas.detach().float().cpu()
    if name not in model.object_patches:
        sigmas = model_base.model_sampling(base.model_config, base.model_type).sigmas
    else:  # a Model Sampling node's, or another pack's with sigmas of its own
        schedules = {
            zsnr: ModelSamplingDiscrete(base.model_config, zsnr=zsnr).sigmas for zsnr in (False, True)
        }
        if any(torch.equal(sigmas, each) for each in schedules.values()):
            sigmas = schedules[bool(getattr(sampling, "zsnr", False))]
    return 1 / (1 + sigmas.detach().clone().float().cpu() ** 2)


def check_clip(clip: Any) -> None:
    """Raises ModelError unless a CLIP has SDXL's two text encoders."""
    encoders = [] if clip is None else sorted(clip.tokenize(""))
    if encoders != ["g", "l"]:
        raise ModelError(
            f"The CLIP is {'missing' if clip is None else 'not that of SDXL (it has ' + ', '.join(encoders) + ')'}; "
            "use the checkpoint's, or Load Dual CLIP with clip_l, clip_g and type sdxl."
        )
