"""The one driver of training: N LoRAs over one denoiser, from their saved states to their files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..device import empty_cache
from ..errors import FileError, ReCharError, RecipeError, TrainingError, listed
from ..lora.blora import BLora
from . import checkpoint
from .loop import Training
from .memory import MemoryMode, next_rung
from .objective import PrefetchedStep
from .prefetch import Prefetcher

_SAVE_EVERY = 250  # steps between safety copies of the states
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


@dataclass(frozen=True)
class Step:
    """One finished optimizer step of all. number counts from 1; loss: 0-dim, their mean, still on the device."""

    number: int
    total: int
    loss: Tensor


class TrainingRun:
    """One or several LoRAs of one denoiser, one set of pictures, one prompt and one sequence of noises, in lock-step.

    Each learns what it would learn alone with the same recipe; the part of the UNet before the LoRAs is computed once
    for all. mode: how to compute, chosen by the caller, who knows the free memory. tell: takes a sentence for the user.
    Raises RecipeError if the noises or anything else the LoRAs share would differ.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        mode: MemoryMode = "fast",
        tell: Callable[[str], None] = lambda text: None,
    ):
        self.trainings, self.mode, self.tell = tuple(trainings), mode, tell
        self.states: tuple[Path, ...] = ()  # where each is kept now
        self._asked: tuple[Path, ...] = ()  # and where the caller wants it
        first = _shared(self.trainings[0])
        for training in self.trainings[1:]:
            other = _shared(training)
            differing = [name for name in first if first[name] != other[name]]
            if differing:
                raise RecipeError(
                    f"LoRAs trained side by side must have the same {', '.join(differing)}; "
                    "give all of them the same values (noise_seed: one for all)."
                )
        self.total = self.trainings[0].recipe.steps
        self._denoiser, self._main = self.trainings[0].denoiser, self.trainings[0].distributed.main
        self._prefetcher: Prefetcher | None = None
        self._prefetched: PrefetchedStep | None = None

    @property
    def done(self) -> int:
        """Steps that all have taken."""
        return min(training.done for training in self.trainings)

    def resume(self, states: Sequence[Path], set_aside: bool = False) -> None:
        """Goes on from the states that are there of these files, one a LoRA, and keeps them there from now on.

        Raises RecipeError if one is another job's, FileError if it is damaged. set_aside: such a file is renamed
        instead, to `.unusable`, and its training starts anew.
        """
        spare = checkpoint.spares(self.trainings)
        self.states = self._asked = tuple(states)
        for number, (training, state) in enumerate(zip(self.trainings, self.states, strict=True)):
            if spare and _newer(spare[number], state):
                state = self._keep_in(number, spare[number])
            if not state.is_file():
                continue
            try:
                checkpoint.resume(training, state)
                self.tell(f"Going on from step {training.done} of {self.total} ({state}).")
            except ReCharError as error:
                if not set_aside:
                    raise
                state.replace(state.with_suffix(".unusable"))
                self.tell(f"{error} It is renamed to .unusable, and this training starts anew.")

    def _keep_in(self, number: int, state: Path) -> Path:
        self.states = (*self.states[:number], state, *self.states[number + 1 :])
        return state

    def forget(self, states: Sequence[Path]) -> None:
        """Deletes what earlier runs of these trainings kept in these files or elsewhere."""
        spare = checkpoint.spares(self.trainings)
        for state in (*states, *spare):
            state.unlink(missing_ok=True)

    def train(
        self, write: Callable[[list[BLora]], None], stepped: Callable[[Step], None] = lambda step: None
    ) -> None:
        """Takes the steps that are left, gives `write` the B-LoRAs, and only then deletes the states.

        stepped: called between steps; what it raises ends the run. Whatever ends it, the writing included, the steps
        taken are kept in the states, but by a bare KeyboardInterrupt; so are they every 250 steps. Of several
        processes the first one alone writes. Raises TrainingError if a LoRA is unusable (NaN, or nothing learnt),
        FileError if `write` cannot write, saying where the states are.
        """
        with self._kept():
            for step in self.steps():
                stepped(step)
                if step.number % _SAVE_EVERY == 0 and step.number < self.total:
                    self.save()
        if self._main:
            bloras = [training.blora() for training in self.trainings]
            with self._kept():
                write(bloras)
            for state in {*self.states, *self._asked}:
                with suppress(OSError):  # the result is there
                    state.unlink()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # a bare KeyboardInterrupt means at once, and may fall inside a step
            kept = self.save() if type(error) is not KeyboardInterrupt else []
            if kept and isinstance(error, FileError):
                where = listed(f"'{state}'" for state in kept)
                raise FileError(
                    f"{error} What was trained is kept in {where}; the same job goes on from there."
                ) from error
            raise

    def save(self) -> list[Path]:
        """Writes the state of each LoRA that has anything worth keeping, if this process is the one that writes.

        Returns the files. Where one cannot be written, a full disk for example, the state goes to the system's folder
        for temporary files; where that fails too, the user is told, and nothing ends for it.
        """
        kept = []
        for number, training in enumerate(self.trainings[: len(self.states)]):
            if not (self._main and training.sound):
                continue
            try:
                kept.append(checkpoint.save(training, self.states[number]))
            except FileError as error:
                spare = checkpoint.spare(training)
                try:
                    kept.append(checkpoint.save(training, self._keep_in(number, spare)))
                    self.tell(f"{error} The state of the training is kept in '{spare}' instead.")
                except FileError as also:
                    self.tell(f"{error} {also} The steps since the last safety copy are kept nowhere.")
        return kept

    def steps(self) -> Iterator[Step]:
        """Each step, from the last that all have taken. Raises TrainingError as soon as a loss is seen to be NaN.

        Out of memory, it goes down one rung of the memory modes and on from the last step. Nothing stays attached to
        the UNet between steps.
        """
        try:
            while self.done < self.total:
                number = self.done
                losses = [self._step(training) for training in self.trainings if training.done == number]
                yield Step(number + 1, self.total, torch.stack(losses).mean())
        finally:
            self._rest()

    def prefetch(self, number: int) -> PrefetchedStep:
        """Step `number` (from 0) up to where the LoRAs begin, computed once for all."""
        if self._prefetcher is None:
            self._denoiser.use(self.mode)
            self._prefetcher = Prefetcher(self.trainings[0], self.mode)
        if self._prefetched is None or self._prefetched.number != number:
            self._prefetched = None  # its memory goes before the next comes
            self._prefetched = self._prefetcher.step(number)
        return self._prefetched

    def _step(self, training: Training) -> Tensor:
        while True:
            with training.lora_layers.attached():
                loss = training.step(lambda: self.prefetch(training.done))
            if loss is not None:
                return loss
            self._step_down()

    def _step_down(self) -> None:
        """One rung down the memory modes, with nothing of the broken step left. Raises TrainingError on the last."""
        lower = next_rung(self.mode)
        if lower is None:
            raise TrainingError(
                "The memory ran out even in memory mode low; choose a lower resolution, rank or batch_size."
            )
        self.tell(
            f"Memory ran out at step {self.done + 1}: going on in memory mode {lower} instead of {self.mode}."
        )
        self.mode = lower
        for training in self.trainings:
            training.forget_step()
        self._rest()
        empty_cache(self._denoiser.device)

    def _rest(self) -> None:
        """Takes back what was attached to the UNet and moved."""
        self._prefetcher = self._prefetched = None
        self._denoiser.use(None)


def _shared(training: Training) -> dict[str, object]:
    """What must be the same, by the name that a message uses."""
    recipe = training.recipe.to_json()
    noise = recipe["noise_seed"] if recipe["noise_seed"] is not None else recipe["seed"]
    return {
        **{name: value for name, value in recipe.items() if name not in _OWN},
        "noise_seed": noise,
        "model": id(training.denoiser),
        "pictures": [id(picture.mean) for picture in training.pictures],
        "prompt": id(training.conditioning.context),
    }


def _newer(one: Path, other: Path) -> bool:
    """Whether the file `one` is there, and was written after `other` where that is there too."""
    return one.is_file() and (not other.is_file() or one.stat().st_mtime > other.stat().st_mtime)
