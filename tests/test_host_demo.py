"""The demo model in a real ComfyUI computes what it computes in diffusers and transformers.

Random weights for the shipped configuration test every tensor (the shipped ones hold many zeros); the shipped weights
test the way that the node goes. Reference and host meet in a folder of safetensors files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from server import find_host, run_inside
from torch import Tensor

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.demo import build
from rechar_core.lora import files
from rechar_core.lora.blora import BLora, LoraPair
from rechar_core.lora.fusion import applied, fuse
from rechar_core.training.denoiser import Conditioning, LatentMoments
from rechar_core.training.loop import Training
from rechar_core.training.recipe import TrainingRecipe
from rechar_core.training.run import TrainingRun

pytestmark = pytest.mark.host

SCRIPT = Path(__file__).parent / "host_demo.py"
PROMPTS = ["", "A [c] in [s] style", "the letter A, wood, twelve small red flowers; " * 3]
TIMESTEPS = (1, 500, 999)
HEIGHT, WIDTH = 192, 256


@dataclass
class Both:
    """The same quantities from diffusers (expected) and from the host (found)."""

    expected: dict[str, Tensor]
    found: dict[str, Tensor]
    about: dict[str, Any]
    random: bool  # the shipped weights may have parts that are silent

    def distance(self, name: str) -> float:
        """The largest difference; that of random weights must not be flat, else equality would prove nothing."""
        expected, found = self.expected[name].double(), self.found[name].double()
        assert expected.shape == found.shape
        assert not self.random or expected.numel() == 1 or expected.std() > 1e-3
        return (expected - found).abs().max().item()


def random_parts() -> build.DemoModel:
    """The demo with random weights large enough to leave the linear range of every function."""
    torch.manual_seed(0)
    first, second = build.build_text_encoders()
    parts = {
        "unet": build.build_unet(),
        "vae": build.build_vae(),
        "text_encoder": first,
        "text_encoder_2": second,
    }
    for name, module in parts.items():
        module.eval().requires_grad_(False)
        for tensor in module.parameters():
            spread = 0.1 if tensor.ndim == 1 else 0.1 * name.startswith("text")
            tensor.add_(torch.randn_like(tensor) * spread)
    from rechar_core.synthesis.tokenizer import tokenizers

    tokenizer, tokenizer_2 = tokenizers()
    return build.DemoModel(**parts, tokenizer=tokenizer, tokenizer_2=tokenizer_2, scheduler=None)


def state_of(parts: build.DemoModel) -> dict[str, Tensor]:
    """Flat tensors as `demo_state` gives them: transformers 5 leaves "text_model." out of the first encoder."""
    state = {}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        for name, tensor in getattr(parts, part).state_dict().items():
            if part.startswith("text") and not name.startswith(("text_model.", "text_projection.")):
                name = f"text_model.{name}"
            state[f"{part}.{name}"] = tensor.clone()
    return {name: tensor for name, tensor in state.items() if not name.endswith("position_ids")}


def encode_prompts(parts: build.DemoModel) -> dict[str, Tensor]:
    """SDXL's conditioning as diffusers makes it: both penultimate layers side by side, the second's pooled output."""
    found = {}
    for number, prompt in enumerate(PROMPTS):
        options = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        found[f"ids_l.{number}"] = ids = parts.tokenizer(prompt, **options).input_ids
        found[f"ids_g.{number}"] = ids_2 = parts.tokenizer_2(prompt, **options).input_ids
        first = parts.text_encoder(ids, output_hidden_states=True)
        second = parts.text_encoder_2(ids_2, output_hidden_states=True)
        found[f"context.{number}"] = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1)
        found[f"pooled.{number}"] = second.text_embeds
    return found


def run_unet(parts: build.DemoModel, inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """The raw prediction and the clean latent that follows from it, by the configuration's schedule."""
    from diffusers import DDPMScheduler

    schedule, found = DDPMScheduler(**config["scheduler"]), {}
    sizes = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]], dtype=torch.float32)
    added = {"text_embeds": inputs["pooled"], "time_ids": sizes}
    for step in TIMESTEPS:
        time = torch.tensor([step])
        kept = schedule.alphas_cumprod[step]
        sigma = ((1 - kept) / kept).sqrt()
        noisy = schedule.add_noise(inputs["latent"], inputs["noise"], time)
        raw = parts.unet(noisy, time, inputs["context"], added_cond_kwargs=added).sample
        if config["scheduler"]["prediction_type"] == "v_prediction":
            clean = kept.sqrt() * noisy - (1 - kept).sqrt() * raw
        else:
            clean = (noisy - (1 - kept).sqrt() * raw) / kept.sqrt()
        found |= {f"raw.{step}": raw, f"denoised.{step}": clean, f"sigma.{step}": sigma[None]}
    return found


def run_vae(parts: build.DemoModel, inputs: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """As the host counts: pixels 0..1 with channels last, latents without SDXL's factor."""
    mode = parts.vae.encode(inputs["pixels"].movedim(-1, 1) * 2 - 1).latent_dist.mode()
    decoded = parts.vae.decode(inputs["codes"]).sample.movedim(1, -1)
    given = mode * config["vae"]["scaling_factor"]
    return {"encoded": mode, "given": given, "decoded": (decoded / 2 + 0.5).clamp(0, 1)}


def random_blora(parts: build.DemoModel) -> BLora:
    """A B-LoRA that fits the demo's UNet and moves its output visibly; alpha differs from the rank."""
    layers = DiffusersDenoiser(parts.unet, build.read_config()["scheduler"]).layers()
    draw = torch.Generator().manual_seed(3)

    def pair(layer: torch.nn.Module) -> LoraPair:
        out, width = layer.weight.shape
        down = torch.randn(4, width, generator=draw) / width**0.5
        return LoraPair(down, torch.randn(out, 4, generator=draw), 3.0)

    return BLora({path: pair(layer) for path, layer in layers.items()})


def run_blora(
    parts: build.DemoModel, both: BLora, inputs: dict[str, Tensor], config: Any
) -> dict[str, Tensor]:
    """The same fusion and the same training through diffusers."""
    with torch.no_grad(), applied(parts.unet, fuse(both, both, 0.7, 1.2)):
        found = {f"fused_{name}": tensor for name, tensor in run_unet(parts, inputs, config).items()}
    moments = LatentMoments(inputs["latent"], torch.full_like(inputs["latent"], 0.1))
    size = torch.tensor([[HEIGHT, WIDTH, 0, 0, HEIGHT, WIDTH]], dtype=torch.float32)
    recipe = TrainingRecipe(rank=4, steps=3, learning_rate=1e-2)
    denoiser = DiffusersDenoiser(parts.unet, config["scheduler"])
    run = Training(denoiser, [moments], Conditioning(inputs["context"], inputs["pooled"], size), recipe)
    for _ in TrainingRun([run]).steps():
        pass
    trained = {f"trained.{path}": pair.delta() for path, pair in run.blora().pairs.items()}
    return found | trained | {"trained.losses": torch.tensor(run.loss_values())}


def make_inputs(config: dict[str, Any]) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    inputs = {
        name: torch.randn(1, 4, HEIGHT // 8, WIDTH // 8, generator=draw) for name in ("latent", "noise")
    }
    inputs["codes"] = inputs["latent"] / config["vae"]["scaling_factor"]
    inputs["context"] = torch.randn(1, 77, config["unet"]["cross_attention_dim"], generator=draw)
    inputs["pooled"] = torch.randn(1, config["text_encoder_2"]["projection_dim"], generator=draw)
    inputs["timesteps"] = torch.tensor(TIMESTEPS)
    rough = torch.rand(1, 3, HEIGHT // 16, WIDTH // 16, generator=draw)
    inputs["pixels"] = torch.nn.functional.interpolate(rough, scale_factor=16, mode="bilinear").movedim(1, -1)
    return {name: tensor.contiguous() for name, tensor in inputs.items()}


@pytest.fixture(scope="module", params=["random", "shipped"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    find_host()
    folder = tmp_path_factory.mktemp("host_demo")
    config = build.read_config()
    parts = random_parts() if request.param == "random" else build.load_demo()
    inputs = make_inputs(config)
    with torch.no_grad():
        expected = run_unet(parts, inputs, config) | run_vae(parts, inputs, config) | encode_prompts(parts)
    blora = random_blora(parts)
    files.write(blora, folder / "both.safetensors")
    expected |= run_blora(parts, blora, inputs, config)
    if request.param == "random":
        inputs |= {f"state.{name}": tensor for name, tensor in state_of(parts).items()}
    save_file(inputs, folder / "inputs.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"prompts": PROMPTS}))
    found, about, log = run_inside(SCRIPT, folder)
    return Both(expected, found, about | {"log": log}, request.param == "random")


@pytest.mark.parametrize("step", TIMESTEPS)
def test_the_unet_predicts_the_same(both: Both, step: int):
    """The weights, the size conditioning (height before width) and the timestep embedding."""
    assert both.distance(f"raw.{step}") < 1e-4


@pytest.mark.parametrize("step", TIMESTEPS)
def test_the_host_reads_the_prediction_the_same_way(both: Both, step: int):
    """Schedule and prediction type: the clean latent agrees; at step 999 sigma multiplies every error."""
    sigma = both.expected[f"sigma.{step}"].item()
    assert both.distance(f"sigma.{step}") < 1e-5 * sigma + 1e-6
    assert both.distance(f"denoised.{step}") < 1e-4


@pytest.mark.parametrize("step", TIMESTEPS)
def test_the_fused_model_is_diffusers_own(both: Both, step: int):
    """A failure means that the same two files draw one picture in ComfyUI and another elsewhere."""
    assert both.distance(f"fused_raw.{step}") < 1e-4
    assert (both.found[f"fused_raw.{step}"] - both.found[f"raw.{step}"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["trained", "checkpointed"])
def test_training_in_the_host_is_training_in_diffusers(both: Both, name: str):
    """A failure means that the node learns something else than the published method does."""
    assert (both.found[f"{name}.losses"] - both.expected["trained.losses"]).abs().max() < 1e-5
    paths = [key for key in both.expected if key.startswith("trained.up_blocks")]
    theirs = torch.cat([both.expected[key].flatten() for key in paths])
    ours = torch.cat([both.found[key.replace("trained", name, 1)].flatten() for key in paths])
    assert len(paths) == 32
    assert (ours - theirs).norm() / theirs.norm() < 1e-3


def test_training_changes_no_weight_of_the_model(both: Both):
    assert both.found["changed"] == 0


@pytest.mark.parametrize("number", range(len(PROMPTS)))
def test_the_text_encoders_agree(both: Both, number: int):
    """Token ids with each encoder's padding, penultimate layers without their last norm, pooled projection."""
    assert both.distance(f"ids_l.{number}") == 0
    assert both.distance(f"ids_g.{number}") == 0
    assert both.distance(f"context.{number}") < 1e-4
    assert both.distance(f"pooled.{number}") < 1e-4


def test_the_vae_agrees(both: Both):
    assert both.distance("encoded") < 1e-3
    assert both.distance("decoded") < 1e-3


def test_latents_reach_the_unet_in_sdxl_scale(both: Both):
    assert both.about["factor"] == build.read_config()["vae"]["scaling_factor"]
    assert both.distance("given") < 1e-3


def test_all_of_it_is_fp32_and_complete(both: Both):
    """The host logs what it could not place; nothing of that may be in its log."""
    assert "model_type" in both.about["log"]
    assert both.about["precisions"] == ["torch.float32"]
    assert "issing" not in both.about["log"] and "unexpected" not in both.about["log"]


@pytest.mark.parametrize("both", ["shipped"], indirect=True)
def test_two_loaders_share_weights_but_not_patches(both: Both):
    assert both.about["one_set_of_weights"]
    assert both.about["patches"] == [1, 1, 0, 0]
