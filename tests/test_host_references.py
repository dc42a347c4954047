"""References in a real ComfyUI against diffusers' IP-Adapter, at the output of an SDXL of the demo's size."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adapters
import pytest
import torch
from safetensors.torch import save_file
from server import find_host, run_inside
from test_host_demo import random_parts, state_of
from torch import Tensor

from rechar_core.demo import build
from rechar_core.synthesis.references.projection import ip_adapter_of

pytestmark = pytest.mark.host

SCRIPT = Path(__file__).parent / "host_references.py"
ROLES, TIMESTEP = ("structure", "style"), 400
SIZES = {"square": (32, 32), "wide": (24, 40), "tall": (36, 28)}  # in latent cells
VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 48,
    "projection_dim": 24,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_channels": 3,
    "patch_size": 28,
    "image_size": 224,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
}


def case(size: str, used: list[int], masked: list[str], weights: str = "", **scales: float) -> dict[str, Any]:
    factors = [scales.get("structure", 1.5), scales.get("style", 0.8)]
    return {"size": size, "used": used, "masked": masked, "weights": weights, "scales": factors}


CASES = {
    f"{size}.{kind}.{'masked' if masked else 'open'}": case(size, used, masked)
    for size in SIZES
    for kind, used in (("plus", [0]), ("plain", [1]), ("two", [0, 1]))
    for masked in ([], list(ROLES))
} | {
    "one mask of two": case("wide", [0, 1], ["structure"]),
    "negative": case("square", [0, 1], [], structure=-0.5),
    "middle alone": case("wide", [0], [], "middle: 1, *: 0"),
    "style block alone": case("square", [1], [], "style: 2, *: 0"),
}


@dataclass
class Both:
    """The UNet's outputs from diffusers and from the host, and what the host said of itself."""

    expected: dict[str, Tensor]
    found: dict[str, Tensor]
    about: dict[str, Any]

    def distance(self, name: str) -> float:
        expected, found = self.expected[name], self.found[name]
        assert expected.shape == found.shape
        return (expected - found).abs().max().item()


def make_inputs(unet: Any, config: dict[str, Any]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    inputs = {"context": torch.randn(2, 77, config["unet"]["cross_attention_dim"], generator=draw)}
    inputs["pooled"] = torch.randn(2, config["text_encoder_2"]["projection_dim"], generator=draw)
    for name, (height, width) in SIZES.items():
        inputs[f"{name}.noisy"] = torch.randn(2, 4, height, width, generator=draw)
        rough = torch.rand(1, 1, 4, 5, generator=draw)
        shape = torch.nn.functional.interpolate(rough, (height * 8, width * 8), mode="bilinear")[0, 0]
        inputs[f"{name}.mask"] = shape.contiguous()
        sizes = unet.add_time_proj(time_ids(name).flatten()).reshape(2, -1)
        inputs[f"{name}.y"] = torch.cat([inputs["pooled"], sizes], 1)
    inputs["features.0"] = torch.randn(2, 17, 48, generator=draw)
    inputs["features.1"] = torch.randn(2, 24, generator=draw)
    inputs["features.1"][0] = 0
    rough = torch.rand(1, 3, 9, 12, generator=draw)
    picture = torch.nn.functional.interpolate(rough, (448, 672), mode="bicubic").clamp(0, 1).movedim(1, -1)
    return inputs | {"picture": (picture * 255).round().contiguous() / 255}


def time_ids(name: str) -> Tensor:
    height, width = SIZES[name][0] * 8.0, SIZES[name][1] * 8.0
    return torch.tensor([[height, width, 0, 0, height, width]] * 2)


def run_diffusers(unet: Any, states: list[adapters.State], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every case by diffusers' own loader, processors and mask rule."""
    names = adapters.cross_attentions(unet)
    found = {}
    for name, job in CASES.items():
        unet._load_ip_adapter_weights(
            [adapters.halves(states[n]) for n in job["used"]], low_cpu_mem_usage=False
        )
        for layer in names:
            scale = layer_weight(job["weights"], layer)
            unet.get_submodule(layer).processor.scale = [job["scales"][n] * scale for n in job["used"]]
        size = job["size"]
        added = {"text_embeds": inputs["pooled"], "time_ids": time_ids(size)}
        added["image_embeds"] = [inputs[f"features.{n}"][:, None] for n in job["used"]]
        binary = (inputs[f"{size}.mask"] >= 0.5).float()[None, None]
        masks = [binary if ROLES[n] in job["masked"] else None for n in job["used"]]
        given = {"cross_attention_kwargs": {"ip_adapter_masks": masks}} if job["masked"] else {}
        time = torch.tensor([TIMESTEP])
        noisy = inputs[f"{size}.noisy"]
        found[name] = unet(noisy, time, inputs["context"], added_cond_kwargs=added, **given).sample
    return found


def layer_weight(text: str, layer: str) -> float:
    """What the two cases with block weights mean in diffusers' names."""
    if text.startswith("middle"):
        return float(layer.startswith("mid_block"))
    if text.startswith("style"):
        return 2.0 * layer.startswith("up_blocks.0.attentions.1.")
    return 1.0


def vision_model() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(3)
    made = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval().requires_grad_(False)
    for tensor in made.parameters():
        tensor.add_(torch.randn_like(tensor) * 0.1)
    return made


def run_vision(inputs: dict[str, Tensor], states: list[adapters.State], model: Any) -> dict[str, Tensor]:
    """The features that diffusers' pipeline would take: CLIP's preprocessing by transformers, then the projections."""
    from PIL import Image
    from transformers import CLIPImageProcessor

    pixels = (inputs["picture"][0] * 255).round().byte().numpy()
    given = CLIPImageProcessor()(Image.fromarray(pixels), return_tensors="pt").pixel_values
    seen = model(given, output_hidden_states=True)
    unseen = model(torch.zeros_like(given), output_hidden_states=True)
    plus, plain = (ip_adapter_of(state, "x") for state in states)
    hidden, nothing = seen.hidden_states[-2], unseen.hidden_states[-2]
    # the right half of 672 columns, of which the middle 448 are seen: of 8 patches in a row the last four
    patches = [1 + y * 8 + x for y in range(8) for x in range(4, 8)]
    return {
        "hidden": hidden,
        "pooled": seen.image_embeds,
        "structure.seen": plus.tokens(hidden)[0],
        "structure.diffusers": plus.tokens(nothing)[0],
        "structure.zeros": plus.tokens(torch.zeros_like(hidden))[0],
        "style.seen": plain.tokens(seen.image_embeds)[0],
        "style.diffusers": plain.tokens(torch.zeros_like(seen.image_embeds))[0],
        "dropped.seen": plus.tokens(hidden[:, patches])[0],
        "dropped.unseen": plus.tokens(nothing[:, patches])[0],
    }


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    find_host()
    folder = tmp_path_factory.mktemp("host_references")
    config, parts = build.read_config(), random_parts()
    state = state_of(parts)
    names = adapters.cross_attentions(parts.unet)
    widths = [parts.unet.get_submodule(name).inner_dim for name in names]
    context = config["unet"]["cross_attention_dim"]
    states = [adapters.plus(widths, context), adapters.plain(widths, context)]
    inputs, model = make_inputs(parts.unet, config), vision_model()
    with torch.no_grad():
        expected = run_diffusers(parts.unet, states, inputs) | run_vision(inputs, states, model)
    for number, tensors in enumerate(states):
        save_file(tensors, folder / f"adapter_{number}.safetensors")
    inputs |= {f"state.{name}": tensor for name, tensor in state.items()}
    inputs |= {f"vision.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(inputs, folder / "inputs.safetensors")
    (folder / "vision.json").write_text(json.dumps(VISION))
    config |= {"cases": CASES, "sizes": list(SIZES), "roles": ROLES, "timestep": TIMESTEP}
    (folder / "config.json").write_text(json.dumps(config))
    found, about, _ = run_inside(SCRIPT, folder)
    return Both(expected, found, about)


@pytest.mark.parametrize("name", CASES)
def test_the_unet_predicts_what_diffusers_predicts(both: Both, name: str):
    """Both halves of the batch, every size, one and two adapters, with and without masks, block weights."""
    assert both.distance(name) < 1e-4
    plain = both.found[f"plain.{CASES[name]['size']}"]
    assert ((both.found[name] - plain).abs().amax((1, 2, 3)) > 1e-3).all()


def test_scale_zero_is_bit_identical_to_absent(both: Both):
    assert both.about["zero_is_plain"] and both.about["zero_patches"] == 0


def test_nothing_upstream_is_changed(both: Both):
    assert both.about["model_untouched"] and both.about["chain_leaves_the_first"]
    assert both.about["chain_is_the_sum"] < 1e-5


def test_every_block_takes_part_the_middle_too(both: Both):
    """IPAdapter_plus registers ("middle", 1, i), which never fires; ours is ("middle", 0, i)."""
    blocks = ["input 4", "input 5", "input 7", "input 8", *(f"output {n}" for n in range(6)), "middle"]
    assert list(both.about["moved"]) == blocks
    assert min(both.about["moved"].values()) > 1e-4
    assert len(both.about["layers"]) == 2 + 4 + 6 + 3 + 2
    assert [layer[:3] for layer in both.about["layers"][-2:]] == [["middle", 0, 0], ["middle", 0, 1]]


def test_the_halves_of_a_batch_are_told_apart(both: Both):
    assert both.about["swapped_halves"] > 1e-3


def test_references_act_between_start_and_end(both: Both):
    assert both.about["before_the_end"] > 1e-3 and both.about["after_the_end"]


def test_start_and_end_follow_a_model_sampling_node(both: Both):
    """Sigmas ten times as large: 10, which lies before the end otherwise, is after it then."""
    assert both.about["other_sampling"] > 1e-3 and both.about["other_sampling_after"]


def test_a_clone_holds_no_second_copy_of_the_references(both: Both):
    assert both.about["kept_patches"]


def test_a_transparent_picture_is_seen_as_white(both: Both):
    assert both.about["transparent_is_white"]


def test_other_packs_patches_keep_working(both: Both):
    """A patch that was there runs in its layers (2 + 2 + 2), one that joins afterwards is added while it is on."""
    assert both.about["their_calls"] == 6 and both.about["beside_theirs"] < 1e-5
    assert both.about["joined"] > 1e-3 and both.about["joined_outside"]
    assert both.about["joined_again"]  # what another pack adds stays out of the MODEL in the host's cache


def test_the_encoder_and_the_tokens_are_those_of_transformers(both: Both):
    """The host resizes by PyTorch's bicubic filter and not by PIL's: a grey level here and there differs."""
    assert both.about["widths"] == [48, 24] and not both.about["unplaced"]
    for name in ("structure.diffusers", "structure.zeros", "style.diffusers", "dropped.unseen"):
        assert both.distance(name) < 1e-4, name
    for name in ("hidden", "pooled", "structure.seen", "style.seen", "dropped.seen"):
        assert both.distance(name) < 0.05 * both.expected[name].std(), name


def test_unconditional_modes_differ(both: Both):
    modes = [both.found[f"structure.{mode}"] for mode in ("diffusers", "zeros", "black")]
    assert min((a - b).abs().max() for a, b in zip(modes, modes[1:] + modes[:1])) > 1e-3
    assert torch.equal(both.found["style.diffusers"], both.found["style.zeros"])


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "no part can be dropped"),
        (1, "keeps no part"),
        (2, "No adapter for style references"),
        (3, "no CLIP image projection"),
    ],
)
def test_errors_say_what_to_do(both: Both, number: int, message: str):
    assert message in both.about["errors"][number]
