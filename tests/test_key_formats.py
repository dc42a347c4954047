"""The key formats, against the examples of their own writers (docs/blora.md) and against themselves."""

from __future__ import annotations

import pytest
from loras import LEAVES, MODULES, STRUCTURE, STYLE, TO_Q

from rechar_core.lora import key_formats as keys

TO_OUT = f"{STYLE}.transformer_blocks.9.attn2.to_out.0"
FF = f"{STRUCTURE}.transformer_blocks.3.ff.net.0.proj"

EXAMPLES = [
    # very old diffusers
    (
        f"unet.{STRUCTURE}.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
        "diffusers-processor",
        TO_Q,
        "up",
    ),
    (
        f"unet.{STYLE}.transformer_blocks.9.attn2.processor.to_out_lora.down.weight",
        "diffusers-processor",
        TO_OUT,
        "down",
    ),
    (
        f"{STRUCTURE}.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
        "diffusers-processor",
        TO_Q,
        "up",
    ),
    # diffusers <= 0.24, the authors' published files
    (f"unet.unet.{TO_Q}.lora.up.weight", "diffusers-0.24", TO_Q, "up"),
    # diffusers 0.25, the reference trainer
    (f"unet.{TO_OUT}.lora.down.weight", "diffusers", TO_OUT, "down"),
    (f"{TO_OUT}.lora.down.weight", "diffusers", TO_OUT, "down"),
    (f"unet.{FF}.lora.up.weight", "diffusers", FF, "up"),
    (f"unet.{TO_Q}.lora_linear_layer.down.weight", "diffusers", TO_Q, "down"),
    (f"unet.{TO_Q}.lora_down.weight", "diffusers", TO_Q, "down"),
    # PEFT
    (f"unet.{TO_Q}.lora_A.weight", "peft", TO_Q, "down"),
    (f"base_model.model.{TO_OUT}.lora_B.weight", "peft", TO_OUT, "up"),
    (f"unet.base_model.model.{TO_OUT}.lora_B.weight", "peft", TO_OUT, "up"),
    (f"base_model.model.unet.{TO_OUT}.lora_B.weight", "peft", TO_OUT, "up"),
    (f"{TO_Q}.lora_A.weight", "peft", TO_Q, "down"),
    (f"unet.{TO_Q}.lora_A.default.weight", "peft", TO_Q, "down"),
    (f"{TO_Q}.lora_B.default_0.weight", "peft", TO_Q, "up"),
    (f"unet.{TO_Q}.lora_magnitude_vector", "diffusers", TO_Q, "dora_scale"),
    (f"base_model.model.{TO_Q}.lora_magnitude_vector", "peft", TO_Q, "dora_scale"),
    (f"base_model.model.{TO_Q}.lora_magnitude_vector.default.weight", "peft", TO_Q, "dora_scale"),
    (f"base_model.model.{TO_Q}.lora_magnitude_vector.weight", "peft", TO_Q, "dora_scale"),
    # kohya, OneTrainer
    (
        "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
        "kohya",
        TO_Q,
        "up",
    ),
    (
        "lora_unet_up_blocks_0_attentions_1_transformer_blocks_9_attn2_to_out_0.alpha",
        "kohya",
        TO_OUT,
        "alpha",
    ),
    (
        "lora_unet_up_blocks_0_attentions_0_transformer_blocks_3_ff_net_0_proj.lora_down.weight",
        "kohya",
        FF,
        "down",
    ),
    ("lora_unet_up_blocks_0_attentions_1_proj_in.dora_scale", "kohya", f"{STYLE}.proj_in", "dora_scale"),
    ("lora_unet_up_blocks_0_attentions_1_norm.w_norm", "kohya", f"{STYLE}.norm", "w_norm"),
    # sd-scripts
    ("lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q.lora_up.weight", "kohya-sgm", TO_Q, "up"),
    (
        "lora_unet_output_blocks_1_1_transformer_blocks_9_attn2_to_out_0.hada_w1_a",
        "kohya-sgm",
        TO_OUT,
        "hada_w1_a",
    ),
    # the host's own trainer
    ("diffusion_model.output_blocks.0.1.transformer_blocks.0.attn1.to_q.lora_up.weight", "comfy", TO_Q, "up"),
    (
        "diffusion_model.output_blocks.1.1.transformer_blocks.9.attn2.to_out.0.diff_b",
        "comfy",
        TO_OUT,
        "diff_b",
    ),
    ("diffusion_model.output_blocks.0.1.transformer_blocks.3.ff.net.0.proj.diff", "comfy", FF, "diff"),
    # SimpleTuner, LyCORIS
    ("lycoris_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lokr_w1", "lycoris", TO_Q, "lokr_w1"),
    (
        "lycoris_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight",
        "lycoris",
        TO_Q,
        "down",
    ),
]

OUTSIDE = [
    # a block whose name only begins like ours
    "lora_unet_up_blocks_0_attentions_10_transformer_blocks_0_attn1_to_q.lora_up.weight",
    "unet.up_blocks.0.attentions.10.transformer_blocks.0.attn1.to_q.lora.up.weight",
    "lora_unet_output_blocks_0_10_transformer_blocks_0_attn1_to_q.lora_up.weight",
    "diffusion_model.output_blocks.10.1.transformer_blocks.0.attn1.to_q.lora_up.weight",
    "lora_unet_up_blocks_0_attentions_2_transformer_blocks_0_attn1_to_q.lora_up.weight",
    "lora_unet_output_blocks_0_0_in_layers_2.alpha",
    "lora_unet_input_blocks_8_1_proj_in.lora_down.weight",
    "lora_unet_middle_block_1_proj_out.lora_down.weight",
    "lora_unet_label_emb_0_0.lora_down.weight",
    "unet.conv_in.lora.down.weight",
    "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
    "lora_te2_text_projection.lora_down.weight",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
    "text_encoder_2.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    "bundle_emb.v.string_to_param.*",
]

UNKNOWN = [
    "",
    "lora_up.weight",
    "lora_unet_up_blocks_0_attentions_0.lora_up.weight",
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_x.lora_up.weight",
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out.lora_up.weight",
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_01_attn1_to_q.lora_up.weight",
    "lora_unet_up_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_sideways.weight",
    f"unet.{STRUCTURE}.transformer_blocks.0.attn1.to_q.weight",
    f"unet.unet.unet.{TO_Q}.lora.up.weight",
    f"{STRUCTURE}.transformer_blocks.0.attn1.processor.to_out.0_lora.up.weight",
    "lora_unet_double_blocks_0_img_attn_proj.lora_up.weight",
]


@pytest.mark.parametrize(("key", "format", "module", "part"), EXAMPLES)
def test_every_format_is_understood(key, format, module, part):
    assert keys.parse(key) == keys.Parsed(format, module, part, inside=True)


@pytest.mark.parametrize("key", OUTSIDE)
def test_keys_elsewhere_are_outside(key):
    parsed = keys.parse(key)
    assert parsed is not None and not parsed.inside


@pytest.mark.parametrize("key", UNKNOWN)
def test_other_keys_are_not_understood(key):
    assert keys.parse(key) is None


# The oldest format knew attention only.
SPOKEN = [(g, m) for g in keys.KEY_FORMATS for m in MODULES if g.name != "diffusers-processor" or ".to_" in m]


@pytest.mark.parametrize(("key_format", "module"), SPOKEN)
def test_parsing_undoes_formatting(key_format, module):
    for part in key_format.suffixes:
        parsed = keys.parse(keys.format_key(key_format.name, module, part))
        assert (parsed.module, parsed.part, parsed.inside) == (module, part, True)


def test_formatted_keys_never_collide():
    for key_format in keys.KEY_FORMATS:
        names = [key_format.format(m, p) for m in MODULES for p in key_format.holds if "to_" in m]
        assert len(names) == len(set(names))


def test_the_flat_name_of_a_layer_is_its_path_with_underscores():
    for leaf in LEAVES:
        key = keys.format_key("kohya", f"{STYLE}.{leaf}", "down")
        assert key == f"lora_unet_up_blocks_0_attentions_1_{leaf.replace('.', '_')}.lora_down.weight"


@pytest.mark.parametrize(
    "module", ["up_blocks.0.attentions.2.proj_in", f"{STRUCTURE}.nonsense", "up_blocks.0.attentions.0"]
)
def test_formatting_refuses_what_is_in_no_table(module):
    with pytest.raises(KeyError):
        keys.format_key("kohya", module, "down")
    with pytest.raises(KeyError):
        keys.format_key("no such format", TO_Q, "down")
