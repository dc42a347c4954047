"""Train B-LoRA's own function in a host on the card: `python check_training.py PACK FOLDER cpu|plain|dynamic [every]`.

In a ComfyUI checkout's folder. `cpu` writes FOLDER/expected.safetensors: losses and LoRA in fp32, on the demo MODEL and
on one with another LoRA. The others run their cases (all with `every`), and write what is wrong to results.json.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

KIND, EVERY = sys.argv[3], "every" in sys.argv[4:]
sys.path[0] = str(Path(__file__).parents[1])  # tests/

import torch  # noqa: E402
from in_host import FOLDER, part, start  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from torch import Tensor  # noqa: E402

if KIND == "cpu":
    start()
else:
    from accelerator import aimdo, cases, host
    from accelerator.device import memory

    host.start(dynamic=KIND == "dynamic", newer_pins=True)

import comfy.model_management as management  # noqa: E402

EXPECTED = FOLDER / "expected.safetensors"
STEPS = 4
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NEAR = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}  # losses, relative to fp32's on the CPU
# Cosine of the LoRA's product and fp32's on the CPU: Adam's first steps take each gradient's sign, however small it is.
ALIKE = {"fp32": 0.9999, "fp16": 0.95, "bf16": 0.85}
Made = dict[str, Tensor]


@lru_cache(maxsize=3)
def models(precision: str) -> tuple[Any, Any, Any]:
    """The demo's MODEL in this precision, CLIP and VAE."""
    demo = part("nodes.host.demo_model")
    model, clip, vae = demo.load_demo(*part("rechar_core.demo.build").demo_state())
    unet, dtype = model.model.diffusion_model, DTYPES[precision]
    if precision != "fp32":
        unet.to(dtype).dtype = dtype
        demo.keep_dtypes(unet)
    # the host moves a few values to the card for good when it first loads a model
    management.load_models_gpu([model, clip.patcher, vae.patcher])
    return model, clip, vae


def patched(model: Any) -> Any:
    """MODEL with another LoRA beneath."""
    model, draw = model.clone(), torch.Generator().manual_seed(4)
    for name in ("input_blocks.4.1.transformer_blocks.0.attn1.to_q", "output_blocks.0.1.proj_in"):
        key = f"diffusion_model.{name}.weight"
        change = torch.randn(model.model.state_dict()[key].shape, generator=draw) * 0.05
        model.add_patches({key: ("diff", (change,))}, 0.7)
    return model


def train(model: Any, clip: Any, vae: Any, mode: str) -> Made:
    recipe = part("rechar_core.training.recipe").TrainingRecipe(
        rank=4, steps=STEPS, resolution=64, learning_rate=1e-3, memory=mode
    )
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():  # as in a node
        (made,) = part("nodes.host.training").train(model, clip, vae, image, recipe)
    pairs = made.blora.pairs
    delta = torch.cat([pairs[name].delta().flatten() for name in sorted(pairs)])
    return {"losses": torch.tensor(made.losses), "delta": delta.float()}


def forget() -> None:
    """What was trained before."""
    shutil.rmtree(part("nodes.host.folders").cache_folder())


@contextmanager
def at_call(owner: Any, name: str, number: int, act: Callable[[], object]) -> Iterator[None]:
    """act is called before the number-th call of owner's function."""
    whole, calls = getattr(owner, name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == number:
            act()
        return whole(*args, **kwargs)

    setattr(owner, name, counted)
    try:
        yield
    finally:
        setattr(owner, name, whole)


def cancelled(*given: Any) -> None:
    """In the third step: the first two are kept."""
    try:
        with at_call(torch.optim.AdamW, "step", 3, management.interrupt_current_processing):
            train(*given)
    except management.InterruptProcessingException:
        assert list(part("nodes.host.folders").cache_folder().glob("*.state")), "its state is lost"
        return
    raise AssertionError("it went on after Cancel")


def out_of_memory(*given: Any) -> Made | None:
    """In the second step's backward pass. Every mode but the last goes on in the next."""

    def short() -> None:
        memory.fail_in = 5

    said = None
    with at_call(torch.Tensor, "backward", 2, short):
        try:
            return train(*given)
        except part("rechar_core.errors").TrainingError as error:
            said = str(error)
    assert given[-1] == "low" and "The memory ran out even in memory mode low" in said, said
    return None


def run(case: Any) -> None:
    """Raises: AssertionError for a wrong result, for a changed model, for memory kept, for memory misused."""
    parts = models(case.precision)
    management.unload_all_models()
    before, held = state(parts), settled()
    model = patched(parts[0]) if case.start == "over" else parts[0].clone()
    given = (model, *parts[1:], case.mode)
    made = None
    if case.start in ("cancelled", "resumed"):
        cancelled(*given)
    if case.start == "oom":
        made = out_of_memory(*given)
    elif case.start != "cancelled":
        made = train(*given)
    assert not aimdo.violations, aimdo.violations
    if made:
        compare(made, "over" if case.start == "over" else "fresh", case.precision)
    del made, model, given
    management.unload_all_models()
    after = state(parts)
    changed = [name for name in before if not torch.equal(after[name], before[name])]
    assert after.keys() == before.keys() and not changed, changed
    assert settled() == held, f"{settled() - held} bytes more are held after it"


def compare(made: Made, start: str, precision: str) -> None:
    wanted = load_file(EXPECTED)
    losses, delta = wanted[f"{start}.losses"], wanted[f"{start}.delta"]
    torch.testing.assert_close(made["losses"], losses, rtol=NEAR[precision], atol=0)
    alike = float(torch.cosine_similarity(made["delta"], delta, dim=0))
    assert alike > ALIKE[precision], f"the LoRA's product has a cosine of {alike:.5f} with the CPU's"


def state(parts: Any) -> Made:
    """MODEL, CLIP and VAE, bit for bit."""
    modules = parts[0].model, parts[1].cond_stage_model, parts[2].first_stage_model
    return {f"{i}.{n}": t.cpu().clone() for i, m in enumerate(modules) for n, t in m.state_dict().items()}


def settled() -> int:
    """Bytes held when nothing is under way, as after a node (execution.py)."""
    if KIND == "dynamic":
        management.reset_cast_buffers()
    gc.collect()
    return memory.current


def main() -> None:
    if KIND == "cpu":
        model, clip, vae = models("fp32")
        for name, given in (("fresh", model), ("over", patched(model))):
            made = train(given, clip, vae, "fast")
            expected = load_file(EXPECTED) if EXPECTED.is_file() else {}
            save_file(expected | {f"{name}.{key}": value for key, value in made.items()}, EXPECTED)
        (FOLDER / "results.json").write_text("{}")
        return
    found = {}
    for case in cases.every() if EVERY else cases.pairwise():
        if case.host == KIND:
            forget()
            found[str(case)] = attempt(case)
            aimdo.violations.clear()
            memory.fail_in = None
    (FOLDER / "results.json").write_text(json.dumps(found))
    os._exit(0)  # as in checking.py


def attempt(case: Any) -> str:
    try:
        run(case)
    except Exception:
        return traceback.format_exc()
    return ""


main()
