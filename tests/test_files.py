"""B-LoRA files: what is written comes back, other programs read it, and every damaged file is named."""

from __future__ import annotations

import base64
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loras import MODULES, STRUCTURE, STYLE, TO_Q, blora, pair, random
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from rechar_core import storage
from rechar_core.errors import FileError, ImageError, LoraError
from rechar_core.lora import files
from rechar_core.lora import key_formats as keys
from rechar_core.lora.blora import BLora, LoraPair
from rechar_core.lora.inspect import inspect

JPEG = b"\xff\xd8\xff\xe0 not a whole picture"


def saved(tmp_path, tensors, metadata=None, name="some.safetensors"):
    path = tmp_path / name
    save_file(tensors, path, metadata)
    return path


def kohya(module=TO_Q, **parts):
    """Keys of one layer: down=..., up=..., alpha=..."""
    return {keys.format_key("kohya", module, part): tensor for part, tensor in parts.items()}


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def same_deltas(a: BLora, b: BLora, tolerance=0.0):
    assert set(a.pairs) == set(b.pairs)
    for module, one in a.pairs.items():
        torch.testing.assert_close(one.delta(), b.pairs[module].delta(), rtol=tolerance, atol=tolerance)


# What is written comes back


def test_a_kohya_file_comes_back_whole(tmp_path):
    made = blora()
    path = files.write(made, tmp_path / "new folder" / "mine.safetensors")
    back = files.read(path)
    assert (back.source_format, back.trigger, back.recipe) == ("kohya", "A [v]", {"seed": 5, "steps": 9})
    assert (
        back.network_alphas == (3.0,)
        and back.ranks == (4,)
        and [b.name for b in back.blocks] == ["structure", "style"]
    )
    for module in MODULES:
        assert torch.equal(back.pairs[module].down, made.pairs[module].down)
        assert torch.equal(back.pairs[module].up, made.pairs[module].up)


@pytest.mark.parametrize("format", keys.WRITABLE)
def test_deltas_are_equal_in_every_format(tmp_path, format):
    made = blora()
    back = files.read(files.write(made, tmp_path / "x.safetensors", format=format))
    assert back.source_format == format
    same_deltas(back, made, 1e-6)
    assert back.trigger == "A [v]"


@pytest.mark.parametrize("format", [g.name for g in keys.KEY_FORMATS])
def test_deltas_are_equal_in_every_format_that_is_read(format):
    made = blora([m for m in MODULES if ".to_" in m])
    parts = {(m, p): t for m, one in made.pairs.items() for p, t in (("down", one.down), ("up", one.up))}
    parts |= {(m, "alpha"): torch.tensor(3.0) for m in made.pairs}
    same_deltas(files.from_tensors({keys.format_key(format, m, p): t for (m, p), t in parts.items()}), made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_keep_their_dtype(tmp_path, dtype):
    made = BLora({TO_Q: LoraPair(random(4, 8, dtype=dtype), random(12, 4, dtype=dtype), 4.0)})
    for format in keys.WRITABLE:
        back = files.read(files.write(made, tmp_path / "x.safetensors", format=format)).pairs[TO_Q]
        assert (back.up.dtype, back.down.dtype) == (dtype, dtype)
        assert torch.equal(back.up, made.pairs[TO_Q].up)


def test_the_reference_trainers_files_are_read_exactly(reference):
    path = reference / "style_lora.safetensors"
    stored, back = load_file(path), files.read(path)
    assert back.source_format == "diffusers" and len(back.pairs) == 32 and back.ranks == (8,)
    for module, one in back.pairs.items():
        up, down = (stored[f"unet.{module}.lora.{x}.weight"] for x in ("up", "down"))
        torch.testing.assert_close(one.delta(), up @ down, rtol=0, atol=0)


def test_equal_loras_give_equal_bytes(tmp_path):
    first = files.write(blora(), tmp_path / "a.safetensors", thumbnail=JPEG)
    second = files.write(blora(), tmp_path / "b.safetensors", thumbnail=JPEG)
    assert first.read_bytes() == second.read_bytes()
    again = files.write(files.read(first), tmp_path / "c.safetensors")
    assert first.read_bytes() == again.read_bytes()


def test_the_extension_is_added(tmp_path):
    assert files.write(blora(), tmp_path / "my.lora").name == "my.lora.safetensors"


def test_alpha_is_halved_in_the_weights_where_a_format_has_no_place_for_it():
    made = BLora({TO_Q: pair(network_alpha=2.0)})
    state = files.convert(made, "peft")
    assert torch.equal(state[f"unet.{TO_Q}.lora_B.weight"], made.pairs[TO_Q].up / 2)
    assert len(state) == 2


def test_dora_scales_come_back_in_every_format(tmp_path):
    made = BLora({TO_Q: replace(pair(), dora_scale=random(12, 1))})
    for format in keys.WRITABLE:
        back = files.read(files.write(made, tmp_path / "x.safetensors", format=format))
        assert torch.equal(back.pairs[TO_Q].dora_scale, made.pairs[TO_Q].dora_scale)


def test_a_dora_scale_per_input_has_no_place_in_peft():
    made = BLora({TO_Q: replace(pair(), dora_scale=random(1, 8))})
    assert torch.equal(
        files.convert(made, "kohya")[keys.format_key("kohya", TO_Q, "dora_scale")], random(1, 8)
    )
    with pytest.raises(
        LoraError, match="DoRA scale of .*to_q is per input, which peft cannot hold; choose kohya"
    ):
        files.convert(made, "peft")


def test_other_kinds_pass_through(tmp_path):
    norm = f"{STYLE}.transformer_blocks.0.norm1"
    tensors = {
        **{k: random(4, 4) for k in kohya(hada_w1_a=0, hada_w1_b=0, hada_w2_a=0, hada_w2_b=0)},
        **kohya(alpha=torch.tensor(2.0)),
        **kohya(f"{STYLE}.proj_in", down=random(4, 8), up=random(12, 4), diff_b=random(12)),
        **kohya(norm, diff=random(8)),
    }
    back = files.read(saved(tmp_path, tensors))
    assert set(back.passthrough[TO_Q]) == {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"}
    assert set(back.passthrough[f"{STYLE}.proj_in"]) == {"diff_b"} and f"{STYLE}.proj_in" in back.pairs
    assert set(back.modules) == {TO_Q, f"{STYLE}.proj_in", norm} and len(back.modules) == 3
    written = files.convert(back, "kohya")
    assert set(written) - set(tensors) == {keys.format_key("kohya", f"{STYLE}.proj_in", "alpha")}
    assert all(torch.equal(written[key], tensor) for key, tensor in tensors.items())
    with pytest.raises(
        LoraError, match="LoHa, full difference weights cannot be written as peft; choose one of kohya"
    ):
        files.convert(back, "peft")


def test_keys_outside_the_blocks_are_reported(tmp_path):
    other = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(1.0),
        "lora_unet_down_blocks_1_attentions_0_proj_in.lora_down.weight": random(4, 8),
    }
    back = files.read(saved(tmp_path, {**kohya(down=random(4, 8), up=random(12, 4)), **other}))
    assert sorted(back.outside) == sorted(other) and set(back.pairs) == {TO_Q}


def test_one_by_one_convolutions_are_matrices():
    made = files.from_tensors(
        kohya(down=random(4, 8, 1, 1), up=random(12, 4, 1, 1), alpha=torch.tensor([2.0]))
    )
    assert made.pairs[TO_Q].delta().shape == (12, 8) and made.pairs[TO_Q].network_alpha == 2.0


def test_a_missing_alpha_means_the_rank():
    assert files.from_tensors(kohya(down=random(4, 8), up=random(12, 4))).pairs[TO_Q].scale == 1.0


def test_pefts_own_settings_give_alpha(tmp_path):
    stored = {f"unet.{TO_Q}.lora_A.weight": random(4, 8), f"unet.{TO_Q}.lora_B.weight": random(12, 4)}
    config = {"unet.r": 4, "unet.lora_alpha": 8, "unet.alpha_pattern": {}}
    back = files.read(saved(tmp_path, stored, {"lora_adapter_metadata": json.dumps(config)}))
    assert back.pairs[TO_Q].scale == 2.0
    # The setting is in the weights now and must not be applied a second time.
    assert "lora_adapter_metadata" not in metadata_of(
        files.write(back, tmp_path / "x.safetensors", format="peft")
    )

    path = saved(tmp_path, stored, name="adapter_model.safetensors")
    beside = tmp_path / "adapter_config.json"
    beside.write_text(json.dumps({"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2}, "use_rslora": True}))
    assert files.read(path).pairs[TO_Q].scale == 2 / 4**0.5
    beside.write_text('{"lora_alpha": "much"}')
    with pytest.raises(LoraError, match="PEFT settings give .*to_q the alpha 'much', which is not a number"):
        files.read(path)
    beside.write_text("{")
    with pytest.raises(FileError, match=r"The LoRA's settings '.*adapter_config.json' cannot be read"):
        files.read(path)


# Metadata


def test_metadata_says_what_lora_managers_show(tmp_path):
    made = blora(
        recipe={"seed": 5, "steps": 1000, "resolution": 1024, "learning_rate": 5e-5, "optimizer": "adamw"}
    )
    found = metadata_of(files.write(made, tmp_path / "x.safetensors", thumbnail=JPEG, title="Fern"))
    expected = {
        "rechar.version": "1",
        "rechar.block": "structure,style",
        "rechar.trigger": "A [v]",
        "rechar.seed": "5",
        "ss_network_dim": "4",
        "ss_network_alpha": "3.0",
        "ss_network_module": "networks.lora",
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_output_name": "Fern",
        "ss_tag_frequency": '{"rechar": {"A [v]": 1}}',
        "ss_max_train_steps": "1000",
        "ss_learning_rate": "5e-05",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
        "modelspec.title": "Fern",
        "modelspec.trigger_phrase": "A [v]",
        "modelspec.resolution": "1024x1024",
    }
    assert {k: found.get(k) for k in expected} == expected
    assert json.loads(found["rechar.recipe"]) == made.recipe
    assert base64.b64decode(found["modelspec.thumbnail"].removeprefix("data:image/jpeg;base64,")) == JPEG
    assert not [k for k in found if "date" in k]


def test_the_hash_is_that_of_the_tensor_bytes(tmp_path):
    import hashlib

    path = files.write(blora(), tmp_path / "x.safetensors")
    data = path.read_bytes()
    digest = hashlib.sha256(data[8 + struct.unpack("<Q", data[:8])[0] :]).hexdigest()
    assert metadata_of(path)["modelspec.hash_sha256"] == "0x" + digest


@pytest.mark.parametrize(
    ("metadata", "trigger"),
    [
        ({"rechar.trigger": "a", "modelspec.trigger_phrase": "b"}, "a"),
        ({"modelspec.trigger_phrase": "b", "ss_tag_frequency": '{"1_x": {"c": 2}}'}, "b"),
        ({"ss_tag_frequency": '{"1_x": {"c": 2}, "2_y": {"c": 1}}'}, "c"),
        ({"ss_tag_frequency": '{"1_x": {"c": 2, "d": 1}}'}, ""),
        ({"ss_tag_frequency": "damaged"}, ""),
        ({}, ""),
    ],
)
def test_the_trigger_is_found(metadata, trigger):
    tensors = kohya(down=random(4, 8), up=random(12, 4))
    assert files.from_tensors(tensors, metadata).trigger == trigger


def test_foreign_metadata_is_kept(tmp_path):
    foreign = {
        "ss_sd_model_name": "my sdxl",
        "ss_tag_frequency": '{"1_x": {"c": 2, "d": 1}}',
        "modelspec.title": "Oak",
    }
    path = saved(tmp_path, kohya(down=random(4, 8), up=random(12, 4)), foreign)
    found = metadata_of(files.write(files.read(path), tmp_path / "x.safetensors"))
    assert {k: found[k] for k in foreign} == foreign and found["rechar.block"] == "structure"


def test_a_thumbnail_must_be_a_picture(tmp_path):
    with pytest.raises(
        ImageError, match="The thumbnail is not a JPEG, PNG or WebP picture; encode it as JPEG first"
    ):
        files.write(blora(), tmp_path / "x.safetensors", thumbnail=b"hello")
    assert not list(tmp_path.iterdir())


def test_any_text_can_be_stored(tmp_path):
    made = blora(trigger="\u6c49 \U0001f58b [v] \ud800")
    assert files.read(files.write(made, tmp_path / "\u5b57.safetensors")).trigger == "\u6c49 \U0001f58b [v] ?"


# Other programs read what we write


@pytest.fixture(scope="module")
def pipeline(reference):
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(reference / "model", add_watermarker=False)


def predicted(unet, reference):
    inputs = load_file(reference / "unet_outputs.safetensors")
    added = {"text_embeds": inputs["in.pooled"], "time_ids": inputs["in.time_ids"]}
    with torch.no_grad():
        return unet(
            inputs["in.latent"],
            inputs["in.timestep"],
            encoder_hidden_states=inputs["in.context"],
            added_cond_kwargs=added,
        ).sample


def fitting(unet, reference, *, dora: bool):
    """The reference's style run with alpha 3 (rank 8), with DoRA scales if wanted."""
    run = files.read(reference / "style_lora.safetensors")
    pairs = {m: replace(p, network_alpha=3.0) for m, p in run.pairs.items()}
    if dora:
        norms = {m: 1.1 * unet.get_submodule(m).weight.detach().norm(dim=1, keepdim=True) for m in pairs}
        pairs = {m: replace(p, dora_scale=norms[m]) for m, p in pairs.items()}
    return replace(run, pairs=pairs)


# diffusers leaves DoRA scales out of kohya files, with a warning; in its own and PEFT's format it applies them.
@pytest.mark.parametrize(
    ("format", "dora"),
    [
        ("kohya", False),
        ("kohya-sgm", False),
        ("diffusers", False),
        ("peft", False),
        ("diffusers", True),
        ("peft", True),
    ],
)
def test_diffusers_loads_our_files_to_the_same_picture(pipeline, reference, tmp_path, format, dora):
    from rechar_core.lora.fusion import Fusion, applied

    pytest.importorskip("peft")
    made = fitting(pipeline.unet, reference, dora=dora)
    bare = predicted(pipeline.unet, reference)
    with applied(pipeline.unet, Fusion({m: (p, 1.0) for m, p in made.pairs.items()}, {})):
        ours = predicted(pipeline.unet, reference)
    path = files.write(made, tmp_path / "x.safetensors", format=format)
    pipeline.load_lora_weights(str(tmp_path), weight_name=path.name)
    theirs = predicted(pipeline.unet, reference)
    pipeline.unload_lora_weights()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert (ours - bare).abs().max() > 0.01


# Files that cannot be read


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.pt",
            b"PK\x03\x04....",
            "zip archive, most likely a PyTorch pickle, .* convert it to .safetensors first",
        ),
        ("a.safetensors", b"\x80\x02ccollections", "PyTorch pickle, which can run code"),
        ("a.ckpt", b"whatever this is", "PyTorch pickle, which can run code"),
        ("a.bin", b"\x01" * 100, "PyTorch pickle, which can run code"),
        ("a.safetensors", b"", "is empty; download or save it again"),
        ("a.safetensors", b"x", "is not a safetensors file"),
        ("a.safetensors", bytes(range(200)), "is not a safetensors file; give one saved as .safetensors"),
        ("a.safetensors", b"<!DOCTYPE html>", "is a web page, so the download did not work"),
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        ("a.safetensors", b"GGUF\x03", "is a GGUF file"),
        ("a.safetensors", b"\x89PNG\r\n", "is a picture"),
        ("a.safetensors", struct.pack("<Q", 9) + b'{"a": 1}}', "is cut short .* or damaged"),
    ],
)
def test_files_of_another_kind_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    for function in (files.read, storage.read_state):
        with pytest.raises(FileError, match=message) as caught:
            function(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("kept", [9, 100, 3000, -1])
def test_a_truncated_file_is_cut_short(tmp_path, kept):
    whole = files.write(blora(), tmp_path / "x.safetensors").read_bytes()
    short = tmp_path / "short.safetensors"
    short.write_bytes(whole[:kept])
    with pytest.raises(FileError, match=r"'.*short.safetensors' is cut short \(\d+ bytes are there\)"):
        files.read(short)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"a": Bomb()}, tmp_path / "x.safetensors")
    with pytest.raises(FileError, match="pickle"):
        files.read(tmp_path / "x.safetensors")
    assert not (tmp_path / "ran").exists()


def test_missing_files_and_folders(tmp_path):
    with pytest.raises(
        FileError, match=r"There is no file '.*nothing.safetensors'; check its name and folder"
    ):
        files.read(tmp_path / "nothing.safetensors")
    with pytest.raises(FileError, match="is a folder; give a .safetensors file"):
        files.read(tmp_path)


# LoRAs that cannot be used

WIDE = {768: "an SD1.5 LoRA", 1024: "an SD2 LoRA", 1280: "an SDXL refiner LoRA"}
FOREIGN = [
    ("lora_unet_double_blocks_0_img_mlp_0.lora_down.weight", "a Flux LoRA"),
    ("transformer.single_transformer_blocks.3.attn.to_q.lora_A.weight", "a Flux LoRA"),
    ("lora_unet_joint_blocks_0_context_block_attn_qkv.lora_down.weight", "an SD3 LoRA"),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "an SD3 LoRA"),
    ("lora_transformer_transformer_blocks_0_attn_to_q.lora_down.weight", "an SD3 LoRA"),
    ("transformer_blocks.0.img_mlp.net.2.lora_A.weight", "a Qwen-Image LoRA"),
    ("diffusion_model.blocks.0.self_attn.q.lora_A.weight", "a Wan LoRA"),
    ("lora_te_text_model_encoder_layers_0_mlp_fc1.alpha", "an SD1.5 LoRA"),
    ("unet.down_blocks.0.attentions.0.proj_in.lora.down.weight", "an SD1.5 LoRA"),
    ("lora_unet_up_blocks_3_attentions_0_proj_in.lora_down.weight", "an SD1.5 LoRA"),
    ("diffusion_model.output_blocks.11.1.proj_in.lora_down.weight", "an SD1.5 LoRA"),
    ("model.diffusion_model.input_blocks.0.0.weight", "a whole base model"),
    (f"{TO_Q}.weight", "a whole UNet"),
    ("clip_l", "a textual inversion embedding"),
    ("image_proj.proj.weight", "an IP-Adapter"),
]


@pytest.mark.parametrize(("key", "what"), FOREIGN)
def test_files_for_other_models_are_named(tmp_path, key, what):
    with pytest.raises(LoraError) as caught:
        files.read(saved(tmp_path, {key: random(4, 8)}))
    assert (
        str(caught.value)
        == f"'some.safetensors' looks like {what} (key '{key}'); give a LoRA or B-LoRA for SDXL."
    )


@pytest.mark.parametrize(("width", "what"), WIDE.items())
@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v.lora.down.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_v_lora.down.weight",
        "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
    ],
)
def test_the_text_width_tells_the_base_model(tmp_path, width, what, key):
    with pytest.raises(LoraError, match=f"looks like {what} "):
        files.read(saved(tmp_path, {key: random(4, width)}))


def test_a_lora_of_other_blocks_says_what_it_has(tmp_path):
    tensors = {
        "lora_unet_input_blocks_8_1_proj_in.alpha": torch.tensor(1.0),
        "lora_unet_input_blocks_8_1_proj_out.alpha": torch.tensor(1.0),
        "lora_te2_text_projection.alpha": torch.tensor(1.0),
        "lora_unet_time_embed_0.alpha": torch.tensor(1.0),
    }
    message = (
        r"has no weights in the structure block \(up_blocks.0.attentions.0\) or style block "
        r"\(up_blocks.0.attentions.1\); it has text encoders \(1 keys\), input_blocks_8 \(2 keys\), "
        r"other parts \(1 keys\)\. Give a B-LoRA"
    )
    with pytest.raises(LoraError, match=message):
        files.read(saved(tmp_path, tensors))
    with pytest.raises(LoraError, match="it has no keys at all"):
        files.from_tensors({})


def test_keys_that_nobody_understands_are_listed(caplog):
    """Beside sound weights they are reported and the file is used; alone, they are no LoRA."""
    odd = {f"odd_{i:02}": torch.zeros(1) for i in range(12)}
    expected = ", ".join(f"odd_{i:02}" for i in range(10)) + " and 2 more"
    with pytest.raises(LoraError) as caught:
        files.from_tensors(odd, name="'odd.safetensors'")
    assert str(caught.value) == (
        f"'odd.safetensors' has keys of no known LoRA format: {expected}; give an SDXL LoRA."
    )
    sound = kohya(down=random(4, 8), up=random(12, 4))
    back = files.from_tensors(odd | sound, name="'odd.safetensors'")
    assert back.unknown == tuple(odd) and set(back.pairs) == {TO_Q}
    assert caplog.messages == [
        f"'odd.safetensors' has 12 keys that are not understood and not used: {expected}."
    ]


LEFT_OUT = [
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_sideways.weight",
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_x.lora_up.weight",
    f"unet.{TO_Q}.lora_B.bias",
    f"unet.{TO_Q}.lora_up.bias",
    f"base_model.model.{TO_Q}.lora_B.default.bias",
    f"{TO_Q}.weight",
    "optimizer.state.0.exp_avg",
    "emb_params",
    "clip_l",
    "image_proj.norm.weight",
    "controlnet_cond_embedding.conv_in.weight",
    "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight",
    "",
    "\n",
]


@pytest.mark.parametrize("key", LEFT_OUT)
def test_a_foreign_key_beside_sound_weights_refuses_no_file(tmp_path, key):
    """A failure means that a file which ComfyUI uses is refused here, or that a key is left out without a word."""
    sound = kohya(down=random(4, 8), up=random(12, 4))
    back = files.read(saved(tmp_path, {**sound, key: random(2, 2)}))
    assert back.unknown == (key,) and not back.outside and torch.equal(back.pairs[TO_Q].up, random(12, 4))


TEXT_ENCODERS = [
    "clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_down.weight",
    "text_encoders.clip_g.transformer.x.lora_up.weight",
    "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha",
    "lora_te3_encoder_block_0_layer_0_SelfAttention_q.alpha",
    "lycoris_te1_text_model_encoder_layers_0_mlp_fc1.lokr_w1",
    "lora_prior_te_text_projection.lora_up.weight",
    "te1.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
]


@pytest.mark.parametrize("key", TEXT_ENCODERS)
def test_text_encoders_of_any_spelling_are_outside(key):
    back = files.from_tensors({**kohya(down=random(4, 8), up=random(12, 4)), key: random(2, 2)})
    assert back.outside == (key,) and not back.unknown


def test_an_alpha_without_weights_is_reported():
    key = keys.format_key("kohya", f"{STYLE}.proj_in", "alpha")
    back = files.from_tensors({**kohya(down=random(4, 8), up=random(12, 4)), key: torch.tensor(1.0)})
    assert back.unknown == (key,) and set(back.modules) == {TO_Q}


UNREADABLE = [
    ("on_input", "IA3"),
    ("ia3_l", "IA3"),
    ("lora_E", "AdaLoRA"),
    ("vera_lambda_b", "VeRA"),
    ("oft_R.default.weight", "OFT of another layout"),
    ("oft_diag", "OFT of another layout"),
    ("boft_R", "BOFT of PEFT's layout"),
    ("fourierft_spectrum", "FourierFT"),
    ("hra_u", "HRA"),
    ("bone_block", "Bone"),
    ("lokr_t1", "LoKr with two Tucker cores"),
    ("up_list.0", "DyLoRA"),
    ("q_layer.weight", "T-LoRA"),
]


@pytest.mark.parametrize(("ending", "kind"), UNREADABLE)
def test_kinds_that_nothing_reads_are_refused_by_name(ending, kind):
    """A failure means weights that are applied as if a part of them were not there."""
    flat = keys.format_key("kohya", TO_Q, "alpha").removesuffix("alpha")
    sound = kohya(f"{STYLE}.proj_in", down=random(4, 8), up=random(12, 4))
    for key in (flat + ending, f"base_model.model.{TO_Q}.{ending}"):
        with pytest.raises(LoraError) as caught:
            files.from_tensors({key: random(2, 2), **sound}, name="'x'")
        assert str(caught.value) == (
            f"'x' has {kind} weights in the two blocks (key '{key}'), which ComfyUI cannot read either; "
            "give a LoRA or B-LoRA for SDXL."
        )
        elsewhere = key.replace("blocks_0_attentions_0", "blocks_1_attentions_0").replace(
            "blocks.0.attentions.0", "blocks.1.attentions.0"
        )
        assert files.from_tensors({elsewhere: random(2, 2), **sound}).outside == (elsewhere,)
        with pytest.raises(LoraError, match=f"looks like {kind}, which ComfyUI cannot read either"):
            files.from_tensors({elsewhere: random(2, 2)})


def factors_of(kind: str) -> dict[str, torch.Tensor]:
    """A layer of 12 x 8 of each kind whose weight change is linear in a `.scalar`."""
    loha = {f"hada_w{n}_{x}": random(*s, seed=n) for n in (1, 2) for x, s in (("a", (12, 2)), ("b", (2, 8)))}
    return {
        "LoCon": {"down": random(4, 8), "up": random(12, 4)},
        "LoHa": loha,
        "LoKr": {"lokr_w1": random(3, 2), "lokr_w2": random(4, 4)},
        "LoKr, decomposed": {
            "lokr_w1_a": random(3, 1),
            "lokr_w1_b": random(1, 2),
            "lokr_w2_a": random(4, 2),
            "lokr_w2_b": random(2, 4),
        },
        "GLoRA": {
            f"{name}.weight": random(*s)
            for name, s in (("a1", (8, 2)), ("a2", (2, 8)), ("b1", (12, 2)), ("b2", (2, 8)))
        },
    }[kind]


def change(kind: str, parts) -> torch.Tensor:
    """The weight change in closed form, for an original weight of ones and an alpha of the rank."""
    p = parts
    if kind == "LoCon":
        return p["up"] @ p["down"]
    if kind == "LoHa":
        return (p["hada_w1_a"] @ p["hada_w1_b"]) * (p["hada_w2_a"] @ p["hada_w2_b"])
    if kind == "LoKr":
        return torch.kron(p["lokr_w1"], p["lokr_w2"])
    if kind == "LoKr, decomposed":
        return torch.kron(p["lokr_w1_a"] @ p["lokr_w1_b"], p["lokr_w2_a"] @ p["lokr_w2_b"])
    ones = torch.ones(12, 8)
    return ones @ p["a1.weight"] @ p["a2.weight"] + p["b1.weight"] @ p["b2.weight"]


@pytest.mark.parametrize("kind", ["LoCon", "LoHa", "LoKr", "LoKr, decomposed", "GLoRA"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_the_scalar_of_older_lycoris_multiplies_the_change(kind, shape):
    """A failure means a LoRA of a strength that nobody trained: ComfyUI leaves this number out."""
    parts = factors_of(kind)
    made = files.from_tensors(kohya(**parts, scalar=torch.full(shape, 0.37)))
    one = made.pairs.get(TO_Q)
    back = made.passthrough[TO_Q] if one is None else {"down": one.down, "up": one.up}
    assert "scalar" not in back and not made.unknown
    torch.testing.assert_close(change(kind, back), 0.37 * change(kind, parts))


def test_a_scalar_that_means_nothing_is_refused():
    for parts, words in (
        ({"diff": random(12, 8)}, "a scalar, which only LoRA, LoHa, LoKr and GLoRA layers have"),
        ({"down": random(4, 8), "up": random(12, 4)}, r"scalar of shape \[2\]"),
    ):
        with pytest.raises(LoraError, match=words):
            files.from_tensors(kohya(**parts, scalar=torch.ones(2 if "up" in parts else 1)))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"hada_w1_a": random(12, 2), "hada_w1_b": random(2, 8)}, "only hada_w1_a, hada_w1_b, which is not"),
        (
            {**factors_of("LoHa"), "hada_t1": random(2, 2), "hada_t2": random(2, 2, 3, 3)},
            "shapes that do not fit together, hada_w1_a",
        ),
        ({**factors_of("LoHa"), "hada_w2_b": random(2, 9)}, "shapes that do not fit together, hada_w1_a"),
        ({"lokr_w1": random(3, 2)}, "only lokr_w1, which is not a whole layer"),
        ({"lokr_w1": torch.tensor(1.0), "lokr_w2": random(3, 2)}, "shapes that do not fit together"),
        ({**factors_of("GLoRA"), "b2.weight": random(3, 8)}, "shapes that do not fit together, a1.weight"),
        ({"oft_blocks": random(4, 3, 2)}, "shapes that do not fit together, oft_blocks"),
        ({"rescale": random(4)}, "only rescale, which is not a whole layer"),
        ({"lora_mid.weight": random(4, 4, 1, 1), "up": random(12, 4)}, "only lora_mid.weight, up"),
        ({"down": random(4, 8), "up": random(12, 4), "diff": random(12, 8)}, "several changes at once"),
        ({"diff": random(12, 8), "w_norm": random(12)}, "several changes at once"),
        (
            {**factors_of("LoHa"), "dora_scale": random(3, 3)},
            r"DoRA scale of shape \[3, 3\], weight \[12, 8\]",
        ),
        ({"down": random(4, 8), "up": random(12, 4), "alpha": torch.tensor(1e38)}, "alpha 1e"),
    ],
)
def test_layers_that_would_be_applied_wrongly_are_refused(parts, message):
    with pytest.raises(LoraError, match=f"unusable layers .*: {message}"):
        files.from_tensors(kohya(**parts))


ODD_TYPES = [
    ("alpha", torch.tensor(1 + 1j), "complex64"),
    ("alpha", torch.tensor(True), "bool"),
    ("up", torch.ones(12, 4, dtype=torch.int8), "int8"),
    ("up", torch.ones(12, 4, dtype=torch.bool), "bool"),
    ("down", torch.ones(4, 8, dtype=torch.complex64), "complex64"),
    ("dora_scale", torch.ones(12, 1, dtype=torch.complex64), "complex64"),
]


@pytest.mark.parametrize(("part", "tensor", "kind"), ODD_TYPES)
def test_types_that_no_weight_has_are_one_sentence(part, tensor, kind):
    with pytest.raises(LoraError, match=f"weights of a type that no LoRA has .*: {kind}.; save it in fp16"):
        files.from_tensors(kohya(**{"down": random(4, 8), "up": random(12, 4), part: tensor}))


def test_malformed_metadata_is_one_sentence_or_ignored(tmp_path):
    """A failure means a traceback, out of a number or a nesting that no settings have."""
    stored = {f"unet.{TO_Q}.lora_A.weight": random(4, 8), f"unet.{TO_Q}.lora_B.weight": random(12, 4)}
    for number in ("1" + "0" * 400, "1e999", "NaN", "true", '"x"', "1e31", "[1]"):
        config = f'{{"unet.lora_alpha": {number}}}'
        with pytest.raises(
            LoraError, match="PEFT settings give .* which is not a number; correct it"
        ) as found:
            files.read(saved(tmp_path, stored, {"lora_adapter_metadata": config}))
        assert len(str(found.value)) <= 400
    for deep in ("[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500, '{"a":' * 9999 + "1"):
        found = files.read(
            saved(tmp_path, stored, {"rechar.recipe": f'{{"x": {deep}}}', "ss_tag_frequency": deep})
        )
        assert found.recipe == {} and found.pairs[TO_Q].scale == 1
        inspect(found).as_dict()
        files.write(found, tmp_path / "again.safetensors")
    (tmp_path / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(FileError, match=r"adapter_config.json' cannot be read: .*; download them again"):
        files.read(saved(tmp_path, stored, name="adapter_model.safetensors"))


def test_messages_are_one_line_whatever_the_keys_hold():
    tensors = {f"a\nb\x1b[31m{'k' * 10_000}{i}": torch.zeros(1) for i in range(12)}
    with pytest.raises(LoraError) as caught:
        files.from_tensors(tensors)
    text = str(caught.value)
    assert len(text) <= 400 and text.isprintable() and "give an SDXL LoRA" in text
    sound = kohya(down=random(4, 8), up=random(12, 4))
    shown = str(inspect(files.from_tensors({**tensors, **sound})))
    assert "12 keys, not understood and not used" in shown
    assert all(len(line) <= 420 and line.isprintable() for line in shown.splitlines())


def test_a_changed_byte_of_our_own_file_is_said(tmp_path):
    """A failure means that a damaged download draws another picture without a word."""
    path = files.write(blora(), tmp_path / "x.safetensors")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(FileError) as caught:
        files.read(path)
    assert str(caught.value) == (
        "'x.safetensors' is damaged or was changed by another program: its weights have not the SHA-256 that they were "
        "saved with; copy, download or save it again."
    )
    tensors = load_file(path)
    save_file(tensors, path, {"modelspec.hash_sha256": "0x" + "0" * 64})
    assert len(files.read(path).pairs) == len(MODULES)  # another program hashed what it likes


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"down": random(4, 8), "up": random(12, 5)}, r"ranks that differ, down \[4, 8\], up \[12, 5\]"),
        ({"down": random(0, 8), "up": random(12, 0)}, r"ranks that differ"),
        (
            {"down": random(4, 8, 3, 3), "up": random(12, 4)},
            r"weights that are not matrices, down \[4, 8, 3, 3\]",
        ),
        ({"down": random(8), "up": random(12, 4)}, "weights that are not matrices"),
        ({"down": random(4, 8)}, "only down, which is not a whole layer"),
        ({"up": random(12, 4), "alpha": torch.tensor(1.0)}, "only alpha, up, which is not a whole layer"),
        ({"alpha": torch.tensor(1.0)}, "only alpha, which is not a whole layer"),
        ({"down": random(4, 8), "up": random(12, 4), "alpha": torch.ones(2)}, r"alpha of shape \[2\]"),
        (
            {"down": random(4, 8), "up": random(12, 4), "dora_scale": random(8, 1)},
            r"DoRA scale of shape \[8, 1\]",
        ),
    ],
)
def test_layers_of_wrong_shape_are_listed(tmp_path, parts, message):
    with pytest.raises(
        LoraError, match=rf"'some.safetensors' has unusable layers \({TO_Q}: {message}.*save or download"
    ):
        files.read(saved(tmp_path, kohya(**parts)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    down = random(4, 8)
    down[3, 7] = value
    path = saved(tmp_path, kohya(down=down, up=random(12, 4)))
    with pytest.raises(
        LoraError, match=r"NaN or infinite values in lora_unet_.*to_q.lora_down.weight; it was damaged"
    ):
        files.read(path)
    made = BLora({TO_Q: LoraPair(down, random(12, 4), 4.0)})
    with pytest.raises(
        LoraError, match=r"'x.safetensors' was not written: NaN or infinite values in .*; train again"
    ):
        files.write(made, tmp_path / "x.safetensors")


def test_the_same_weight_under_two_names_is_refused():
    tensors = kohya(down=random(4, 8), up=random(12, 4))
    tensors[keys.format_key("peft", TO_Q, "down")] = random(4, 8)
    with pytest.raises(
        LoraError, match="has the same weights twice, in two key formats: unet.*lora_A.weight; delete one"
    ):
        files.from_tensors(tensors)


# Files that cannot be written


def test_nothing_is_written_in_an_unknown_format_or_without_weights(tmp_path):
    with pytest.raises(
        LoraError, match="no writable LoRA format 'onnx'; choose one of kohya, kohya-sgm, diffusers, peft"
    ):
        files.write(blora(), tmp_path / "x.safetensors", format="onnx")
    with pytest.raises(
        LoraError, match="'x.safetensors' was not written: the LoRA has no weights in either block"
    ):
        files.write(BLora({}), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch, broken):
    path = files.write(blora(), tmp_path / "x.safetensors")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(FileError, match=r"x.safetensors' cannot be written: No space left on device\."):
        files.write(blora([TO_Q]), path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"] and path.read_bytes() == before


def test_ctrl_c_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = files.write(blora(), tmp_path / "x.safetensors")
    before = path.read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.write(blora([TO_Q]), path)
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"] and path.read_bytes() == before


def test_a_place_that_cannot_hold_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.safetensors").mkdir()
    for target, words in (
        (tmp_path / "file" / "x", "cannot be a folder"),
        (tmp_path / "folder.safetensors", "is a folder"),
    ):
        with pytest.raises(FileError, match=words):
            files.write(blora(), target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.safetensors"]


# Any tensors


def test_state_of_any_kind_comes_back_exactly(tmp_path):
    whole = random(6, 4)
    state = {
        "step": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
        "half": random(3, dtype=torch.bfloat16),
        "a view": whole[:2],
        "transposed": whole.T,
        "same": whole,
        "same again": whole,
    }
    path = storage.write_state(state, {"b": "2", "a": "\u5b57"}, tmp_path / "x.safetensors")
    back, metadata = storage.read_state(path)
    assert metadata == {"a": "\u5b57", "b": "2"} and set(back) == set(state)
    for key, tensor in state.items():
        assert back[key].dtype == tensor.dtype and torch.equal(back[key], tensor)


def test_what_was_read_is_not_tied_to_the_file(tmp_path):
    path = files.write(BLora({f"{STRUCTURE}.proj_in": pair()}), tmp_path / "x.safetensors")
    back = files.read(path)
    files.write(BLora({f"{STRUCTURE}.proj_in": pair(1)}), path)
    assert torch.equal(back.pairs[f"{STRUCTURE}.proj_in"].down, pair().down)


def test_a_file_that_vanishes_from_the_cache_does_not_end_a_finished_training(tmp_path, monkeypatch):
    """A failure means that a training is lost, at its end, because another process tidies up the same folder."""
    for name in ("here", "gone"):
        (tmp_path / name).write_bytes(bytes(10))
    whole = type(tmp_path).stat

    def stat(path, **options):
        if path.name == "gone":
            raise FileNotFoundError(path)
        return whole(path, **options)

    monkeypatch.setattr(type(tmp_path), "is_file", lambda path: True)
    monkeypatch.setattr(type(tmp_path), "stat", stat)
    storage.drop_oldest(tmp_path, 5)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == ["gone"]


def test_a_folder_keeps_what_was_used_last(tmp_path: Path) -> None:
    """A failure means that the cache of trainings grows for ever, or forgets what was used a moment ago."""
    for number in range(4):
        file = tmp_path / f"{number}.safetensors"
        file.write_bytes(b"x" * 10)
        os.utime(file, (number, number))
    os.utime(tmp_path / "0.safetensors", (9, 9))
    storage.drop_oldest(tmp_path, 25)
    assert sorted(p.stem for p in tmp_path.iterdir()) == ["0", "3"]
