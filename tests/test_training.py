"""The loop against the published trainer's own runs, and against what any training must keep."""

from __future__ import annotations

import dataclasses
import sys
import threading

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.backend.pipeline import encode_picture, encode_prompt, load
from rechar_core.errors import RecipeError, TrainingError
from rechar_core.images import fit, read
from rechar_core.lora import files, fusion
from rechar_core.lora.blocks import STRUCTURE, STYLE
from rechar_core.training import checkpoint, objective
from rechar_core.training.denoiser import LatentMoments
from rechar_core.training.loop import DistributedContext, Training
from rechar_core.training.noise import StepNoise
from rechar_core.training.recipe import TrainingRecipe


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipeline()


def deltas(blora) -> torch.Tensor:
    return torch.cat([blora.pairs[path].delta().flatten() for path in sorted(blora.pairs)])


def as_published(path, resolution: int) -> torch.Tensor:
    """The published trainer's picture: scaled by PIL, in 8 bits, the longer side cut to a whole number.

    `fit` scales in fp32 to whole latent cells; a picture of the right size is the same.
    """
    picture = Image.open(path).convert("RGB")
    size = [int(side * resolution / min(picture.size)) for side in picture.size]
    pixels = torch.from_numpy(np.array(picture.resize(size, Image.Resampling.BILINEAR)))
    return pixels[None].float() / 255


@pytest.mark.parametrize(
    ("name", "mode"),
    [*(("lr5e-5", mode) for mode in ("fast", "normal", "low")), ("structure", "fast"), ("style", "fast")],
)
def test_reproduces_the_published_trainer(pipe, name, mode):
    """A failure means our loop is not B-LoRA's: loss, schedule, optimizer, clipping or adapters differ."""
    run = tiny.RUNS[name]
    rate = run["learning_rate"]
    recipe = TrainingRecipe(prompt=run["prompt"], rank=8, steps=20, learning_rate=rate, resolution=256)
    denoiser = DiffusersDenoiser(pipe.unet, pipe.scheduler.config)
    moments = encode_picture(pipe, as_published(tiny.REFERENCE / run["image"], 256))
    draws = tiny.PublishedDraws(run["seed"], denoiser.layers())
    conditioning = encode_prompt(pipe, run["prompt"], 256)
    training = tiny.finish(tiny.Alone(Training(denoiser, [moments], conditioning, recipe, draws), mode=mode))
    assert torch.tensor(training.loss_values()).sub(torch.tensor(run["losses"])).abs().max() < 1e-6
    saved = load_file(tiny.REFERENCE / run["lora"])
    trained = training.blora()
    paths = sorted(trained.pairs)
    theirs = [saved[f"unet.{p}.lora.up.weight"] @ saved[f"unet.{p}.lora.down.weight"] for p in paths]
    expected = torch.cat([d.flatten() for d in theirs])
    assert len(trained.pairs) * 2 == len(saved)
    assert (deltas(trained) - expected).norm() / expected.norm() < 1e-4


def test_a_picture_of_the_right_size_is_the_published_trainers():
    """A failure means that range or channels of a picture differ; where it is scaled, the last bits do."""
    picture = tiny.REFERENCE / "structure.png"
    assert torch.allclose(fit(read(picture), 256), as_published(picture, 256), atol=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_objective_is_diffusers_own(prediction):
    """A failure means a v-prediction or epsilon model would be trained towards the wrong target."""
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    x0, noise, t = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.tensor([0, 500, 999])
    abar = scheduler.alphas_cumprod[t].view(-1, 1, 1, 1)
    expected = noise if prediction == "epsilon" else scheduler.get_velocity(x0, noise, t)
    assert torch.allclose(objective.target(prediction, x0, noise, abar), expected, atol=1e-6)

    class Probe:
        alphas_cumprod = scheduler.alphas_cumprod

        def predict(self, noisy, timesteps, conditioning):
            assert torch.allclose(noisy, scheduler.add_noise(x0, noise, timesteps), atol=1e-6)
            return expected

    probe = Probe()
    probe.prediction = prediction
    assert objective.unsplit_loss(probe, x0, StepNoise(noise, noise, t), None) < 1e-10


def test_base_is_untouched_and_no_hook_is_left(pipe):
    """A failure means training leaves traces in the user's model."""
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    steps = tiny.training(pipe).steps()
    next(steps)
    steps.close()
    assert not any(m._forward_hooks for m in pipe.unet.modules())
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())


def test_same_seed_same_bits_other_seed_other(pipe):
    first, again, other = (tiny.finish(tiny.training(pipe, {"seed": s})).blora() for s in (0, 0, 1))
    assert torch.equal(deltas(first), deltas(again))
    assert not torch.allclose(deltas(first), deltas(other))


def test_hooks_equal_merged_weights(pipe):
    """A failure means what was trained is not what the file does in a UNet."""
    run = tiny.finish(tiny.training(pipe))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    with torch.no_grad():
        plain = run.denoiser.predict(x, t, run.conditioning)
        with run.lora_layers.attached():
            hooked = run.denoiser.predict(x, t, run.conditioning)
        both = run.blora()
        with fusion.applied(pipe.unet, fusion.fuse(both, both)):
            merged = run.denoiser.predict(x, t, run.conditioning)
    assert (hooked - plain).abs().max() > 1e-3
    assert torch.allclose(hooked, merged, atol=1e-5)


@pytest.mark.parametrize(("target", "blocks"), [("structure", (STRUCTURE,)), ("style", (STYLE,))])
def test_target_trains_only_its_block(pipe, target, blocks):
    assert tiny.finish(tiny.training(pipe, {"target": target})).blora().blocks == blocks


def test_half_precision_base_keeps_fp32_adapters():
    """A failure means bf16 LoRA weights, a third of which never move at the published learning rate."""
    pipe = tiny.pipeline()
    pipe.unet.to(torch.bfloat16)
    run = tiny.finish(tiny.training(pipe, {"precision": "bf16", "learning_rate": 5e-5}))
    assert {p.dtype for p in run.lora_layers.parameters()} == {torch.float32}
    assert all(pair.up.any() for pair in run.blora().pairs.values())
    assert torch.isfinite(torch.tensor(run.loss_values())).all()


def test_a_half_precision_base_keeps_its_vae_unrounded(pipe):
    """A failure means that the posterior is that of rounded weights, though it is computed in fp32."""
    half = load(str(tiny.MODEL), torch.bfloat16, torch.device("cpu"))
    assert {p.dtype for p in half.unet.parameters()} == {torch.bfloat16}
    theirs = pipe.vae.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in half.vae.state_dict().items())


def test_pictures_of_different_shapes_take_turns(pipe):
    moments = [LatentMoments(torch.randn(1, 4, *s), torch.zeros(1, 4, *s)) for s in ((8, 8), (8, 16))]
    seen = []
    run = tiny.training(pipe, {"steps": 6}, pictures=moments)
    suffix = run.denoiser.suffix
    run.denoiser.suffix = lambda prefix, cond: (
        seen.append(tuple(prefix.skips[0].shape[-2:])),
        suffix(prefix, cond),
    )[1]
    tiny.finish(run)
    assert sorted(seen) == [(8, 8)] * 3 + [(8, 16)] * 3


@pytest.mark.parametrize("broken_off_at", [1, 4])
@pytest.mark.parametrize("optimizer", ["adamw", "prodigy"])
def test_resumed_run_is_bit_equal(pipe, tmp_path, broken_off_at, optimizer):
    """A failure means that a cancelled and resumed training is another training."""
    settings = {"steps": 7, "optimizer": optimizer}
    straight = tiny.finish(tiny.training(pipe, settings))
    first = tiny.training(pipe, settings)
    for step in first.steps():
        if step.number == broken_off_at:
            break
    checkpoint.save(first, tmp_path / "state")
    second = tiny.training(pipe, settings)
    checkpoint.resume(second, tmp_path / "state")
    assert second.done == broken_off_at
    tiny.finish(second)
    assert second.loss_values() == straight.loss_values()
    assert torch.equal(deltas(second.blora()), deltas(straight.blora()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 2e-3}, "learning_rate 0.001 -> 0.002"),
        ({"prompt": "A [s]"}, "another conditioning"),
    ],
)
def test_another_job_does_not_resume(pipe, tmp_path, changes, words):
    run = tiny.training(pipe)
    next(run.steps())
    checkpoint.save(run, tmp_path / "state")
    with pytest.raises(RecipeError, match=words):
        checkpoint.resume(tiny.training(pipe, changes), tmp_path / "state")


def test_another_picture_or_model_does_not_resume(pipe, tmp_path):
    run = tiny.training(pipe)
    next(run.steps())
    checkpoint.save(run, tmp_path / "state")
    other_picture = [LatentMoments(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 8, 8))]
    with pytest.raises(RecipeError, match="another picture"):
        checkpoint.resume(tiny.training(pipe, pictures=other_picture), tmp_path / "state")
    for outside_or_inside in ("conv_in", "up_blocks.0.attentions.1.proj_in"):
        other = tiny.pipeline()
        other.unet.get_submodule(outside_or_inside).weight.data.mul_(1.5)
        with pytest.raises(RecipeError, match="another model"):
            checkpoint.resume(tiny.training(other), tmp_path / "state")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prediction_type": "v_prediction"}, "prediction epsilon -> v_prediction"),
        ({"beta_end": 0.013}, "another noise schedule"),
    ],
)
def test_another_prediction_type_or_noise_schedule_does_not_resume(pipe, tmp_path, changes, words):
    """A failure means that two bases of the same weights share a state, or the node's kept LoRA."""
    run = tiny.training(pipe)
    next(run.steps())
    checkpoint.save(run, tmp_path / "state")
    other = DiffusersDenoiser(pipe.unet, {**pipe.scheduler.config, **changes})
    with pytest.raises(RecipeError, match=words):
        checkpoint.resume(tiny.training(pipe, denoiser=other), tmp_path / "state")


def test_nan_loss_stops_at_once(pipe):
    run = tiny.training(pipe)
    run.denoiser.suffix = lambda p, c: (
        p.skips[0][:, :4] * run.lora_layers.parameters()[1].sum() * float("nan")
    )
    run.lora_layers.check_gradients = lambda: None
    with pytest.raises(TrainingError, match="NaN or infinite at step 1;.*bf16"):
        tiny.finish(run)


def test_layer_that_takes_no_part_is_an_error(pipe):
    """A failure means an attention implementation could bypass a layer and save it untrained."""
    run = tiny.training(pipe)
    run.denoiser.suffix = lambda p, c: p.skips[0][:, :4] * run.lora_layers.parameters()[1].sum()
    with pytest.raises(TrainingError, match=r"attn1.to_k, .* and 28 more took no part"):
        tiny.finish(run)


def test_model_without_the_blocks_is_an_error(pipe):
    class NotSDXL(DiffusersDenoiser):
        def layers(self):
            return {k: v for k, v in super().layers().items() if "attentions.0" in k}

    with pytest.raises(TrainingError, match=r"up_blocks.0.attentions.1; a B-LoRA needs an SDXL model"):
        tiny.training(pipe, denoiser=NotSDXL(pipe.unet, pipe.scheduler.config))


def test_training_that_learns_nothing_is_an_error(pipe):
    with pytest.raises(TrainingError, match="learnt nothing"):
        tiny.finish(tiny.training(pipe, {"learning_rate": 1e-60})).blora()


def test_trained_lora_survives_its_file(pipe, tmp_path):
    trained = tiny.finish(tiny.training(pipe)).blora()
    again = files.read(files.write(trained, tmp_path / "a.safetensors"))
    assert torch.equal(deltas(trained), deltas(again))
    assert again.trigger == "A [v]"
    assert TrainingRecipe.from_json(again.recipe) == tiny.recipe()


def test_two_processes_average_two_samples():
    """A failure means that several processes do not train one LoRA on all their samples."""
    barrier, box = threading.Barrier(2), {}

    def distributed(rank):
        def average(tensors):
            box[rank] = [t.clone() for t in tensors]
            barrier.wait()
            mean = [(a + b) / 2 for a, b in zip(box[0], box[1], strict=True)]
            barrier.wait()
            for tensor, value in zip(tensors, mean, strict=True):
                tensor.copy_(value)

        return DistributedContext(rank, 2, average)

    runs = [tiny.training(tiny.pipeline(), distributed=distributed(rank)) for rank in range(2)]
    threads = [threading.Thread(target=tiny.finish, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(deltas(runs[0].blora()), deltas(runs[1].blora()))
    assert runs[0].loss_values() == runs[1].loss_values()
    fresh = tiny.training(
        tiny.pipeline()
    )  # up = 0 before the first step: the base's own loss on samples 0 and 1
    with torch.no_grad():
        drawn = [fresh.noise_source.step(k, (1, 4, 8, 8), 1000) for k in range(2)]
        latents = [fresh.pictures[0].sample(d.posterior) for d in drawn]
        pairs = zip(latents, drawn, strict=True)
        losses = [float(objective.unsplit_loss(fresh.denoiser, x, d, fresh.conditioning)) for x, d in pairs]
    assert runs[0].loss_values()[0] == pytest.approx(sum(losses) / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "rank is 0; it must be a whole number from 1 to 1024"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": 1.0}, "learning_rate is 1, which ruins a LoRA with adamw; usual are 1e-5 to 1e-3"),
        ({"prediction_steps": 1, "prediction_rate": 0.5}, "prediction_rate is 0.5, which ruins"),
        ({"prompt": " "}, "The prompt is empty"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"resolution": 100}, "resolution is 100; it must be a multiple of 8"),
        ({"target": "content"}, "target is 'content'; choose one of both, structure, style"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; choose one of adamw, adamw8bit, prodigy"),
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"seed": -1}, "seed is -1"),
        ({"betas": (0.9, 1.0)}, "betas are"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
    ],
)
def test_bad_recipe_says_what_is_wrong(changes, words):
    with pytest.raises(RecipeError, match=words):
        TrainingRecipe(**changes)


def test_recipe_defaults_are_the_published_ones_and_round_trip():
    recipe = TrainingRecipe()
    assert (recipe.rank, recipe.steps, recipe.learning_rate, recipe.resolution) == (64, 1000, 5e-5, 1024)
    assert TrainingRecipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(RecipeError, match="unknown settings: colour"):
        TrainingRecipe.from_json({"colour": 1})
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.rank = 1


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_missing_optimizer_package_is_named(pipe, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, package + ".optim", None)
    with pytest.raises(RecipeError, match=f"needs the package {package}"):
        tiny.training(pipe, {"optimizer": name})
