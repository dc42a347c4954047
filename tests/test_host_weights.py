"""A MODEL's weights while we compute with it: what the host would compute with, and the host's own again afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from server import run_inside

pytestmark = pytest.mark.host
SCRIPT = Path(__file__).with_name("host_weights.py")


@pytest.fixture(scope="module")
def about(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What host_weights.py found."""
    return run_inside(SCRIPT, tmp_path_factory.mktemp("host_weights"))[1]


def test_a_lora_beneath_is_in_the_weights_as_the_host_patches_them(about):
    """A failure means that training sees other weights than sampling, or tensors that a backward pass cannot save."""
    assert about["patched"] == {"equal": True, "usable": True, "moved": True}
    assert about["wrapped"]


def test_a_job_over_another_lora_is_another_job(about):
    """A failure means that the cached B-LoRA of another base is returned, silently."""
    alone, lora, weaker, again = about["hashes"]
    assert len({alone, lora, weaker}) == 3
    assert alone == again


def test_every_module_is_the_hosts_own_again(about):
    """A failure means that the host is left with our tensors, or without what it casts weights with."""
    assert about["traces"] == 0
    assert about["encoded"]["traces"] == 0


def test_the_prompt_is_encoded_as_the_host_does_and_the_size_is_the_trainings(about):
    """Original height and width, crop, target height and width."""
    assert about["prompted"] == {"ids": [[256.0, 256.0, 0.0, 0.0, 256.0, 256.0]], "same": True}


def test_a_weight_that_cannot_be_given_back_keeps_none_of_the_others(about):
    """A failure means a host whose layers keep our tensors, or do not cast, after its card was full."""
    assert about["failure"] == {"said": "broken off", "traces": 0}


def test_patches_are_computed_on_the_cpu_where_the_card_is_full(about):
    """A failure means a raw error before the memory modes have begun, or other weights."""
    assert about["no_room"] == {"equal": True, "full": 1}


def test_a_quantised_base_is_trained_on_as_if_dequantised(about):
    """A failure means a LoRA of other weights than those drawn with, or a MODEL that is no longer quantised."""
    if about["quantised"] is None:
        pytest.skip("this ComfyUI has no quantised tensors")
    for kind in about["quantised"].values():
        assert kind["values_equal"]
        assert kind["given_back"]
        assert kind["losses_apart"] < 1e-6
        assert kind["differs_from_plain"]
        assert kind["counted_as_there"], "memory for a dequantised copy is taken for granted"


def test_a_node_that_chooses_the_type_to_compute_in_is_obeyed(about):
    """A failure means a training that dies on mixed types, or one in another precision than the drawing."""
    found = about["compute_dtype"]
    assert found["precision"] == "bf16"
    assert found["held"] == ["torch.bfloat16"]
    assert 0 < found["apart"] < 0.02
    assert found["traces"] == 0


def test_a_packed_base_is_refused_by_name(about):
    assert "torch.uint8" in about["packed"]
    assert "GGUF" in about["packed"]


def test_a_schedule_leaked_from_another_run_is_not_trained_on(about):
    """A failure means training at noise levels of another graph's Model Sampling node (Comfy-Org/ComfyUI#16490)."""
    assert about["schedules"] == {"healed": True, "differ": True, "custom_kept": True}


def test_the_vae_is_asked_in_fp32_without_a_copy_of_its_modules(about):
    """A failure means memory freed while in use: a module's copy frees what its original casts into."""
    assert about["encoded"]["apart"] < 1e-6
    assert about["encoded"]["copies"] == 0


def test_a_lora_in_bypass_mode_is_trained_over_like_any_other(about):
    """A failure means a backward pass that breaks, or one job for two LoRAs, which differ in their strength, their
    alpha or their layer alone."""
    if about["bypass"] is None:
        pytest.skip("this ComfyUI has no bypass mode")
    assert about["bypass"]["apart"] < 1e-5
    assert len(set(about["bypass"]["hashes"])) == 6
