"""What went wrong in hosts with dynamic VRAM, one check each: `python check_faults.py PACK FOLDER`.

In a ComfyUI checkout's folder, on the simulated card. That a training there works at all shows check_training.py.
"""

from __future__ import annotations

import gc
import inspect
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # tests/

from accelerator import aimdo, checking, host  # noqa: E402

host.start(dynamic=True, newer_pins=True)

import comfy.model_management as management  # noqa: E402
import comfy.ops  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from in_host import FOLDER, part  # noqa: E402

QUERY = "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn1.to_q.weight"
WIDTH = 128  # of the demo's UNet there


def demo() -> tuple[Any, Any, Any]:
    return part("nodes.host.demo_model").shared_demo()


def patched(model: Any, strength: float) -> Any:
    """MODEL with a patch that dynamic VRAM keeps outside the weight."""
    other = model.clone()
    other.add_patches({QUERY: ("diff", (torch.ones(WIDTH, WIDTH),))}, strength)
    return other


def sampled(model: Any, clip: Any) -> None:
    import nodes

    with torch.inference_mode():
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize("A [v]"))
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        nodes.common_ksampler(model, 1, 1, 1.0, "euler", "normal", prompt, prompt, latent)


def check_the_demo_loads() -> None:
    """The host's layers have no weights before they are loaded, and take any shape."""
    model, clip, vae = demo()
    kinds = {type(patcher).__name__ for patcher in (model, clip.patcher, vae.patcher)}
    assert kinds == {"ModelPatcherDynamic"}
    fill, errors = part("nodes.host.demo_model").fill, part("rechar_core.errors")
    for wrong in ({"weight": torch.zeros(3, 2)}, {"weight": torch.zeros(2, 2), "more": torch.zeros(1)}, {}):
        layer = comfy.ops.disable_weight_init.Linear(2, 2, bias=False)
        with pytest.raises(errors.ModelError, match="does not fit"):
            fill(layer, wrong, "layer")


def check_encoding_pictures_frees_nothing_of_the_hosts() -> None:
    """A deep copy of the VAE's encoder freed what the encoder casts its weights into."""
    _, _, vae = demo()
    pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = vae.encode(pixels)
        part("nodes.host.encoders").encode_pictures(vae, pixels, 64, 1.0)
        gc.collect()
        assert torch.equal(vae.encode(pixels), before)
    assert not aimdo.violations, aimdo.violations


def check_a_lora_beneath_is_part_of_the_job() -> None:
    """Patches wait outside the parameters, which the job's hash was made of."""
    model, clip, _ = demo()
    trainable, hashed = (
        part("nodes.host.denoiser").trainable,
        part("rechar_core.training.job").model_hash,
    )
    found = []
    for each in (model, patched(model, 0.1), patched(model, 0.2), model):
        sampled(each, clip)  # a host that has it loaded
        with trainable(each) as denoiser:
            found.append(hashed(denoiser))
    assert found[0] == found[3] and len(set(found)) == 3, found


def check_the_image_encoder_computes_in_fp32() -> None:
    """The host would cast its weights to the fp16 that the class chose on a card."""
    encoder = part("nodes.host.demo_references").demo_references()[0].encoder
    pixels = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        encoder.encode_image(pixels)
    layers = [m for m in encoder.model.modules() if hasattr(m, "_v_weight")]
    assert layers and {m._v_weight.dtype for m in layers} == {torch.float32}


def check_hosts_that_load_a_model_again_get_the_demo() -> None:
    """Without cached_patcher_init the host's Train LoRA, Select Device nodes and MultiGPU refuse it."""
    model, clip, vae = demo()
    for patcher in (model, clip.patcher, vae.patcher):
        again = patcher.clone(force_deepcopy=True)
        pairs = zip(patcher.model.state_dict().values(), again.model.state_dict().values(), strict=True)
        assert again.model is not patcher.model and all(torch.equal(a, b) for a, b in pairs)
        assert type(patcher.clone(disable_dynamic=True)).__name__ == "ModelPatcher"
    assert model.deepclone_multigpu(new_load_device=torch.device("cpu")).load_device.type == "cpu"


def check_the_hosts_own_trainer_takes_the_demo() -> None:
    from comfy_extras.nodes_train import TrainLoraNode

    model, clip, _ = demo()
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("A [v]"))
    chosen = {
        "model": model,
        "batch_size": 1,
        "steps": 1,
        "grad_accumulation_steps": 1,
        "learning_rate": 1e-3,
        "rank": 1,
        "optimizer": "SGD",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": "fp32",
        "lora_dtype": "fp32",
        "algorithm": "LoRA",
        "gradient_checkpointing": False,
        "existing_lora": "[None]",
    }
    off = ("bucket_mode", "bypass_mode", "offloading", "quantized_backward")
    known = inspect.signature(TrainLoraNode.execute).parameters
    values = {
        name: [value]
        for name, value in {**chosen, **dict.fromkeys(off, False), "checkpoint_depth": 1}.items()
    }
    lists = {name: value for name, value in values.items() if name in known}
    with torch.inference_mode():
        lora = TrainLoraNode.execute(
            **lists, latents=[{"samples": torch.zeros(1, 4, 8, 8)}], positive=[prompt]
        )[0]
    assert lora


def check_a_schedule_that_the_host_leaked_is_not_trained_on() -> None:
    """Unloading puts one sampling's sigmas into another (Comfy-Org/ComfyUI#16490)."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    read = part("nodes.host.inputs").alphas_cumprod
    model, clip, _ = demo()
    own = model.model.model_sampling.sigmas.clone().cpu()
    zsnr = ModelSamplingDiscrete().patch(model, "v_prediction", True)[0]
    other = zsnr.object_patches["model_sampling"].sigmas.clone().cpu()
    for each in (model, zsnr, model):
        sampled(each, clip)
        management.unload_all_models()
    held = model.model.model_sampling.sigmas.cpu(), zsnr.object_patches["model_sampling"].sigmas.cpu()
    leaked = not (torch.equal(held[0], own) and torch.equal(held[1], other))
    print("this host leaks schedules:", leaked)
    assert torch.equal(read(model), 1 / (1 + own**2))
    assert torch.equal(read(zsnr), 1 / (1 + other**2))


checking.main(globals(), FOLDER)
