"""One gate for the pictures and masks that other nodes give to ours: ComfyUI's own layout, or one sentence.

docs/inputs.md has the table of what is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from .progress import say

if TYPE_CHECKING:
    from torch import Tensor

Say = Callable[[str], object]

_COLOURS = (1, 3, 4)
_OVERSHOOT = 0.1  # below 0 or above 1, as upscalers and resizing filters leave it; it is cut off
_BYTES = 255


def gate(node: Any, schema: Any) -> None:
    """Makes `execute` of a node class get each IMAGE from `picture` and each MASK from `mask`."""
    gates = {"IMAGE": picture, "MASK": mask}
    inputs = schema.inputs or ()  # None in the oldest hosts
    given = {each.id: gates[kind] for each in inputs if (kind := each.get_io_type()) in gates}
    if not given:
        return
    execute = node.execute.__func__

    @wraps(execute)
    def checked(cls: Any, **inputs: Any) -> Any:
        for name, taken in given.items():
            if inputs.get(name) is not None:
                inputs[name] = taken(inputs[name], name, say)
        return execute(cls, **inputs)

    node.execute = classmethod(checked)


def picture(value: Any, name: str, say: Say) -> Tensor:
    """IMAGE (B, H, W, 3 or 4), fp32 in 0..1, of what an input `name` was given.

    Taken as well: one picture (H, W, C), grey (one colour), colours before the sides (B, C, H, W), values 0..255. The
    last two are told by `say`. Raises ImageError.
    """
    shape = _shape(value, name, "an IMAGE")
    if len(shape) == 3 and shape[-1] in _COLOURS:
        value = value[None]
    elif len(shape) == 4 and shape[-1] not in _COLOURS and shape[1] in _COLOURS:
        say(f"{name} has the shape {shape}, with the colours before the sides: they are moved behind.")
        value = value.movedim(1, -1)
    if value.ndim != 4 or value.shape[-1] not in _COLOURS:
        raise _wrong(
            f"{name} has the shape {shape}", "an IMAGE has (pictures, height, width, 3 or 4 colours)"
        )
    value = _in_range(value, name, say)
    return value.expand(*value.shape[:-1], 3) if value.shape[-1] == 1 else value


def mask(value: Any, name: str, say: Say) -> Tensor:
    """MASK (B, H, W), fp32 in 0..1, of what an input `name` was given.

    Taken as well: one mask (H, W), (B, 1, H, W), (B, H, W, 1), True and False, values 0..255. The last is told by
    `say`. Raises ImageError.
    """
    shape = _shape(value, name, "a MASK")
    if len(shape) == 2:
        value = value[None]
    elif len(shape) == 4 and 1 in (shape[1], shape[-1]):
        value = value[..., 0] if shape[-1] == 1 else value[:, 0]
    if value.ndim != 3:
        raise _wrong(f"{name} has the shape {shape}", "a MASK has (masks, height, width)")
    return _in_range(value, name, say)


def _shape(value: Any, name: str, kind: str) -> tuple[int, ...]:
    import torch

    if not isinstance(value, torch.Tensor):
        raise _wrong(f"{name} is {type(value).__name__}", f"{kind} is a tensor")
    if 0 in value.shape:
        raise _wrong(f"{name} is empty, of the shape {tuple(value.shape)}", f"{kind} has at least one pixel")
    return tuple(value.shape)


def _in_range(value: Tensor, name: str, say: Say) -> Tensor:
    """As fp32 in 0..1. Raises ImageError."""
    import torch

    integers = value.dtype is not torch.bool and not value.is_floating_point()
    value = value.float()
    if not bool(value.isfinite().all()):
        raise _wrong(f"{name} has values that are NaN or infinite", "the node that made them went wrong")
    low, high = float(value.min()), float(value.max())
    if low >= 0 and 1 < high <= _BYTES and (integers or high > 2):
        say(f"{name} has values up to {high:g}: they are taken as 0..{_BYTES}.")
        return value / _BYTES
    if low < -_OVERSHOOT or high > 1 + _OVERSHOOT:
        raise _wrong(f"{name} has values from {low:.3g} to {high:.3g}", "ComfyUI's are 0 to 1")
    return value.clamp(0, 1)


def _wrong(what: str, wanted: str) -> Exception:
    from ...rechar_core.errors import ImageError

    return ImageError(f"{what}; {wanted}. Connect another node's output, or convert it before.")
