"""The settings of one training run, frozen and validated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from ..device import MOST_SEED, Precision
from ..errors import RecipeError
from ..lora.blocks import BLOCKS, Block
from .memory import Memory

TrainedBlocks = Literal["both", "structure", "style"]
Optimizer = Literal["adamw", "adamw8bit", "prodigy"]
Loss = Literal["prediction", "x0"]

_HIGHEST_RATE = 0.1  # the demo model, which is small, learns at 0.005


@dataclass(frozen=True)
class TrainingRecipe:
    """Defaults are the published trainer's (train_dreambooth_b-lora_sdxl.py and its README).

    prompt: what the picture is called in training, the LoRA's trigger. target: the blocks that are trained.
    rank: of each LoRA layer, 1..1024. steps: optimizer steps. learning_rate: constant, no warm-up.
    resolution: pixels of the shorter side, a multiple of 8. batch_size: noises of one picture a step.
    weight_decay, betas, epsilon: the optimizer's. max_grad_norm: gradients are clipped to this L2 norm.
    precision: of the frozen base; the LoRA layers, their gradients and the optimizer are always fp32.
    memory: how it is computed, not what comes out (see memory.py). fp8_base: the base's linear weights stored in 8
    bits, computed with in `precision` (fp8.py); this changes the result a little.
    loss: error of the UNet's own prediction, or of the clean picture that follows from it (ConsisLoRA). Before it,
    prediction_steps steps of the first kind at learning rate prediction_rate.
    min_snr_gamma: of min-SNR weighting, 0 = off, 5 is usual. noise_offset: 0 = off.
    noise_seed: of noises and timesteps, where it is not seed; then seed is that of the initial values alone.
    """

    prompt: str = "A [v]"
    target: TrainedBlocks = "both"
    rank: int = 64
    steps: int = 1000
    learning_rate: float = 5e-5
    resolution: int = 1024
    seed: int = 0
    batch_size: int = 1
    optimizer: Optimizer = "adamw"
    precision: Precision = "no"
    memory: Memory = "auto"
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    loss: Loss = "prediction"
    prediction_steps: int = 0
    prediction_rate: float = 0.0
    min_snr_gamma: float = 0.0
    noise_offset: float = 0.0
    noise_seed: int | None = None
    fp8_base: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise RecipeError(f"prompt is {self.prompt!r}; it must be text in quotes, such as 'A [v]'.")
        if not self.prompt.strip():
            raise RecipeError("The prompt is empty; it is what calls the LoRA up later, usually 'A [v]'.")
        if not isinstance(self.fp8_base, bool):
            raise RecipeError(f"fp8_base is {self.fp8_base!r}; it must be true or false.")
        self._check_choices()
        self._check_range("rank", 1, 1024)
        self._check_range("steps", 1, 1_000_000)
        self._check_range("batch_size", 1, 256)
        for name in ("seed", "noise_seed"):
            if name == "seed" or self.noise_seed is not None:
                self._check_range(name, 0, MOST_SEED)
        self._check_range("resolution", 64, 4096)
        if self.resolution % 8:
            raise RecipeError(f"resolution is {self.resolution}; it must be a multiple of 8, say 1024.")
        for name in ("learning_rate", "epsilon", "max_grad_norm"):
            value = getattr(self, name)
            if not (_is_number(value) and value > 0):
                raise RecipeError(f"{name} is {value!r}; it must be a number above 0.")
        for name in ("weight_decay", "prediction_rate", "min_snr_gamma", "noise_offset"):
            value = getattr(self, name)
            if not (_is_number(value) and value >= 0):
                raise RecipeError(f"{name} is {value!r}; it must be a number, 0 or more.")
        for name in ("learning_rate", "prediction_rate"):
            if self.optimizer != "prodigy" and getattr(self, name) > _HIGHEST_RATE:
                raise RecipeError(
                    f"{name} is {getattr(self, name):g}, which ruins a LoRA with {self.optimizer}; usual are 1e-5 to "
                    "1e-3. 1 is usual with prodigy alone."
                )
        self._check_stages()
        if not isinstance(self.betas, tuple) or len(self.betas) != 2:
            raise RecipeError(f"betas are {self.betas!r}; they must be two numbers, say 0.9 and 0.999.")
        if not all(_is_number(beta) and 0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"betas are {self.betas}; each must lie in 0..1, 1 not included.")

    def _check_stages(self) -> None:
        self._check_range("prediction_steps", 0, self.steps)
        if self.prediction_steps and not self.prediction_rate:
            raise RecipeError("prediction_steps needs a prediction_rate: the learning rate of those steps.")
        if self.loss == "x0" and self.min_snr_gamma:
            raise RecipeError("Both loss x0 and min_snr_gamma weigh the timesteps; choose one of them.")

    def _check_choices(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            choices = get_args(hint)
            if choices and isinstance(choices[0], str) and getattr(self, name) not in choices:
                raise RecipeError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}.")

    def _check_range(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise RecipeError(f"{name} is {value!r}; it must be a whole number from {low} to {high}.")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that are trained."""
        return tuple(block for block in BLOCKS if self.target in ("both", block.name))

    def stage(self, step: int) -> tuple[Loss, float]:
        """Loss and learning rate of step `step`, counted from 0."""
        if step < self.prediction_steps:
            return "prediction", self.prediction_rate
        return self.loss, self.learning_rate

    def to_json(self) -> dict[str, Any]:
        """Plain values, for metadata and logs."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainingRecipe:
        """The inverse of `to_json`. Raises RecipeError on an unknown name."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise RecipeError(f"The recipe has unknown settings: {', '.join(unknown)}; remove them.")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


def _is_number(value: object) -> bool:
    """Whether it is a finite number; a file of settings may hold anything."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf
