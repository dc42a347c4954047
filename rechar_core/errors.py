"""The errors of the project. Each message is one sentence for the user.

Every message says what is wrong, with which file or value, and what to do. Nothing else is raised on bad input.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable


class ReCharError(Exception):
    """Base class of all errors that a user can cause and fix."""


class FileError(ReCharError):
    """A file is missing, damaged, of a forbidden type, or cannot be written."""


class LoraError(ReCharError):
    """A LoRA file was read, but its contents cannot be used as a B-LoRA."""


class ModelError(ReCharError):
    """A base model is not SDXL, is incomplete, or does not fit the LoRA."""


class ImageError(ReCharError):
    """A picture cannot be read or used."""


class RecipeError(ReCharError):
    """A training or sampling setting is outside its range."""


class TrainingError(ReCharError):
    """Training ran but its result is unusable (NaN loss, zero delta, unmatched layer)."""


def check_choice(what: str, value: object, choices: Collection[str], kind: type[ReCharError]) -> None:
    """Raises an error of the given kind if the value is none of the choices."""
    if value not in choices:
        raise kind(f"There is no {what} '{value}'; choose one of {', '.join(choices)}.")


def listed(items: Iterable[str], limit: int = 10) -> str:
    """The first `limit` items, separated by commas, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def first_line(error: Exception) -> str:
    """The first line of what another library says of its error, or else the error's type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
