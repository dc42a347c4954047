"""rechar_core.backend.single_file: what a checkpoint is told to be, and that the shipped configurations fit SDXL."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch

from rechar_core.backend import sdxl_layout
from rechar_core.backend.single_file import (
    check_base,
    converted,
    empty_models,
    load_single_file,
    looks_like,
    scheduler,
)
from rechar_core.errors import FileError, ModelError

UNET = "model.diffusion_model."
CROSS = "transformer_blocks.0.attn2.to_k.weight"
XL = sdxl_layout.checkpoint()
SD15 = {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}input_blocks.1.1.{CROSS}": (320, 768)}
SD2 = {f"{UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{UNET}input_blocks.1.1.{CROSS}": (320, 1024)}
REFINER = {f"{UNET}input_blocks.0.0.weight": (384, 4, 3, 3), f"{UNET}input_blocks.4.1.{CROSS}": (768, 1280)}
SSD1B = {key: shape for key, shape in XL.items() if ".transformer_blocks.9." not in key}
KEYS_OF_OTHERS = [
    ("double_blocks.0.img_attn.qkv.weight", "a Flux model"),
    (UNET + "double_blocks.0.img_attn.qkv.weight", "a Flux model"),
    (UNET + "distilled_guidance_layer.in_proj.bias", "a Chroma model"),
    ("single_transformer_blocks.0.attn.to_q.weight", "a Flux model"),
    (UNET + "joint_blocks.0.context_block.adaLN_modulation.1.bias", "an SD3 model"),
    ("control_model.time_embed.0.weight", "a ControlNet"),
    ("lora_unet_output_blocks_0_1_proj_in.lora_down.weight", "a LoRA, not a base model"),
    ("decoder.conv_in.weight", "a VAE alone"),
    ("some.other.weight", "no Stable Diffusion model that is known here"),
]


def with_input_channels(shapes: dict[str, tuple[int, ...]], channels: int) -> dict[str, tuple[int, ...]]:
    return shapes | {f"{UNET}input_blocks.0.0.weight": (320, channels, 3, 3)}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (XL, "SDXL"),
        (XL | {"v_pred": (0,), "ztsnr": (0,)}, "SDXL"),
        (SD15, "an SD1.5 model"),
        (SD2, "an SD2 model"),
        (REFINER, "the SDXL refiner"),
        (SSD1B, "a reduced SDXL (SSD-1B, Vega or KOALA)"),
        (with_input_channels(XL, 9), "an inpainting model (SDXL)"),
        (with_input_channels(SD15, 9), "an inpainting model (an SD1.5 model)"),
        (with_input_channels(XL, 8), "a model for editing pictures by instruction (SDXL)"),
        (XL | {"edm_mean": (4,)}, "Playground v2.5, whose noise schedule (EDM) is not SDXL's"),
        (XL | {"edm_vpred.sigma_max": ()}, "an SDXL with the EDM noise schedule (CosXL)"),
        *(({key: (4, 4)}, phrase) for key, phrase in KEYS_OF_OTHERS),
    ],
)
def test_base_is_named_from_the_header(shapes: dict[str, tuple[int, ...]], expected: str) -> None:
    assert looks_like(shapes) == expected


@pytest.mark.parametrize(
    ("prefix", "part"),
    [
        ("first_stage_model.", "VAE"),
        ("conditioner.embedders.0.", "first text encoder"),
        ("conditioner.embedders.1.", "second text encoder"),
    ],
)
def test_a_missing_part_is_named(prefix: str, part: str) -> None:
    partial = {key: shape for key, shape in XL.items() if not key.startswith(prefix)}
    with pytest.raises(ModelError, match=f"model.safetensors is an SDXL model without its {part}"):
        check_base("model.safetensors", partial)


def test_what_some_checkpoints_lack_is_not_asked_for() -> None:
    """A failure means that a complete model is refused, or breaks off while it is loaded."""
    asked = {key for prefix in sdxl_layout.PARTS for key in sdxl_layout.required(prefix)}
    assert {key.rpartition(".")[2] for key in XL.keys() - asked} == {"position_ids", "logit_scale"}
    assert asked <= XL.keys() and len(XL) - len(asked) == 2


def write_header(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F16") -> Path:
    """A safetensors file of zeros, sparse where the disk can be."""
    entries, offset = {}, 0
    for name, shape in shapes.items():
        size = {"F16": 2, "F32": 4}[dtype]
        for side in shape:
            size *= side
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + offset)
    return path


def test_another_base_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    file = write_header(tmp_path / "dream.safetensors", SD15)
    with pytest.raises(
        ModelError, match=r"dream.safetensors looks like an SD1.5 model; ReChar needs an SDXL base"
    ):
        load_single_file(file, dtype=None)  # type: ignore[arg-type]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"There is no file '.*none.safetensors'"):
        load_single_file(tmp_path / "none.safetensors", dtype=None)  # type: ignore[arg-type]
    for name, content, message in (
        ("old.ckpt", b"\x80\x02", r"old.ckpt' is a PyTorch pickle"),
        ("zip.ckpt", b"PK\x03\x04", r"zip.ckpt' is a zip archive"),
        ("page.safetensors", b"<html>not found</html>", r"page.safetensors' is a web page"),
        ("empty.safetensors", b"", r"empty.safetensors' is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=message):
            load_single_file(tmp_path / name, dtype=None)  # type: ignore[arg-type]
    cut = write_header(tmp_path / "cut.safetensors", SD15)
    cut.write_bytes(cut.read_bytes()[:-10])
    with pytest.raises(FileError, match=r"cut.safetensors' is cut short"):
        load_single_file(cut, dtype=None)  # type: ignore[arg-type]


def test_another_suffix_never_reaches_the_unpickler(tmp_path: Path) -> None:
    file = write_header(tmp_path / "model.ckpt", SD15)
    with pytest.raises(FileError, match=r"model.ckpt' holds safetensors under another name; rename it"):
        load_single_file(file, dtype=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "prediction", "rescaled"),
    [
        ([], "epsilon", False),
        (["v_pred"], "v_prediction", False),
        (["v_pred", "ztsnr"], "v_prediction", True),
    ],
)
def test_v_prediction_is_read_from_the_marker_keys(keys: list[str], prediction: str, rescaled: bool) -> None:
    config = scheduler(dict.fromkeys(keys, (0,))).config
    assert config.prediction_type == prediction
    assert config.rescale_betas_zero_snr is rescaled
    assert (config.beta_start, config.beta_end, config.steps_offset) == (0.00085, 0.012, 1)


# The shipped configurations, against the layout written down in sdxl_layout.py


@pytest.fixture(scope="module")
def components() -> dict[str, object]:
    """The four models of the shipped configurations, without memory for their weights."""
    return {name: model for name, (_, model) in empty_models().items()}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("unet", 2_567_463_684),
        ("vae", 83_653_863),
        ("text_encoder", 123_060_480),
        ("text_encoder_2", 694_659_840),
    ],
)
def test_parameter_counts_are_those_of_sdxl(components, name: str, count: int) -> None:
    assert sum(parameter.numel() for parameter in components[name].parameters()) == count


def test_layout_is_that_of_the_published_checkpoint() -> None:
    assert len(XL) == 2515


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_every_key_and_shape_of_a_checkpoint_fits_the_configurations(components, name: str) -> None:
    """A failure means that the layout written down here is not the one that diffusers' converter reads."""
    prefix = empty_models()[name][0]
    file = {key: torch.empty(shape, device="meta") for key, shape in XL.items() if key.startswith(prefix)}
    wanted = {key: tuple(value.shape) for key, value in components[name].state_dict().items()}
    given = converted(name, components[name], file)
    assert {key: tuple(value.shape) for key, value in given.items()} == wanted
