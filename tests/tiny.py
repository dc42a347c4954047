"""The small reference SDXL of tests/data/blora_tiny behind our protocol, and the published trainer's draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.backend.pipeline import encode_prompt
from rechar_core.training.denoiser import LatentMoments
from rechar_core.training.loop import Training
from rechar_core.training.noise import StepNoise
from rechar_core.training.recipe import TrainingRecipe
from rechar_core.training.run import TrainingRun

REFERENCE = Path(__file__).parent / "data" / "blora_tiny"
MODEL = REFERENCE / "model"
RUNS = json.loads((REFERENCE / "runs.json").read_text(encoding="utf-8"))


def pipeline():
    """The reference model as a diffusers pipeline, fp32 on the CPU."""
    from rechar_core.backend.pipeline import load

    return load(str(MODEL), torch.float32, torch.device("cpu"))


def recipe(**changes: Any) -> TrainingRecipe:
    """Rank 4, 64 pixels, 3 steps: enough to see a behaviour, cheap enough to repeat."""
    settings = {"rank": 4, "steps": 3, "resolution": 64, "learning_rate": 1e-3, **changes}
    return TrainingRecipe(**settings)


class Alone(TrainingRun):
    """The run of one LoRA, which answers for its Training as well."""

    def __init__(self, training: Training, **arguments: Any):
        super().__init__([training], **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.trainings[0], name)


def training(pipe, changes: dict[str, Any] | None = None, **arguments: Any) -> Alone:
    """A short run on random latents of the right kind, without the encoders' time."""
    chosen = recipe(**(changes or {}))
    generator = torch.Generator().manual_seed(7)
    pictures = [LatentMoments(torch.randn(1, 4, 8, 8, generator=generator), torch.full((1, 4, 8, 8), 0.1))]
    conditioning = encode_prompt(pipe, chosen.prompt, chosen.resolution)
    denoiser = arguments.pop("denoiser", None) or DiffusersDenoiser(pipe.unet, pipe.scheduler.config)
    driver = {name: arguments.pop(name) for name in ("mode", "tell") if name in arguments}
    made = Training(denoiser, arguments.pop("pictures", pictures), conditioning, chosen, **arguments)
    return Alone(made, **driver)


def finish(run: Alone) -> Alone:
    """Runs it to its last step."""
    for _ in run.steps():
        pass
    return run


class PublishedDraws:
    """The published trainer's draws in its order, from one CPU generator (tests/data/blora_tiny/README.md)."""

    def __init__(self, seed: int, layers: dict[str, torch.nn.Module]):
        self.generator = torch.Generator().manual_seed(seed)
        self.layers = layers

    def down(self, module: str, rank: int, width: int) -> torch.Tensor:
        out = self.layers[module].weight.shape[0]
        torch.empty(rank, width).uniform_(
            generator=self.generator
        )  # nn.Linear's own initial values, discarded
        torch.empty(out, rank).uniform_(generator=self.generator)
        return torch.empty(rank, width).normal_(0, 1 / rank, generator=self.generator)

    def picture(self, sample: int, count: int) -> int:
        return 0

    def step(self, sample: int, shape: tuple[int, ...], timesteps: int) -> StepNoise:
        for _ in range(2):  # the data loader's base seed and its sampler's seed
            torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        posterior = torch.randn(shape, generator=self.generator)
        noise = torch.randn(shape, generator=self.generator)
        return StepNoise(posterior, noise, torch.randint(0, timesteps, shape[:1], generator=self.generator))
