"""The host's own loading, casting and sampling on the card: `python check_host.py PACK FOLDER cpu|plain|dynamic`.

In a ComfyUI checkout's folder. `cpu` writes FOLDER/expected.safetensors, which the others are compared with.
"""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KIND = sys.argv[3]
sys.path[0] = str(Path(__file__).parents[1])  # tests/

import torch  # noqa: E402
from in_host import FOLDER, part, start  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402

if KIND == "cpu":
    start()
else:
    from accelerator import aimdo, checking, host
    from accelerator.device import DEVICE, memory

    host.start(dynamic=KIND == "dynamic", newer_pins=True)

import comfy.model_management as management  # noqa: E402

import nodes  # noqa: E402

EXPECTED = FOLDER / "expected.safetensors"


@torch.inference_mode()  # as in a node
def picture(seed: int) -> dict[str, Tensor]:
    """Prompt, sampling, decoding and encoding by the host's code, with a patch on MODEL as a LoRA would be."""
    model, clip, vae = part("nodes.host.demo_model").shared_demo()
    key = "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn1.to_q.weight"
    weight = model.model.state_dict()[key]
    model.add_patches({key: ("diff", (torch.full(weight.shape, 0.01),))}, 0.5)
    prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in ("A [v]", "")]
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    drawn = nodes.common_ksampler(model, seed, 2, 2.0, "euler", "normal", *prompts, latent)[0]["samples"]
    pixels = vae.decode(drawn)
    return {"latent": drawn, "pixels": pixels, "encoded": vae.encode(pixels), "prompt": prompts[0][0][0]}


def after_a_node() -> None:
    """What the host does after each node with dynamic VRAM (execution.py)."""
    if KIND == "dynamic":
        import comfy_aimdo.model_vbar

        management.reset_cast_buffers()
        comfy_aimdo.model_vbar.vbars_reset_watermark_limits()


def near(made: dict[str, Tensor]) -> None:
    for name, wanted in load_file(EXPECTED).items():
        error = float((made[name].cpu() - wanted).abs().max() / wanted.abs().max())
        assert error < 1e-4, f"{name} is off by {error}"


def check_the_host_found_the_card() -> None:
    model = part("nodes.host.demo_model").shared_demo()[0]
    assert management.get_torch_device() == DEVICE and model.load_device == DEVICE
    assert type(model).__name__ == {"plain": "ModelPatcher", "dynamic": "ModelPatcherDynamic"}[KIND]


def check_the_picture_is_the_cpus() -> None:
    near(picture(1))
    assert memory.peak > 1e6 and not aimdo.violations, aimdo.violations


def check_a_second_run_takes_no_more_memory() -> None:
    held = []
    for _ in range(2):
        picture(1)
        after_a_node()
        gc.collect()
        held.append(memory.current)
    assert held[0] == held[1] > 0


@contextmanager
def limited(beside: int) -> Iterator[None]:
    """So much memory beside what is held now."""
    memory.limit = memory.current + beside
    try:
        yield
    finally:
        memory.limit = None


def check_the_picture_on_a_card_that_is_too_small() -> None:
    """The models do not fit beside one another, nor the UNet beside what it computes."""
    management.unload_all_models()
    gc.collect()
    before = aimdo.taken_back
    kept = management.EXTRA_RESERVED_VRAM, management.minimum_inference_memory
    management.EXTRA_RESERVED_VRAM, management.minimum_inference_memory = 0, lambda: 10 << 20
    try:
        with limited(56 << 20):
            near(picture(1))
    finally:
        management.EXTRA_RESERVED_VRAM, management.minimum_inference_memory = kept
    assert not aimdo.violations, aimdo.violations
    assert KIND == "plain" or aimdo.taken_back > before


def check_what_is_taken_back_is_nan() -> None:
    if KIND != "dynamic":
        return
    import comfy_aimdo.model_vbar as vbar

    picture(1)
    model = part("nodes.host.demo_model").shared_demo()[0]
    module = next(m for m in model.model.modules() if hasattr(m, "_v_weight"))
    signature = vbar.vbar_fault(module._v)
    assert vbar.vbar_signature_compare(signature, module._v_signature) and module._v_weight.isfinite().all()
    memory.reclaim(1 << 40)
    assert module._v_weight.isfinite().all(), "it is pinned"
    vbar.vbar_unpin(module._v)
    memory.reclaim(1 << 40)
    assert not aimdo.violations
    assert module._v_weight.isnan().all()
    assert aimdo.violations.pop() == "a weight was used while the library could take its memory back"
    aimdo.violations.clear()
    assert vbar.vbar_fault(module._v) is None, "below the watermark until the model is loaded again"


def check_a_deep_copy_of_a_loaded_module_is_seen() -> None:
    """It frees the memory of the original when it dies."""
    if KIND != "dynamic":
        return
    vae = part("nodes.host.demo_model").shared_demo()[2]
    twin = copy.deepcopy(vae.first_stage_model.encoder)
    aimdo.violations.clear()  # copying the weights themselves reads what is not pinned
    del twin
    gc.collect()
    caught = ""
    try:
        vae.encode(torch.zeros(1, 64, 64, 3))
    except RuntimeError as error:
        caught = str(error)
    assert "after it was freed" in caught and aimdo.violations, (caught, aimdo.violations)


if KIND == "cpu":
    save_file({name: tensor.clone().contiguous() for name, tensor in picture(1).items()}, EXPECTED)
    (FOLDER / "results.json").write_text("{}")
else:
    checking.main(globals(), FOLDER)
