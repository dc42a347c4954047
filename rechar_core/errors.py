"""The errors of the project. Each message is one sentence for the user.

Every message says what is wrong, with which file or value, and what to do. Nothing else is raised on bad input.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Control characters, lone surrogates, and what turns the direction of the text around it.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 400  # characters of a message


def readable(text: str) -> str:
    """One line of at most 400 characters, whatever a file or a graph put into it: the middle is left out."""
    text = _UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 153]} ... {text[-148:]}"


class ReCharError(Exception):
    """Base class of all errors that a user can cause and fix. message: made `readable`."""

    def __init__(self, message: str) -> None:
        super().__init__(readable(message))


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
