"""rechar_core.backend.stored: which keys of a checkpoint are applied, refused or passed over, and what comes out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from server import run_inside
from torch import Tensor

from rechar_core.backend.stored import dequantised, examine, read
from rechar_core.errors import ModelError
from rechar_core.storage import opened

SCRIPT = Path(__file__).parent / "host_stored.py"
UNET = "model.diffusion_model."
LAYER, OTHER = f"{UNET}middle_block.1.proj_in", f"{UNET}out.2"
WANTED = {f"{LAYER}.weight": (24, 16), f"{LAYER}.bias": (24,), f"{OTHER}.weight": (4, 16, 1, 1)}
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def weights() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(5)
    return {key: torch.randn(shape, generator=draw) * 0.05 for key, shape in WANTED.items()}


def quant(**about: object) -> Tensor:
    return torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)


def by_scale(weight: Tensor, kind: torch.dtype, rows: bool = False) -> tuple[Tensor, Tensor]:
    """Stored values and their scale, as absolute-maximum quantisation makes them."""
    most = 127.0 if kind == torch.int8 else torch.finfo(kind).max
    scale = (weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()) / most
    stored = weight / scale
    return (stored.round() if kind == torch.int8 else stored).to(kind), scale


def layout(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file whose one linear layer is stored in this way, the others plainly."""
    found, metadata = weights(), {}
    key = f"{LAYER}.weight"
    if name.startswith("plain"):
        kind = {"plain": torch.bfloat16, "plain e4m3": E4M3, "plain e5m2": E5M2}[name]
        return {k: v.to(kind) for k, v in found.items()}, {}
    kind = E5M2 if "e5m2" in name else torch.int8 if name.startswith("int8") else E4M3
    found[key], scale = by_scale(found[key], kind, rows="rows" in name)
    if name == "scaled fp8":
        more = {f"{UNET}scaled_fp8": torch.zeros(2, dtype=E4M3), f"{LAYER}.scale_weight": scale}
        return found | more | {f"{LAYER}.scale_input": torch.tensor(0.02)}, {}
    found[f"{LAYER}.weight_scale"] = scale
    kind_name = {E4M3: "float8_e4m3fn", E5M2: "float8_e5m2", torch.int8: "int8_tensorwise"}[kind]
    if "metadata" in name:
        about = {"format_version": "1.0", "layers": {LAYER: {"format": kind_name}}}
        metadata = {"_quantization_metadata": json.dumps(about)}
    else:
        found[f"{LAYER}.comfy_quant"] = quant(format=kind_name)
    return found, metadata


LAYOUTS = [
    *("plain", "plain e4m3", "plain e5m2", "scaled fp8", "comfy_quant", "comfy_quant e5m2", "metadata"),
    *("int8", "int8 rows"),
]


def loaded(path: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    with opened(path) as reader:
        stored = examine(path.name, reader, WANTED)
        return {key: read(reader, stored, key, shape, dtype) for key, shape in WANTED.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_weight_is_what_its_scale_makes_of_it(tmp_path: Path, name: str) -> None:
    """A failure means that training goes on other weights than the file holds, without a word."""
    tensors, metadata = layout(name)
    save_file(tensors, tmp_path / "a.safetensors", metadata or None)
    found, key = loaded(tmp_path / "a.safetensors"), f"{LAYER}.weight"
    scale = tensors.get(f"{LAYER}.scale_weight", tensors.get(f"{LAYER}.weight_scale", torch.tensor(1.0)))
    assert torch.equal(found[key], tensors[key].to(torch.float64).mul(scale.to(torch.float64)).float())
    error = (found[key] - weights()[key]).norm() / weights()[key].norm()
    assert error < {"plain e5m2": 0.1, "comfy_quant e5m2": 0.1}.get(name, 0.05)
    assert torch.equal(found[f"{OTHER}.weight"], tensors[f"{OTHER}.weight"].float())
    half = loaded(tmp_path / "a.safetensors", torch.bfloat16)[key]
    assert half.dtype == torch.bfloat16 and torch.equal(half, found[key].bfloat16())


@pytest.mark.host
def test_the_host_makes_the_same_of_the_same_files(tmp_path: Path) -> None:
    """A failure means that a LoRA is trained on other weights by command line than in the graph."""
    for name in LAYOUTS:
        tensors, metadata = layout(name)
        save_file(tensors, tmp_path / f"{name}.safetensors", metadata or None)
    (tmp_path / "config.json").write_text(json.dumps({"layer": LAYER, "prefix": UNET, "files": LAYOUTS}))
    host, about, _ = run_inside(SCRIPT, tmp_path)
    assert set(about["read"]) >= {"plain", "plain e4m3", "plain e5m2", "scaled fp8"}  # what every host reads
    for name in about["read"]:
        ours = loaded(tmp_path / f"{name}.safetensors")[f"{LAYER}.weight"]
        assert torch.equal(host[name], ours), name


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({f"{LAYER}.lora_down.weight": (4, 16)}, "parts of a LoRA"),
        ({f"{LAYER}.dora_scale": (24,)}, "parts of a LoRA"),
        ({"lora_unet_middle_block_1_proj_in.alpha": ()}, "parts of a LoRA"),
        ({f"{LAYER}.lokr_w1": (4, 4)}, "parts of a LoRA"),
        ({f"{LAYER}.hada_w1_a": (4, 4)}, "parts of a LoRA"),
        ({f"{LAYER}.weight.absmax": (6,)}, "may change a weight in a way not known"),
        ({f"{LAYER}.weight_scale_2": ()}, "may change a weight in a way not known"),
        ({f"{LAYER}.pre_quant_scale": (16,)}, "may change a weight in a way not known"),
        ({f"{LAYER}.zero_point": (24,)}, "may change a weight in a way not known"),
        ({f"{LAYER}.scale_weight": ()}, "a scale .* of a weight that is not in 8 bits"),
        ({f"{LAYER}.weight_scale": (24, 2)}, "scales by block"),
    ],
)
def test_what_would_change_a_weight_is_refused(tmp_path: Path, extra: dict, words: str) -> None:
    tensors = weights() | {key: torch.full(shape, 0.5) for key, shape in extra.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=f"a.safetensors .*{words}.*give the fp16, bf16 or fp32 version"):
        loaded(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("about", "kind", "words"),
    [
        ({"format": "nvfp4"}, torch.uint8, "quantised as nvfp4"),
        ({"format": "mxfp8"}, E4M3, "quantised as mxfp8"),
        ({"format": "int8_tensorwise", "convrot": True}, torch.int8, "int8_tensorwise, rotated"),
        ({"format": "int8_tensorwise", "params": {"convrot": True}}, torch.int8, "int8_tensorwise, rotated"),
        ({"format": "convrot_w4a4"}, torch.int8, "quantised as convrot_w4a4"),
        ({}, torch.int8, "I8 without a scale"),
        ({}, torch.uint8, "U8 without a scale"),
        ({"format": "float8_e4m3fn"}, torch.uint8, r"float8_e4m3fn \(U8\)"),  # the host casts it by value
    ],
)
def test_kinds_that_cannot_be_dequantised_are_named(tmp_path: Path, about: dict, kind, words: str) -> None:
    tensors = weights() | {f"{LAYER}.weight": torch.ones(24, 16).to(kind)}
    if about:
        tensors |= {f"{LAYER}.comfy_quant": quant(**about), f"{LAYER}.weight_scale": torch.ones(())}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=f"{words}.*middle_block.1.proj_in.weight.*give the fp16"):
        loaded(tmp_path / "a.safetensors")


@pytest.mark.parametrize("text", ["{", '["a"]', '{"layers": 7}'])
def test_a_damaged_description_is_one_sentence(tmp_path: Path, text: str) -> None:
    save_file(weights(), tmp_path / "a.safetensors", {"_quantization_metadata": text})
    with pytest.raises(ModelError, match="description of its quantisation is damaged"):
        loaded(tmp_path / "a.safetensors")


def test_a_missing_or_misshapen_weight_is_named(tmp_path: Path) -> None:
    tensors = weights()
    del tensors[f"{LAYER}.bias"]
    # junk in the missing one's place: counting keys would not see it
    save_file(tensors | {f"{UNET}middle_block.9.bias": torch.ones(24)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="a.safetensors lacks .*proj_in.bias: the file is incomplete"):
        loaded(tmp_path / "a.safetensors")
    save_file(weights() | {f"{LAYER}.weight": torch.ones(24, 8)}, tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match=r"holds .*proj_in.weight as \(24, 8\), SDXL's is \(24, 16\)"):
        loaded(tmp_path / "b.safetensors")


def test_junk_is_counted_and_passed_over(tmp_path: Path) -> None:
    """Merged checkpoints are full of it; ComfyUI from 0.34 on adds a key by attention layer."""
    junk = {
        "model_ema.decay": torch.ones(()),
        "first_stage_model.loss.logvar": torch.ones(()),
        "alphas_cumprod": torch.ones(1000),
        f"{UNET}middle_block.1.transformer_blocks.0.attn1.comfy_attention.config": quant(kernel="int8"),
        f"{UNET}middle_block.7.weight_scale": torch.ones(()),
    }
    markers = {"v_pred": torch.ones(0), "ztsnr": torch.ones(0), f"{LAYER}.input_scale": torch.ones(())}
    matrix = weights()[f"{OTHER}.weight"].reshape(4, 16)  # some files keep a 1 x 1 convolution so
    save_file(weights() | junk | markers | {f"{OTHER}.weight": matrix}, tmp_path / "a.safetensors")
    with opened(tmp_path / "a.safetensors") as reader:
        assert examine("a", reader, WANTED).rest == len(junk)
    assert all(torch.equal(v, weights()[k]) for k, v in loaded(tmp_path / "a.safetensors").items())


def test_a_scale_of_one_beside_a_plain_weight_changes_nothing(tmp_path: Path) -> None:
    save_file(weights() | {f"{LAYER}.scale_weight": torch.ones(1)}, tmp_path / "a.safetensors")
    assert torch.equal(loaded(tmp_path / "a.safetensors")[f"{LAYER}.weight"], weights()[f"{LAYER}.weight"])


def test_what_is_read_is_not_tied_to_the_file(tmp_path: Path) -> None:
    """A failure means that a file is locked on Windows, or a training dies where it is replaced."""
    save_file(weights(), tmp_path / "a.safetensors")
    found = loaded(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").write_bytes(b"")
    assert torch.equal(found[f"{LAYER}.weight"], weights()[f"{LAYER}.weight"])


def test_scales_of_rows_and_of_all_go_with_every_number_of_dimensions() -> None:
    kernel = torch.ones(4, 3, 3, 3)
    rows = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(dequantised(kernel, rows, torch.float32), kernel * rows.view(4, 1, 1, 1))
    assert torch.equal(dequantised(kernel, rows.view(4, 1), torch.float32), kernel * rows.view(4, 1, 1, 1))
    assert torch.equal(dequantised(kernel, torch.tensor([2.0]), torch.float32), 2 * kernel)
    assert torch.equal(dequantised(kernel, torch.tensor(2.0), torch.float32), 2 * kernel)
