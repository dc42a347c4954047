"""rechar_core.standalone.single_file: what a checkpoint is told to be, and that the shipped configurations fit SDXL."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import sdxl_layout
import torch

from rechar_core.errors import FileError, ModelError
from rechar_core.standalone.single_file import (
    CONFIG,
    check_base,
    check_complete,
    load_single_file,
    load_vae,
    looks_like,
    scheduler,
)

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


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("model.diffusion_model.out.2.bias", "only 1679 of 1680 tensors of its UNet"),
        ("first_stage_model.decoder.conv_out.bias", "only 247 of 248 tensors of its VAE"),
        (
            "conditioner.embedders.1.model.transformer.resblocks.7.attn.in_proj_weight",
            r"only 388 of 389 tensors of its second text encoder \(CLIP-bigG\)",
        ),
    ],
)
def test_an_incomplete_part_is_named(key: str, message: str) -> None:
    optional = {key, "conditioner.embedders.1.model.logit_scale"}
    partial = {name: shape for name, shape in XL.items() if name not in optional}
    with pytest.raises(ModelError, match=f"model.safetensors has {message}: the file is incomplete"):
        check_base("model.safetensors", partial)


def test_optional_tensors_may_be_missing() -> None:
    optional = (".logit_scale", ".position_ids")
    check_base(
        "model.safetensors", {name: shape for name, shape in XL.items() if not name.endswith(optional)}
    )
    check_base("model.safetensors", XL)


def test_the_vae_is_loaded_without_rounding(tmp_path: Path) -> None:
    """A failure means that a half-precision base trains on another posterior than the checkpoint's."""
    prefix = "first_stage_model."
    file = write_header(
        tmp_path / "a.safetensors", {k: v for k, v in XL.items() if k.startswith(prefix)}, "F32"
    )
    with file.open("r+b") as binary:
        (length,) = struct.unpack("<Q", binary.read(8))
        start, _ = json.loads(binary.read(length))[f"{prefix}quant_conv.bias"]["data_offsets"]
        binary.seek(8 + length + start)
        binary.write(struct.pack("<f", 1.0001))  # in bf16 it would be 1
    bias = load_vae(file).quant_conv.bias
    assert bias.dtype == torch.float32 and float(bias[0].detach()) == pytest.approx(1.0001, rel=1e-6)


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
    from accelerate import init_empty_weights
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    with init_empty_weights():
        return {
            "unet": UNet2DConditionModel.from_config(
                UNet2DConditionModel.load_config(CONFIG, subfolder="unet")
            ),
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(CONFIG, subfolder="vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig.from_pretrained(CONFIG, subfolder="text_encoder")),
            "text_encoder_2": CLIPTextModelWithProjection(
                CLIPTextConfig.from_pretrained(CONFIG, subfolder="text_encoder_2")
            ),
        }


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


def test_every_key_and_shape_of_a_checkpoint_fits_the_configurations(components) -> None:
    import torch
    from diffusers.loaders import single_file_utils as convert

    file = {key: torch.empty(shape, device="meta") for key, shape in XL.items()}
    converted = {
        "unet": convert.convert_ldm_unet_checkpoint(dict(file), config=dict(components["unet"].config)),
        "vae": convert.convert_ldm_vae_checkpoint(dict(file), config=dict(components["vae"].config)),
        "text_encoder": convert.convert_ldm_clip_checkpoint(dict(file)),
        "text_encoder_2": convert.convert_open_clip_checkpoint(
            components["text_encoder_2"], dict(file), prefix="conditioner.embedders.1.model."
        ),
    }
    for name, weights in converted.items():
        wanted = {key: tuple(value.shape) for key, value in components[name].state_dict().items()}
        given = {key: tuple(value.shape) for key, value in weights.items() if "position_ids" not in key}
        if not any(
            key.startswith("text_model.") for key in wanted
        ):  # transformers 5.6 flattened CLIPTextModel
            given = {key.removeprefix("text_model."): shape for key, shape in given.items()}
        assert given == wanted, name


def test_weights_left_empty_are_listed(components) -> None:
    from types import SimpleNamespace

    with pytest.raises(ModelError, match=r"half.safetensors lacks unet\.conv_in\.weight, .* and \d+ more"):
        check_complete("half.safetensors", SimpleNamespace(**components))
