"""The product's own randomness: what it is drawn from, and that each part of it goes where it belongs."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import tiny
import torch

from rechar_core.training.loop import Training
from rechar_core.training.noise import SeededNoise


def generator(*purpose: object) -> torch.Generator:
    """The protocol of the seeds, written once more: a file trained today must be the same when trained next year."""
    digest = hashlib.sha256(repr(purpose).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def test_the_first_lora_weights_have_the_published_spread():
    """A failure means another start than the published trainer's: normal, std 1 / rank."""
    down = SeededNoise(0).down("x", 64, 4096)
    assert abs(float(down.std()) * 64 - 1) < 0.02 and abs(float(down.mean())) * 64 < 0.01
    assert torch.equal(down, torch.randn(64, 4096, generator=generator(0, "down", "x")) / 64)


def test_every_timestep_is_drawn():
    """A failure means that the noisiest timestep, from which sampling starts, is never trained on."""
    drawn = torch.cat([SeededNoise(0).step(i, (256, 1, 1, 1), 4).timesteps for i in range(4)])
    assert drawn.unique().tolist() == [0, 1, 2, 3]


def test_pictures_come_in_a_new_order_every_time_round():
    """A failure means that one picture of several is seen more often than another, or always at the same place."""
    noise = SeededNoise(0)
    orders = {tuple(noise.picture(s, 6) for s in range(6 * epoch, 6 * epoch + 6)) for epoch in range(5)}
    assert len(orders) > 1 and all(sorted(order) == list(range(6)) for order in orders)


def test_the_same_seed_is_the_same_noise_in_every_version():
    source, shape = generator(5, "step", 3), (2, 4, 3, 3)
    drawn = SeededNoise(5).step(3, shape, 1000)
    assert torch.equal(drawn.posterior, torch.randn(shape, generator=source))
    assert torch.equal(drawn.noise, torch.randn(shape, generator=source))
    assert torch.equal(drawn.timesteps, torch.randint(0, 1000, (2,), generator=source))


def test_the_pictures_latents_take_the_posterior_and_the_noise_is_added():
    """x_t = sqrt(abar) (mean + std posterior) + sqrt(1 - abar) noise. A failure means that the two are swapped."""
    run = tiny.training(tiny.pipeline(), {"prediction_steps": 0})
    mean, std = run.pictures[0].mean, run.pictures[0].std * 10  # so that the two differ clearly
    run.trainings[0].pictures = (replace(run.pictures[0], std=std),)
    noised, drawn = run.prefetch(0).noised, run.noise_source.step(0, (1, 4, 8, 8), 1000)
    abar = run.denoiser.alphas_cumprod[drawn.timesteps].view(-1, 1, 1, 1)
    wanted = abar.sqrt() * (mean + std * drawn.posterior) + (1 - abar).sqrt() * drawn.noise
    torch.testing.assert_close(noised.noisy, wanted)


@pytest.mark.parametrize("changed", ["mean", "std", "context", "pooled"])
def test_every_part_of_pictures_and_prompt_makes_another_job(changed: str):
    """A failure means that the state or the kept LoRA of another picture or prompt is taken for this one's."""
    (run,) = tiny.training(tiny.pipeline()).trainings
    before = run.job
    if changed in ("mean", "std"):
        picture = run.pictures[0]
        run.pictures = (replace(picture, **{changed: getattr(picture, changed) + 1}),)
    else:
        prompt = run.conditioning
        run.conditioning = replace(prompt, **{changed: getattr(prompt, changed) + 1})
    assert Training(run.denoiser, run.pictures, run.conditioning, run.recipe).job != before
