"""Every layout of LoRA files: what Fuse makes of it is right by one of three measures, which each row names.

"host": the patched weights equal those of ComfyUI's own LoraLoader, byte for byte. "kohya": they equal those of the
same weights under kohya's keys, since ComfyUI reads this layout not at all, or not all of it. "closed": they equal
those of the weight change in closed form, because ComfyUI leaves a part of it out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from loras import STRUCTURE, random
from safetensors.torch import save_file
from server import run_inside
from torch import Tensor

from benchmarks import fuzz
from rechar_core.lora import files

HOST = "output_blocks.0.1"
WIDTH, RANK = 128, 4
QUERY, PROJ, OUT, NORM = (
    *("transformer_blocks.0.attn1.to_q", "proj_in", "transformer_blocks.0.attn1.to_out.0", "norm"),
)
Parts = dict[str, Tensor]


def lora(alpha: float | None = 3.0, **more: Tensor) -> Parts:
    """One layer by part. alpha None: the file has none."""
    pair = {"down": random(RANK, WIDTH, seed=1) * 0.1, "up": random(WIDTH, RANK, seed=2) * 0.1}
    return pair | ({} if alpha is None else {"alpha": torch.tensor(alpha)}) | more


def loha(**more: Tensor) -> Parts:
    shapes = {"a": (WIDTH, RANK), "b": (RANK, WIDTH)}
    sides = {f"hada_w{n}_{x}": random(*s, seed=n) * 0.2 for n in (1, 2) for x, s in shapes.items()}
    return {**sides, "alpha": torch.tensor(2.0), **more}


def lokr(**more: Tensor) -> Parts:
    return {
        "lokr_w1": random(8, 8) * 0.1,
        "lokr_w2": random(16, 16) * 0.1,
        "alpha": torch.tensor(1.0),
        **more,
    }


def lokr_decomposed(**more: Tensor) -> Parts:
    shapes = {"lokr_w1_a": (8, 2), "lokr_w1_b": (2, 8), "lokr_w2_a": (16, 2), "lokr_w2_b": (2, 16)}
    return (
        {p: random(*s, seed=i) * 0.2 for i, (p, s) in enumerate(shapes.items())}
        | {"alpha": torch.tensor(2.0)}
        | more
    )


def glora(**more: Tensor) -> Parts:
    shapes = {"a1": (WIDTH, 4), "a2": (4, WIDTH), "b1": (WIDTH, 4), "b2": (4, WIDTH)}
    return {f"{p}.weight": random(*s, seed=i) * 0.1 for i, (p, s) in enumerate(shapes.items())} | more


def magnitude(*shape: int) -> Tensor:
    return random(*shape, seed=7).abs() + 0.5


def flat(path: str) -> str:
    return path.replace(".", "_")


def processor(path: str) -> str:
    return path.replace(".to_", ".processor.to_").removesuffix(".0")


KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight"}
PEFT = {"down": "lora_A.weight", "up": "lora_B.weight"}
NAMED = {"down": "lora_A.default.weight", "up": "lora_B.default.weight"}
SHORT = {"down": "lora_A", "up": "lora_B"}
DIFFUSERS = {"down": "lora.down.weight", "up": "lora.up.weight"}
OLD = {"down": "lora_linear_layer.down.weight", "up": "lora_linear_layer.up.weight"}

# prefix + path, for (diffusers path of the block, ComfyUI's)
SPELLINGS: dict[str, Callable[[str], str]] = {
    "kohya": lambda m: f"lora_unet_{flat(f'{STRUCTURE}.{m}')}",
    "kohya-sgm": lambda m: f"lora_unet_{flat(f'{HOST}.{m}')}",
    "comfy": lambda m: f"diffusion_model.{HOST}.{m}",
    "lycoris": lambda m: f"lycoris_{flat(f'{STRUCTURE}.{m}')}",
    "processor": lambda m: processor(f"unet.{STRUCTURE}.{m}"),
    "processor, bare": lambda m: processor(f"{STRUCTURE}.{m}"),
    "diffusers": lambda m: f"unet.{STRUCTURE}.{m}",
    "diffusers, bare": lambda m: f"{STRUCTURE}.{m}",
    "diffusers-0.24": lambda m: f"unet.unet.{STRUCTURE}.{m}",
    "peft": lambda m: f"base_model.model.{STRUCTURE}.{m}",
    "peft, unet inside": lambda m: f"base_model.model.unet.{STRUCTURE}.{m}",
    "peft, unet before": lambda m: f"unet.base_model.model.{STRUCTURE}.{m}",
    "onetrainer": lambda m: f"unet.{HOST}.{m}",
    "onetrainer, bare": lambda m: f"{HOST}.{m}",
    "lycoris-sgm": lambda m: f"lycoris_{flat(f'{HOST}.{m}')}",
    "comfy-diffusers": lambda m: f"diffusion_model.{STRUCTURE}.{m}",
    "model, comfy": lambda m: f"model.diffusion_model.{HOST}.{m}",
    "model, diffusers": lambda m: f"model.diffusion_model.{STRUCTURE}.{m}",
    "half dotted": lambda m: f"lora_unet_{flat(STRUCTURE)}_{m}",
}


def keyed(spelling: str, parts: Parts, endings: dict[str, str] = KOHYA, module: str = QUERY) -> Parts:
    head = SPELLINGS[spelling](module)
    return {f"{head}.{endings.get(part, part)}": tensor for part, tensor in parts.items()}


# name -> (measure, the file, the same under kohya's keys or in closed form)
LAYOUTS: dict[str, tuple[str, Parts, Parts]] = {}


def add(name: str, measure: str, state: Parts, right: Parts | None = None) -> None:
    assert name not in LAYOUTS
    twin = state if measure == "host" else keyed("kohya", lora())
    LAYOUTS[name] = (measure, state, twin if right is None else right)


for spelling in ("kohya", "kohya-sgm", "comfy", "lycoris"):
    add(spelling, "host", keyed(spelling, lora()))
    add(f"{spelling}, PEFT's endings", "host", keyed(spelling, lora(), PEFT))
for spelling in ("processor", "processor, bare"):
    state = keyed(spelling, lora(None))
    state = {
        k.replace(".lora_down", "_lora.down").replace(".lora_up", "_lora.up"): t for k, t in state.items()
    }
    add(spelling, "host", state, keyed("kohya", lora(None)))
    add(f"{spelling}, kohya's endings", "host", keyed(spelling, lora()))
add("kohya, adapter named", "host", keyed("kohya", lora(), NAMED))
add("comfy, without .weight", "host", keyed("comfy", lora(), SHORT))
add("comfy, diffusers' endings", "host", keyed("comfy", lora(), DIFFUSERS))
add("kohya, linear layer", "host", keyed("kohya", lora(), OLD))
add(
    "diffusers, other layers",
    "host",
    keyed("diffusers", lora(), module=PROJ),
    keyed("kohya", lora(), module=PROJ),
)
for name, parts in (
    *(("LoHa", loha()), ("LoKr", lokr()), ("LoKr, decomposed", lokr_decomposed()), ("GLoRA", glora())),
    ("OFT", {"oft_blocks": random(16, 8, 8) * 0.05, "alpha": torch.tensor(0.0)}),
    ("full difference", {"diff": random(WIDTH, WIDTH) * 0.1}),
    ("replaced weight", {"set_weight": random(WIDTH, WIDTH) * 0.1}),
    ("DoRA, per output", lora(dora_scale=magnitude(WIDTH, 1))),
    ("DoRA, per input", lora(dora_scale=magnitude(1, WIDTH))),
    ("LoHa with DoRA", loha(dora_scale=magnitude(WIDTH, 1))),
):
    add(name, "host", keyed("kohya", parts))
add("bias alone", "host", keyed("kohya", {"diff_b": random(WIDTH)}, module=PROJ))
add("bias beside a LoRA", "host", keyed("comfy", lora(diff_b=random(WIDTH)), module=OUT))
add("bias of a layer without one", "host", keyed("kohya", lora(diff_b=random(WIDTH))))
add("norm", "host", keyed("kohya", {"w_norm": random(WIDTH), "b_norm": random(WIDTH, seed=1)}, module=NORM))
add("norm's weight alone", "host", keyed("kohya", {"w_norm": random(WIDTH)}, module=NORM))
add(
    "norm as a difference",
    "host",
    keyed("comfy", {"diff": random(WIDTH), "diff_b": random(WIDTH)}, module=NORM),
)
for spelling in (
    *("diffusers", "diffusers, bare", "diffusers-0.24", "peft", "peft, unet inside", "peft, unet before"),
):
    endings = PEFT if "peft" in spelling else DIFFUSERS
    add(f"{spelling}, alone", "kohya", keyed(spelling, lora(None), endings), keyed("kohya", lora(None)))
for spelling in (
    *("onetrainer", "onetrainer, bare", "lycoris-sgm", "comfy-diffusers", "model, comfy", "model, diffusers"),
    "half dotted",
):
    add(spelling, "kohya", keyed(spelling, lora()))
add("diffusers, kohya's endings", "kohya", keyed("diffusers", lora()))
add("onetrainer, LoHa", "kohya", keyed("onetrainer", loha()), keyed("kohya", loha()))
add("onetrainer, PEFT's endings", "kohya", keyed("onetrainer", lora(), PEFT))
DORA = keyed("kohya", lora(dora_scale=magnitude(WIDTH, 1)))
for ending in (
    "lora_magnitude_vector",
    "lora_magnitude_vector.weight",
    "lora_magnitude_vector.default",
    "magnitude",
):
    add(
        f"PEFT's DoRA, {ending}",
        "kohya",
        keyed("peft", lora(), PEFT) | keyed("peft", {ending: magnitude(WIDTH)}),
        DORA,
    )
    add(
        f"half dotted {ending}",
        "kohya",
        keyed("kohya", lora()) | keyed("half dotted", {ending: magnitude(WIDTH)}),
        DORA,
    )
HALF = keyed("half dotted", {"dora_scale": magnitude(WIDTH, 1)})
add("half dotted dora_scale", "kohya", keyed("kohya", lora()) | HALF, DORA)
SCALAR = torch.tensor(0.37)
up = lora()["up"]
add(
    "LoCon with a scalar",
    "closed",
    keyed("kohya", lora(scalar=SCALAR)),
    keyed("kohya", lora() | {"up": up * SCALAR}),
)
side = loha()["hada_w1_a"] * SCALAR
add("LoHa with a scalar", "closed", keyed("kohya", loha(scalar=SCALAR)), keyed("kohya", loha(hada_w1_a=side)))
side = lokr()["lokr_w1"] * SCALAR
add("LoKr with a scalar", "closed", keyed("kohya", lokr(scalar=SCALAR)), keyed("kohya", lokr(lokr_w1=side)))
add("norm's bias alone", "closed", keyed("kohya", {"b_norm": random(WIDTH)}, module=NORM),
    keyed("kohya", {"diff_b": random(WIDTH)}, module=NORM))  # fmt: skip
add("PEFT's bias is left out", "kohya", keyed("peft", lora(None) | {"lora_B.bias": random(WIDTH)}, PEFT),
    keyed("kohya", lora(None)))  # fmt: skip


def test_there_are_enough_layouts():
    measures = [measure for measure, _, _ in LAYOUTS.values()]
    assert len(measures) >= 40 and set(measures) == {"host", "kohya", "closed"}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_holds_what_its_kohya_twin_holds(name: str):
    """A failure means a file that is read as other weights than it has."""
    _, state, right = LAYOUTS[name]
    ours, twin = files.from_tensors(state), files.from_tensors(right)
    assert set(ours.pairs) == set(twin.pairs)
    for module, one in ours.pairs.items():
        assert torch.equal(one.delta(), twin.pairs[module].delta())
        assert (one.dora_scale is None) == (twin.pairs[module].dora_scale is None)
        assert one.dora_scale is None or torch.equal(one.dora_scale, twin.pairs[module].dora_scale)
    assert ours.outside == ()


@pytest.fixture(scope="module")
def about(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What host_layouts.py found."""
    folder = tmp_path_factory.mktemp("host_layouts")
    for number, (_, state, right) in enumerate(LAYOUTS.values()):
        for name, tensors in (("given", state), ("right", right)):
            save_file(
                {key: t.contiguous() for key, t in tensors.items()}, folder / f"{number}_{name}.safetensors"
            )
    return run_inside(Path(__file__).with_name("host_layouts.py"), folder)[1]


@pytest.mark.host
@pytest.mark.parametrize("name", LAYOUTS)
def test_fused_weights_are_right(about: dict[str, Any], name: str):
    """A failure means that Fuse gives other weights than ComfyUI's own loader, or than the closed form."""
    measure, number = LAYOUTS[name][0], list(LAYOUTS).index(name)
    given, right = about[f"{number}_given"], about[f"{number}_right"]
    assert given["ours"] and given["ours"] == given["lora_model"]
    assert given["ours"] == (given if measure == "host" else right)["host"]
    assert measure == "host" or given["host"] != given["ours"]


def test_damaged_files_are_read_or_refused_in_one_sentence():
    """A failure means a traceback, or a file that is read and cannot be used: 300 seeded changes of sound files."""
    found = Counter(fuzz.outcomes(300, seed=24))
    assert sum(found.values()) == 300 and found["read"] > 20 and found["LoraError"] > 20, found
