"""Several LoRAs of the same pictures trained side by side: other seeds, ranks or blocks, one prefix for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import RecipeError
from .loop import Step, Training
from .prefetch import PrefetchedStep

_OWN = {
    "seed",
    "rank",
    "target",
    "learning_rate",
    "optimizer",
    "weight_decay",
    "betas",
    "epsilon",
    "max_grad_norm",
}


class TrainingRun:
    """Trainings of one denoiser, one set of pictures, one prompt and one sequence of noises, in lock-step.

    Each learns what it would learn alone with the same recipe; the part of the UNet before the LoRAs is computed once
    for all. Raises RecipeError if their noises or anything else they share would differ.
    """

    def __init__(self, trainings: Sequence[Training]):
        self.trainings = tuple(trainings)
        first = _shared(self.trainings[0])
        for training in self.trainings[1:]:
            other = _shared(training)
            differing = [name for name in first if first[name] != other[name]]
            if differing:
                raise RecipeError(
                    f"LoRAs trained side by side must have the same {', '.join(differing)}; "
                    "give all of them the same values (noise_seed: one for all)."
                )
        self._prefetched: PrefetchedStep | None = None

    @property
    def done(self) -> int:
        """Steps that all have taken."""
        return min(training.done for training in self.trainings)

    def steps(self) -> Iterator[list[Step]]:
        """Each step of all, from the last that all have taken. Raises TrainingError as Training.steps."""
        total = self.trainings[0].recipe.steps
        try:
            while self.done < total:
                number = self.done
                yield [step for t in self.trainings if t.done == number for step in [self._step(t)]]
        finally:
            self._prefetched = None
            for training in self.trainings:
                training.rest()

    def _step(self, training: Training) -> Step:
        while True:
            with training.lora_layers.attached():
                step = training.step(lambda: self._made(training.done))
            if step is not None:
                return step
            self._prefetched = None
            for each in self.trainings:  # one denoiser, one mode
                tell, each.tell = each.tell, each.tell if each is training else lambda text: None
                each.step_down()
                each.tell = tell

    def _made(self, number: int) -> PrefetchedStep:
        if self._prefetched is None or self._prefetched.number != number:
            self._prefetched = None  # its memory goes before the next comes
            self._prefetched = self.trainings[0].prefetcher().step(number)
        return self._prefetched


def _shared(training: Training) -> dict[str, object]:
    """What must be the same, by the name that a message uses."""
    recipe = training.recipe.to_json()
    noise = recipe["noise_seed"] if recipe["noise_seed"] is not None else recipe["seed"]
    return {
        **{name: value for name, value in recipe.items() if name not in _OWN},
        "noise_seed": noise,
        "model": id(training.denoiser),
        "memory mode": training.mode,
        "pictures": [id(picture.mean) for picture in training.pictures],
        "prompt": id(training.conditioning.context),
    }
