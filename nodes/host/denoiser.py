"""The MODEL in the graph behind the Denoiser protocol, and what training needs of the host around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...rechar_core.errors import ModelError
from ...rechar_core.images import fit
from ...rechar_core.training.denoiser import Conditioning, LatentMoments, Prediction
from .patch import block_paths, check_sdxl

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")


class HostDenoiser:
    """A loaded MODEL (ModelPatcher): its UNet is called directly with the schedule's own x_t.

    calculate_input turns x0 + sigma * noise into sqrt(abar) x0 + sqrt(1 - abar) noise, which is the objective's x_t,
    so that the UNet sees the same numbers as through apply_model (comfy/model_base.py).
    """

    def __init__(self, model: Any):
        from comfy import model_base

        check_sdxl(model)
        self.model = model.model
        self.device: torch.device = model.load_device
        v = self.model.model_type == model_base.ModelType.V_PREDICTION
        self.prediction: Prediction = "v_prediction" if v else "epsilon"
        self.alphas_cumprod: Tensor = 1 / (1 + self.model.model_sampling.sigmas.detach().clone().float() ** 2)
        self._paths = block_paths(model)
        self._adm: tuple[Conditioning, Tensor] | None = None

    def layers(self) -> dict[str, nn.Module]:
        """q, k, v and out of every attention in both blocks, by diffusers module path."""
        unet = self.model.diffusion_model
        found = {}
        for path, host in self._paths.items():
            attention = path.endswith(tuple(f".{a}.{p}" for a in ("attn1", "attn2") for p in _PROJECTIONS))
            if attention:
                found[path] = unet.get_submodule(host)
        return found

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = self.model.manual_cast_dtype or self.model.get_dtype()
        batch = len(noisy)
        context = conditioning.context.to(self.device, dtype).expand(batch, -1, -1)
        y = self._size_and_pooled(conditioning).to(dtype).expand(batch, -1)
        options = {"optimized_attention_override": _pytorch_attention}
        out = self.model.diffusion_model(
            noisy.to(dtype),
            timesteps.float(),
            context=context,
            y=y,
            control=None,
            transformer_options=options,
        )
        return out.float()

    def _size_and_pooled(self, conditioning: Conditioning) -> Tensor:
        if self._adm is None or self._adm[0] is not conditioning:
            height, width, top, left, target_height, target_width = conditioning.time_ids[0].tolist()
            adm = self.model.encode_adm(
                pooled_output=conditioning.pooled,
                height=height,
                width=width,
                crop_h=top,
                crop_w=left,
                target_height=target_height,
                target_width=target_width,
                device=self.device,
            )
            self._adm = (conditioning, adm.to(self.device))
        return self._adm[1]


def _pytorch_attention(_chosen: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention whatever the host chose: sage, flash and sub-quadratic kernels have no backward here."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*args, **kwargs)


@contextmanager
def trainable(model: Any) -> Iterator[HostDenoiser]:
    """MODEL's patched weights loaded whole and usable in a backward pass; afterwards everything is as before.

    The host loads weights inside inference_mode, and an inference tensor cannot be saved for backward. Each is
    aliased (same storage, no copy) by an ordinary tensor in the part of the UNet that gradients pass through.
    Conditioning and latents made by other nodes are inference tensors as well: clone them inside.
    """
    import comfy.model_management

    clone = model.clone()
    comfy.model_management.load_models_gpu([clone], force_full_load=True)
    # the host leaves this on, unused: the part before the LoRA would be tracked by autograd for nothing
    unet = clone.model.diffusion_model.requires_grad_(False)
    with torch.inference_mode(False), torch.enable_grad(), ExitStack() as restore:
        for part in (unet.output_blocks, unet.out):
            for module in part.modules():
                _alias(module._parameters, restore)
                _alias(module._buffers, restore)
        yield HostDenoiser(clone)


def _alias(table: dict[str, Any], restore: ExitStack) -> None:
    """Puts ordinary aliases into a module's table of tensors, and their originals back when `restore` closes."""
    originals = {name: tensor for name, tensor in table.items() if tensor is not None}
    restore.callback(table.update, originals)
    for name, tensor in originals.items():
        if type(tensor) not in (Tensor, nn.Parameter):
            raise ModelError(
                f"This MODEL's weights are {type(tensor).__name__} (a quantised checkpoint), which cannot be trained "
                "on; load the fp16, bf16 or fp32 checkpoint for training."
            )
        alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
        table[name] = nn.Parameter(alias, requires_grad=False) if isinstance(tensor, nn.Parameter) else alias


@contextmanager
def checkpointed(model: Any, wanted: bool) -> Iterator[None]:
    """Gradient checkpointing of the transformer blocks behind the LoRA's layers.

    transformer_options are copied for the recomputation: the host counts blocks in them as it goes along.
    """
    from comfy.ldm.modules.attention import BasicTransformerBlock
    from torch.utils.checkpoint import checkpoint

    blocks = [
        m for m in model.model.diffusion_model.output_blocks.modules() if isinstance(m, BasicTransformerBlock)
    ]
    try:
        for block in blocks if wanted else []:
            block.forward = _Checkpointed(block.forward, checkpoint)  # an instance attribute, removed below
        yield
    finally:
        for block in blocks:
            block.__dict__.pop("forward", None)


class _Checkpointed:
    def __init__(self, forward: Any, checkpoint: Any):
        self.forward, self.checkpoint = forward, checkpoint

    def __call__(self, x: Tensor, context: Tensor | None = None, transformer_options: Any = None) -> Tensor:
        options = dict(transformer_options or {})
        return self.checkpoint(
            lambda a, c: self.forward(a, c, dict(options)), x, context, use_reentrant=False
        )


def encode_prompt(clip: Any, prompt: str, resolution: int) -> Conditioning:
    """The conditioning of one prompt at `resolution` squared, as the reference: (R, R, 0, 0, R, R)."""
    context, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
    side = float(resolution)
    return Conditioning(context, pooled, torch.tensor([[side, side, 0, 0, side, side]]))


def ordinary(conditioning: Conditioning, device: torch.device) -> Conditioning:
    """A copy that a backward pass may use, on `device` (call outside inference_mode)."""
    tensors = (conditioning.context, conditioning.pooled, conditioning.time_ids)
    return Conditioning(*(t.to(device).clone() for t in tensors))


def encode_pictures(vae: Any, images: Tensor, resolution: int, scale: float) -> list[LatentMoments]:
    """The VAE's posterior of each picture of IMAGE (B, H, W, C) in 0..1, in fp32, scaled.

    VAEEncode returns only the posterior's mode, and rounds to the VAE's own dtype; so a fp32 copy is asked.
    """
    import copy

    import comfy.model_management

    comfy.model_management.load_models_gpu([vae.patcher], force_full_load=True)
    encoder = copy.deepcopy(vae.first_stage_model).float()
    moments = []
    for image in images:
        pixels = fit(image[None, ..., :3].movedim(-1, 1).float(), resolution).to(vae.device)
        mean, logvar = encoder.quant_conv(encoder.encoder(pixels)).chunk(2, dim=1)
        std = logvar.clamp(-30, 20).mul(0.5).exp()
        moments.append(LatentMoments(mean * scale, std * scale))
    return moments
