"""Run by ComfyUI's Python in its folder: its own trainer or ours, on the demo model, measured.

    python in_host.py PACK BASE {native | ours, fast | ours, normal | ours, low} STEPS PIXELS {cost | tensors}

Prints one line of JSON. Both train fp32 at rank 8 on the same picture, batch 1, after the model has drawn one picture,
so that what the kernels' libraries load at their first call is not charged to training. cost: CPU seconds and resident
memory; tensors: the peak of PyTorch's own allocations (the profiler would disturb the former).
"""

import importlib
import inspect
import json
import os
import sys
import types
from pathlib import Path

PACK, BASE, NAME, STEPS = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
PIXELS, WHAT = int(sys.argv[5]), sys.argv[6]
sys.argv = ["main.py", "--cpu", "--base-directory", BASE]
sys.path[:0] = ["."]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

for name, folder in (
    ("rechar-pack", PACK),
    ("rechar-pack.nodes", PACK / "nodes"),
    ("rechar-pack.benchmarks", PACK / "benchmarks"),
):
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def part(name):
    """A module of the pack, without the pack's other nodes."""
    return importlib.import_module(f"rechar-pack.{name}")


def native(model, clip, latent):
    """ComfyUI's Train LoRA node as it comes, in fp32."""
    import comfy_extras.nodes_train as trainer

    positive = clip.encode_from_tokens_scheduled(clip.tokenize("A [v]"))
    node = trainer.TrainLoraNode
    known = {
        "model": model,
        "latents": {"samples": latent},
        "positive": positive,
        "batch_size": 1,
        "grad_accumulation_steps": 1,
        "steps": STEPS,
        "learning_rate": 5e-5,
        "rank": 8,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "algorithm": "LoRA",
        "gradient_checkpointing": True,
        "existing_lora": "[None]",
    }
    if hasattr(node, "execute"):  # 0.8.0: a V3 node, its values in lists
        known |= {
            "bucket_mode": False,
            "bypass_mode": False,
            "offloading": False,
            "checkpoint_depth": 1,
            "quantized_backward": False,
        }
        wanted = inspect.signature(node.execute).parameters
        values = {k: v for k, v in known.items() if k in wanted}
        lists = {k: [v] for k, v in values.items()}
        return node.execute(**{**lists, "latents": [known["latents"]], "positive": [positive]})
    return node().train(**known)


def ours(model, clip, latent, mode):
    """What our node does behind its encoding."""
    host, loop = part("nodes.host.denoiser"), part("rechar_core.training.loop")
    values = part("rechar_core.training.denoiser")
    recipe = part("rechar_core.training.recipe").TrainingRecipe(rank=8, steps=STEPS, resolution=PIXELS)
    with host.trainable(model) as denoiser:
        cond = host.ordinary(
            part("nodes.host.encoders").encode_prompt(clip, "A [v]", PIXELS), denoiser.device
        )
        moments = values.LatentMoments(latent.clone(), torch.full_like(latent, 0.1).clone())
        run = loop.Training(denoiser, [moments], cond, recipe)
        for _ in part("rechar_core.training.run").TrainingRun([run], mode).steps():
            pass
        return run.blora()


def drawn(model, clip, latent):
    """One step of the host's own sampler."""
    import comfy.sample

    words = clip.encode_from_tokens_scheduled(clip.tokenize("A [v]"))
    noise = comfy.sample.prepare_noise(latent, 0)
    return comfy.sample.sample(model, noise, 1, 1.0, "euler", "normal", words, words, latent)


def main():
    torch.set_num_threads(1)
    measure = part("benchmarks.measure")
    os.makedirs(os.path.join(BASE, "models", "loras"), exist_ok=True)
    for module in ("nodes.host.denoiser", "rechar_core.training.loop", "rechar_core.training.recipe"):
        part(module)  # neither is charged for what it imports
    importlib.import_module("comfy_extras.nodes_train")
    importlib.import_module("torch.utils.checkpoint")
    importlib.import_module("torch._dynamo")
    with torch.inference_mode():  # as in a node
        model, clip, _ = part("nodes.host.demo_model").shared_demo()
        latent = torch.randn(1, 4, PIXELS // 8, PIXELS // 8, generator=torch.Generator().manual_seed(0))
        clip.encode_from_tokens_scheduled(
            clip.tokenize("A [v]")
        )  # loads the encoders: not a part of training
        comfy.model_management.load_models_gpu([model], force_full_load=True)
        drawn(model, clip, latent)
        with measure.tensors() if WHAT == "tensors" else measure.measured() as cost:
            kept = native(model, clip, latent) if NAME == "native" else ours(model, clip, latent, NAME[6:])
        assert kept
    print(json.dumps({**vars(cost), "per_step": cost.seconds / STEPS}))


main()
