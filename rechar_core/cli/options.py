"""What several commands need of their options: a job made from them, and the check of a number."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from inspect import signature
from typing import Any, TypeVar

from ..errors import RecipeError

Job = TypeVar("Job")


def job_from(kind: Callable[..., Job], options: argparse.Namespace, **more: Any) -> Job:
    """A job of dataclass `kind`: its fields from the options of the same names and from `more`."""
    names = signature(kind).parameters
    return kind(**{name: value for name, value in vars(options).items() if name in names} | more)


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raises RecipeError unless low <= value <= high."""
    if not low <= value <= high:
        raise RecipeError(f"{name} is {value}; it must be from {low} to {high}.")
