"""Fusion: identities of its algebra, the published code's pictures, and DoRA against PEFT's own layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from loras import STRUCTURE, STYLE, TO_Q, blora, pair, random
from safetensors.torch import load_file

from rechar_core.errors import LoraError, ModelError
from rechar_core.lora import files
from rechar_core.lora.blora import BLora
from rechar_core.lora.fusion import (
    Fusion,
    alpha_list,
    applied,
    decimal_comma,
    effective_alpha,
    fuse,
    patched,
    weight_shapes,
)

CASES = {
    "none": {},
    "structure_1": {"structure": 1.0},
    "style_1": {"style": 1.0},
    "both_1_1": {"structure": 1.0, "style": 1.0},
    "both_0.7_1.2": {"structure": 0.7, "style": 1.2},
}


@pytest.fixture(scope="module")
def unet(reference):
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel.from_pretrained(reference / "model" / "unet").eval()


@pytest.fixture(scope="module")
def loras(reference):
    return {name: files.read(reference / f"{name}_lora.safetensors") for name in ("structure", "style")}


def predicted(unet, inputs):
    added = {"text_embeds": inputs["in.pooled"], "time_ids": inputs["in.time_ids"]}
    with torch.no_grad():
        return unet(
            inputs["in.latent"],
            inputs["in.timestep"],
            encoder_hidden_states=inputs["in.context"],
            added_cond_kwargs=added,
        ).sample


def weights(unet):
    return {name: p.detach().clone() for name, p in unet.named_parameters()}


# Against the published code


@pytest.mark.parametrize("case", CASES)
def test_the_published_codes_outputs_are_reproduced(unet, loras, reference, case):
    stored = load_file(reference / "unet_outputs.safetensors")
    alphas = CASES[case]
    fusion = fuse(
        loras["structure"] if "structure" in alphas else None,
        loras["style"] if "style" in alphas else None,
        alphas.get("structure", 1.0),
        alphas.get("style", 1.0),
        alpha_mode="reference",
    )
    before, parameters = weights(unet), dict(unet.named_parameters())
    with applied(unet, fusion):
        output = predicted(unet, stored)
    torch.testing.assert_close(output, stored[f"out.{case}"], rtol=0, atol=1e-5)
    assert all(torch.equal(before[name], p) and parameters[name] is p for name, p in unet.named_parameters())


def test_linear_and_reference_alphas_meet(unet, loras, reference):
    stored = load_file(reference / "unet_outputs.safetensors")
    with applied(unet, fuse(loras["structure"], loras["style"], 0.7**2, 1.2**2)):
        output = predicted(unet, stored)
    torch.testing.assert_close(output, stored["out.both_0.7_1.2"], rtol=0, atol=1e-5)


def test_weights_come_back_after_an_error_inside(unet, loras):
    before = weights(unet)

    def fails():
        with applied(unet, fuse(loras["structure"], None)):
            assert not torch.equal(before[f"{TO_Q}.weight"], unet.get_parameter(f"{TO_Q}.weight"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert all(torch.equal(before[name], p) for name, p in unet.named_parameters())


# Identities


def test_each_lora_gives_its_own_block_only(loras):
    fusion = fuse(loras["structure"], loras["style"])
    assert len(fusion.pairs) == 32
    for path, (one, factor) in fusion.pairs.items():
        assert (
            one is loras["structure" if path.startswith(STRUCTURE + ".") else "style"].pairs[path]
            and factor == 1.0
        )


def test_alpha_zero_is_the_same_as_no_lora(loras):
    assert fuse(loras["structure"], loras["style"], 0.0, 0.0) == Fusion({}, {}) == fuse(None, None)
    assert fuse(loras["structure"], loras["style"], 0, 1.5) == fuse(None, loras["style"], 1.0, 1.5)
    assert fuse(loras["structure"], None, 0.0, alpha_mode="reference") == fuse(None, None)


def test_doubling_alpha_doubles_the_change():
    weight, one = torch.zeros(12, 8), pair(network_alpha=3.0)
    assert torch.equal(patched(weight, one, 2.0), 2 * patched(weight, one, 1.0))
    assert torch.equal(patched(weight, one, -1.0), -patched(weight, one, 1.0))
    assert torch.equal(patched(weight, one, 1.0), one.delta())
    assert torch.equal(patched(weight, replace(one, network_alpha=6.0), 1.0), 2 * one.delta())


@pytest.mark.parametrize(("mode", "factor"), [("linear", -0.5), ("reference", 0.25)])
def test_strength_follows_the_mode(mode, factor):
    assert effective_alpha(-0.5, mode) == factor
    assert next(iter(fuse(blora(), None, -0.5, alpha_mode=mode).pairs.values()))[1] == factor


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_sum_is_rounded_once(dtype):
    weight, one = random(12, 8, dtype=dtype), pair()
    wide = torch.promote_types(dtype, torch.float32)
    expected = (weight.to(wide) + 0.7 * one.delta().to(wide)).to(dtype)
    assert torch.equal(patched(weight, one, 0.7), expected) and patched(weight, one, 0.7).dtype == dtype


def test_a_one_by_one_convolution_is_patched_as_a_matrix():
    weight, one = random(12, 8, 1, 1), pair()
    assert torch.equal(patched(weight, one, 1.0)[:, :, 0, 0], weight[:, :, 0, 0] + one.delta())
    Fusion({TO_Q: (one, 1.0)}, {}).check({TO_Q: (12, 8, 1, 1)})


# DoRA


def test_dora_equals_pefts_own_layer():
    peft = pytest.importorskip("peft")
    base = torch.nn.Sequential(torch.nn.Linear(8, 12, bias=False))
    weight, one = base[0].weight.detach().clone(), pair(network_alpha=3.0)
    config = peft.LoraConfig(r=4, lora_alpha=3, target_modules=["0"], use_dora=True)
    layer = peft.get_peft_model(base, config).base_model.model[0]
    magnitude = random(12, seed=9).abs() + 1
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(one.down)
        layer.lora_B["default"].weight.copy_(one.up)
        layer.lora_magnitude_vector["default"].weight.copy_(magnitude)
        inputs = random(5, 8, seed=3)
        theirs = layer(inputs)
    ours = inputs @ patched(weight, replace(one, dora_scale=magnitude[:, None]), 1.0).T
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
def test_dora_in_closed_form(axis):
    weight, one = random(8, 8, seed=4), pair(out=8)  # square: only the scale's shape tells its axis
    magnitude = random(*((1, 8) if axis == 0 else (8, 1)), seed=5).abs() + 1
    dora = replace(one, dora_scale=magnitude)
    changed = patched(weight, dora, 1.0)
    torch.testing.assert_close(changed.norm(dim=axis, keepdim=True), magnitude)
    direction = weight + one.delta()
    torch.testing.assert_close(
        changed / changed.norm(dim=axis, keepdim=True), direction / direction.norm(dim=axis, keepdim=True)
    )
    torch.testing.assert_close(patched(weight, dora, 0.5), (weight + changed) / 2)


# What is refused


def test_a_lora_without_the_block_is_refused():
    style_only = blora([m for m in blora().pairs if m.startswith(STYLE)])
    with pytest.raises(LoraError) as caught:
        fuse(style_only, None)
    assert str(caught.value) == (
        "The structure LoRA has no weights in the structure block (up_blocks.0.attentions.0), it has style; "
        "give a B-LoRA trained for structure."
    )
    with pytest.raises(
        LoraError, match="The style LoRA has no weights in the style block .*, it has nothing"
    ):
        fuse(None, BLora({}), style_alpha=0.0)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf")])
def test_alpha_must_be_finite(alpha):
    with pytest.raises(LoraError, match=f"Alpha is {alpha}; give a finite number"):
        fuse(blora(), None, alpha)


def test_the_mode_must_be_known():
    with pytest.raises(LoraError, match="There is no alpha mode 'cubed'; choose one of linear, reference"):
        fuse(blora(), None, alpha_mode="cubed")


def test_layers_that_do_not_fit_are_listed(unet, loras):
    shapes = weight_shapes(unet)
    fuse(loras["structure"], loras["style"]).check(shapes)
    shapes[TO_Q] = (1280, 1280)
    del shapes[f"{STYLE}.transformer_blocks.0.attn1.to_q"]
    with pytest.raises(ModelError) as caught:
        fuse(loras["structure"], loras["style"]).check(shapes)
    assert str(caught.value) == (
        f"The LoRA does not fit this model in 2 of 32 layers ({TO_Q} is [64, 64] in the LoRA and [1280, 1280] in the "
        f"model, {STYLE}.transformer_blocks.0.attn1.to_q is not in the model); "
        "choose the SDXL model it was trained for."
    )


@pytest.mark.parametrize(
    "parts",
    [
        {"diff": random(6, 8)},
        {
            "hada_w1_a": random(6, 2),
            "hada_w1_b": random(2, 8),
            "hada_w2_a": random(6, 2),
            "hada_w2_b": random(2, 8),
        },
        {"lokr_w1": random(2, 4), "lokr_w2_a": random(3, 1), "lokr_w2_b": random(1, 2)},
    ],
    ids=["full", "LoHa", "LoKr"],
)
def test_changes_that_only_comfyui_can_apply_are_measured_too(parts):
    """A failure means that ComfyUI gets a change of another size, which it only logs and skips."""
    fusion = fuse(BLora({}, passthrough={TO_Q: parts}), None)
    fusion.check({TO_Q: (6, 8)})
    with pytest.raises(ModelError, match=r"is \[6, 8\] in the LoRA and \[8, 8\] in the model"):
        fusion.check({TO_Q: (8, 8)})


def test_a_misfit_leaves_the_model_alone(unet):
    before = weights(unet)
    with pytest.raises(ModelError, match="and 14 more"), applied(unet, fuse(blora(), blora())):
        pass
    assert all(torch.equal(before[name], p) for name, p in unet.named_parameters())


def test_kinds_for_comfyui_are_refused_here(unet):
    made = BLora({}, passthrough={TO_Q: {"lokr_w1": random(2, 2), "lokr_w2": random(2, 2)}})
    fusion = fuse(made, None, 0.5)
    assert fusion.passthrough[TO_Q][1] == 0.5
    with (
        pytest.raises(LoraError, match="Only ComfyUI can apply LoKr weights; use this file there"),
        applied(unet, fusion),
    ):
        pass
    with pytest.raises(ModelError, match="to_q is not in the model"):
        fusion.check({})
    for size, kind in ((3, "OFT"), (4, "BOFT")):
        turned = BLora(
            {}, passthrough={TO_Q: {"oft_blocks": random(2, 3, 4, 4)[-1 if size == 3 else slice(None)]}}
        )
        fusion = fuse(turned, None)
        with pytest.raises(LoraError, match=f"Only ComfyUI can apply {kind} weights"), applied(unet, fusion):
            pass
        fusion.check({TO_Q: (12, 77)})
        with pytest.raises(ModelError, match=r"is \[12, None\] in the LoRA and \[13, 77\] in the model"):
            fusion.check({TO_Q: (13, 77)})


def test_differences_are_added_here_too(unet):
    """Weights, biases and norms: weight + alpha * diff, and bit for bit the model's own afterwards."""
    norm, out = f"{STRUCTURE}.norm", f"{STRUCTURE}.transformer_blocks.0.attn1.to_out.0"
    shapes = {name: p.shape for name, p in unet.named_parameters()}
    changes = {
        TO_Q: {"diff": random(*shapes[f"{TO_Q}.weight"]), "diff_b": random(shapes[f"{TO_Q}.weight"][0])},
        norm: {
            "w_norm": random(*shapes[f"{norm}.weight"]),
            "b_norm": random(*shapes[f"{norm}.bias"], seed=1),
        },
        out: {"diff_b": random(*shapes[f"{out}.bias"], seed=2)},
        f"{STRUCTURE}.proj_in": {"b_norm": random(*shapes[f"{STRUCTURE}.proj_in.bias"], seed=3)},
    }
    one = pair(out=shapes[f"{out}.weight"][0], width=shapes[f"{out}.weight"][1])
    made = BLora({out: one}, passthrough=changes)
    before, parameters = weights(unet), dict(unet.named_parameters())
    expected = before | {
        f"{TO_Q}.weight": before[f"{TO_Q}.weight"] + 0.6 * changes[TO_Q]["diff"],
        f"{norm}.weight": before[f"{norm}.weight"] + 0.6 * changes[norm]["w_norm"],
        f"{norm}.bias": before[f"{norm}.bias"] + 0.6 * changes[norm]["b_norm"],
        f"{out}.weight": before[f"{out}.weight"] + 0.6 * one.delta(),
        f"{out}.bias": before[f"{out}.bias"] + 0.6 * changes[out]["diff_b"],
        f"{STRUCTURE}.proj_in.bias": before[f"{STRUCTURE}.proj_in.bias"]
        + 0.6 * changes[f"{STRUCTURE}.proj_in"]["b_norm"],
    }
    with applied(unet, fuse(made, None, 0.6)):
        for name, parameter in unet.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name])
    assert all(parameters[name] is p and torch.equal(before[name], p) for name, p in unet.named_parameters())


def test_biases_that_do_not_fit_are_said(unet, caplog):
    norm = f"{STRUCTURE}.norm"
    with (
        pytest.raises(ModelError, match=rf"the bias of {norm} is \[3\] in the LoRA and \[64\] in the model"),
        applied(unet, fuse(BLora({}, passthrough={norm: {"diff_b": random(3)}}), None)),
    ):
        pass
    with applied(unet, fuse(BLora({}, passthrough={TO_Q: {"diff_b": random(64)}}), None)):
        pass
    assert caplog.messages == [
        f"The LoRA's biases of 1 layers are left out, for these have none in the model: {TO_Q}"
    ]


def test_lists_of_alphas_in_every_spelling():
    for text in ("0, 0.5, 1", "0 0.5 1", "0;0.5;1", "0，0.5；1", " 0、0.5\n1,"):
        assert alpha_list(text) == [0, 0.5, 1]


def test_a_decimal_comma_is_warned_of():
    """A failure means that 0,5 draws the alphas 0 and 5, and nobody knows why."""
    assert "write 0.5" in decimal_comma(alpha_list("0,5"))
    assert not any(map(decimal_comma, ([0, 0.5, 1], [0, 1, 2], [0.5, 5], [0, 0, 5], [1])))
