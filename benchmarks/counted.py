"""What benchmarks/real_size.py counts: training in each memory mode, its set-up, and drawing, by our own code."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.counting import GPU, counting
from rechar_core.backend import pipeline as base
from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.backend.single_file import empty_models, scheduler
from rechar_core.lora.fusion import fuse
from rechar_core.training.denoiser import Conditioning, LatentMoments
from rechar_core.training.loop import Training
from rechar_core.training.memory import LADDER, MemoryMode
from rechar_core.training.recipe import TrainingRecipe
from rechar_core.training.run import TrainingRun

HALF = torch.bfloat16


def steps(unet: Any, mode: MemoryMode, pixels: int, rank: int, flops: bool = False, number: int = 4) -> float:
    """The most bytes at a time of `number` training steps, or the floating-point operations of one.

    unet: on the CPU; its weights are never read, so that torch.empty does.
    """
    context, pooled = unet.config.cross_attention_dim, 1280
    cond = Conditioning(torch.zeros(1, 77, context), torch.zeros(1, pooled), torch.zeros(1, 6))
    recipe = TrainingRecipe(rank=rank, steps=number, resolution=pixels, precision="bf16")
    with counting(flops) as counter:
        latents = LatentMoments(*(torch.zeros(1, 4, pixels // 8, pixels // 8, device=GPU) for _ in "ms"))
        denoiser = DiffusersDenoiser(unet, dict(scheduler({}).config), GPU)
        run = Training(denoiser, [latents], cond, recipe)
        run._check_losses = lambda: None  # type: ignore[method-assign]  # there are no losses
        for _ in TrainingRun([run], mode).steps():
            gc.collect()
        return counter.get_total_flops() / number if flops else counter.peak


def training(pixels: int) -> Iterator[str]:
    unet = _on_the_cpu(empty_models()["unet"][1], HALF)
    for mode in LADDER:
        peak = steps(unet, mode, pixels, 64)
        work = steps(unet, mode, pixels, 64, flops=True)
        yield f"training {mode}: {_gb(peak)} at most, {work / 1e12:.2f} TFLOP a step"


def set_up(pixels: int) -> Iterator[str]:
    """The VAE's part of it, which is the larger."""
    pipeline = _pipeline()
    with counting() as count:
        base.cast(pipeline.vae, torch.float32, GPU)
        base.encode_picture(pipeline, torch.zeros(1, pixels, pixels, 3))
        yield f"encoding a picture: {_gb(count.peak)} at most"


def drawing(pixels: int) -> Iterator[str]:
    """A step of plain fusion, then of the mode tuned, with its decoding, as generate does it."""
    from rechar_core.cli.generate import Sampling, sample

    pipeline = _pipeline()
    with counting() as count:
        _to_gpu(pipeline)
        yield f"drawing: weights {_gb(count.alive)}"
        plain = Sampling("A [c] in [s] style", steps=1, width=pixels, height=pixels)
        for _ in sample(pipeline, plain, fuse(None, None), [0], progress=False):
            yield f"drawing, plain fusion: {_gb(count.peak)} at most"
        count.reset()
        renderer = _painter(pipeline)
        yield f"drawing: weights with ControlNet {_gb(count.alive)}"
        renderer.render(_tuned(renderer, pixels))
        yield f"drawing, tuned with ControlNet and adapters: {_gb(count.peak)} at most"


def _painter(pipeline: Any) -> Any:
    """With a ControlNet of diffusers' full size and a plus adapter (16 tokens) for both roles."""
    from diffusers import ControlNetModel

    from rechar_core.backend.renderer import DiffusersIPAdapters, DiffusersRenderer, _cross_attentions
    from rechar_core.synthesis.references.projection import IPAdapter

    with torch.device("meta"):
        net = ControlNetModel.from_unet(pipeline.unet, load_weights_from_unet=False)
    widths = _cross_attentions(pipeline.unet)[1]
    matrices = {width: torch.zeros(width, 2048) for width in set(widths)}
    each = tuple(matrices[width] for width in widths)
    adapter = IPAdapter("counted", "plus", {}, each, each)
    return DiffusersRenderer(pipeline, DiffusersIPAdapters(adapter, adapter), base.cast(net, torch.float16))


def _tuned(renderer: Any, pixels: int) -> Any:
    from rechar_core.synthesis.elements import build_prompt
    from rechar_core.synthesis.modes import MODES
    from rechar_core.synthesis.passes import RenderJob
    from rechar_core.synthesis.references.attention import Reference

    mode = MODES["tuned"]
    rows = torch.zeros(16, 2048)
    return RenderJob(
        fuse(None, None),
        build_prompt("A [c] in [s] style"),
        build_prompt(mode.negative, mode="all"),
        (pixels, pixels),
        seed=0,
        steps=1,
        cfg=mode.cfg[2],
        references=tuple(Reference(renderer.adapter(r), r, rows, rows) for r in ("structure", "style")),
        scales={"structure": mode.structure_scale, "style": mode.style_scale},
        hint=torch.zeros(1, pixels, pixels, 3),
        control=mode.control[2],
    )


def _pipeline() -> Any:
    from diffusers import StableDiffusionXLPipeline

    from rechar_core.synthesis.tokenizer import tokenizers

    parts = {name: _on_the_cpu(model, torch.float16) for name, (_, model) in empty_models().items()}
    first, second = tokenizers()
    words = {"tokenizer": first, "tokenizer_2": second, "scheduler": scheduler({})}
    pipeline = StableDiffusionXLPipeline(**parts, **words, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _on_the_cpu(model: Any, dtype: torch.dtype) -> Any:
    """In memory that is never touched, and so takes none."""
    return base.cast(model, dtype).to_empty(device="cpu").eval().requires_grad_(False)


def _to_gpu(pipeline: Any) -> None:
    for part in (pipeline.unet, pipeline.text_encoder, pipeline.text_encoder_2):
        base.cast(part, GPU)
    base.cast(pipeline.vae, torch.float32, GPU)


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f}e9 bytes ({size / 2**30:.1f} GB)"
