"""The trainers that benchmarks/train.py compares, with the same random model, picture, noise and recipe.

The baselines are the published recipe and ComfyUI's own trainer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.training.denoiser import Conditioning, LatentMoments
from rechar_core.training.loop import Training
from rechar_core.training.memory import LADDER, MemoryMode
from rechar_core.training.noise import SeededNoise
from rechar_core.training.recipe import TrainingRecipe
from rechar_core.training.run import TrainingRun

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
}
Run = tuple[
    list[float], Callable[[], dict[str, Tensor]]
]  # losses, and a function that gives the weight changes


@dataclass(frozen=True)
class Size:
    """Sizes of model and picture. width: the UNet's first channel count (SDXL: 320); vae: the VAE's (SDXL: 128)."""

    width: int
    heads: tuple[int, int, int]
    context: int
    vae: tuple[int, int, int, int]
    pixels: int
    rank: int


SIZES = {
    "cpu": Size(96, (3, 3, 6), 640, (32, 64, 160, 160), 256, 16),
    "quick": Size(32, (1, 2, 4), 128, (32, 32, 64, 64), 128, 8),
}


def build_unet(size: Size, device: str, dtype: torch.dtype) -> UNet2DConditionModel:
    """SDXL's architecture (11 attention blocks, 70 transformer blocks) at this width, with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(
            sample_size=size.pixels // 8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(size.width, 2 * size.width, 4 * size.width),
            layers_per_block=2,
            attention_head_dim=size.heads,
            transformer_layers_per_block=(1, 2, 10),
            cross_attention_dim=size.context,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=1280 + 6 * 256,
        )
    return unet.to(dtype).eval().requires_grad_(False)


def build_vae(size: Size, device: str) -> AutoencoderKL:
    """SDXL's VAE at a width in proportion, fp32 as the published trainer runs it."""
    torch.manual_seed(1)
    with torch.device(device):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae,
            layers_per_block=2,
            scaling_factor=0.13025,
        )
    return vae.eval().requires_grad_(False)


def inputs(size: Size, device: str) -> tuple[Tensor, Conditioning]:
    """A random picture (1, 3, H, W) in -1..1, and a random prompt's conditioning."""
    draw = torch.Generator().manual_seed(2)
    pixels = torch.rand(1, 3, size.pixels, size.pixels, generator=draw) * 2 - 1
    side = float(size.pixels)
    cond = Conditioning(
        torch.randn(1, 77, size.context, generator=draw),
        torch.randn(1, 1280, generator=draw),
        torch.tensor([[side, side, 0, 0, side, side]]),
    )
    return pixels.to(device), cond.to(torch.device(device), torch.float32)


def ours(unet: Any, vae: Any, size: Size, recipe: TrainingRecipe, mode: MemoryMode) -> Run:
    """This project's loop; the picture is encoded once. It computes where the VAE is, wherever the UNet is at home."""
    device = vae.device
    pixels, cond = inputs(size, str(device))
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    scale = vae.config.scaling_factor
    moments = LatentMoments(posterior.mean * scale, posterior.std * scale)
    vae.to("cpu")
    run = Training(DiffusersDenoiser(unet, SCHEDULE, device), [moments], cond, recipe)
    for _ in TrainingRun([run], mode).steps():
        pass
    return run.loss_values(), lambda: {path: pair.delta() for path, pair in run.blora().pairs.items()}


def published(
    unet: Any,
    vae: Any,
    pixels: Tensor,
    cond: Conditioning,
    recipe: TrainingRecipe,
    stepped: Callable[[int], None] = lambda number: None,
) -> Run:
    """The published trainer's step on current diffusers and PEFT, with the same draws as ours.

    VAE encode each step, PEFT layers, gradient checkpointing, AdamW; on CUDA fp16 with GradScaler and 8-bit AdamW.
    pixels: (1, 3, H, W) in -1..1. stepped: called with the number of steps that are done, after each.
    """
    device = str(unet.device)
    gpu = device.startswith("cuda")
    draws, scheduler = SeededNoise(recipe.seed), DDPMScheduler.from_config(SCHEDULE)
    layers = add_peft(unet, recipe, draws)
    unet.train()
    unet.enable_gradient_checkpointing()
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = published_optimizer(parameters, recipe, gpu)
    scaler = torch.amp.GradScaler(unet.device.type, enabled=gpu)
    added = {"text_embeds": cond.pooled, "time_ids": cond.time_ids}
    losses = []
    for number in range(recipe.steps):
        encoded = vae.encode(pixels).latent_dist
        drawn = draws.step(number, tuple(encoded.mean.shape), 1000)
        latents = (encoded.mean + encoded.std * drawn.posterior.to(device)) * vae.config.scaling_factor
        noise, timesteps = drawn.noise.to(device), drawn.timesteps.to(device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast("cuda", torch.float16) if gpu else contextlib.nullcontext():
            answer = unet(noisy, timesteps, cond.context, added_cond_kwargs=added).sample
        loss = torch.nn.functional.mse_loss(answer.float(), noise.float())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, recipe.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.detach().item())
        stepped(number + 1)
    return losses, lambda: {
        name: layer.lora_B["default"].weight.detach() @ layer.lora_A["default"].weight.detach()
        for name, layer in layers.items()
    }


def published_optimizer(parameters: list[Any], recipe: TrainingRecipe, gpu: bool) -> torch.optim.Optimizer:
    """8-bit AdamW on CUDA, where bitsandbytes is installed, else torch's."""
    kind: Any = torch.optim.AdamW
    if gpu:
        with contextlib.suppress(ImportError):
            from bitsandbytes.optim import AdamW8bit as kind
    return kind(
        parameters,
        lr=recipe.learning_rate,
        betas=recipe.betas,
        weight_decay=recipe.weight_decay,
        eps=recipe.epsilon,
    )


def add_peft(unet: Any, recipe: TrainingRecipe, draws: SeededNoise) -> dict[str, Any]:
    """PEFT layers on the same projections, with our initial values."""
    from peft import LoraConfig

    paths = list(DiffusersDenoiser(unet, SCHEDULE).layers())
    unet.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=paths))
    layers = {path: unet.get_submodule(path) for path in paths}
    for path, layer in layers.items():
        down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        down.data = draws.down(path, *down.shape).to(down.device)
        up.data = torch.zeros_like(up, dtype=torch.float32)
    return layers


def trainers(size: Size) -> Iterator[tuple[str, Callable[[Any, Any, TrainingRecipe], Run]]]:
    """Name and run of each, by unet, vae and recipe."""
    yield "published", lambda unet, vae, recipe: published(unet, vae, *inputs(size, str(unet.device)), recipe)
    for mode in LADDER:
        yield f"ours, {mode}", lambda unet, vae, recipe, mode=mode: ours(unet, vae, size, recipe, mode)
