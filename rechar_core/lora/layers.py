"""One layer as a LoRA file stores it: what is wrong with it, the shape of its weight change, its low-rank pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import listed
from .blora import LoraPair
from .key_formats import DIFFERENCES, PASSTHROUGH, kinds_of
from .peft_config import LARGEST_ALPHA, configured_alpha

if TYPE_CHECKING:
    from torch import Tensor

Parts = Mapping[str, "Tensor"]
Shape = tuple["int | None", ...]  # None: any size

_FLOATS = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8")
# The parts in which each kind's weight change is linear: all of them are multiplied by `.scalar`.
_FACTORS = (("up",), ("hada_w1_a",), ("lokr_w1",), ("lokr_w1_a",), ("a1.weight", "b1.weight"))
# Each of these changes the weight, so that ComfyUI applies one of them alone.
_CHANGES = ("up", "hada_w1_a", "lokr_w", "a1.weight", "oft_blocks", "diff", "w_norm", "set_weight")


def is_paired(parts: Parts) -> bool:
    """Whether the parts have a low-rank pair that is a matrix product and nothing else."""
    return {"down", "up"} <= set(parts) and "lora_mid.weight" not in parts


def odd_type(part: str, tensor: Tensor) -> str | None:
    """The name of a tensor's type if no such part can have it (complex, bool, 4-bit), else None."""
    name = str(tensor.dtype).removeprefix("torch.")
    numbers = part in ("alpha", "reshape_weight")
    return None if name in _FLOATS or (numbers and name in _INTEGERS) else name


def problem_of(parts: Parts) -> str | None:
    """What is wrong with the parts of one layer, or None. Types and values are checked before (`odd_type`)."""
    for part in ("alpha", "scalar"):
        if part in parts and parts[part].numel() != 1:
            return f"{part} of shape {list(parts[part].shape)}"
    if "alpha" in parts and abs(float(parts["alpha"].item())) > LARGEST_ALPHA:
        return f"alpha {parts['alpha'].item():g}"
    changes = [name for name in _CHANGES if any(_is(part, name) for part in parts)]
    if len(changes) > 1 or {"diff_b", "b_norm"} <= set(parts):
        return f"several changes at once ({listed(sorted(parts))})"
    problem = _pair_problem(parts) if is_paired(parts) else _other_problem(parts)
    if problem is None and "scalar" in parts and not _factors(parts):
        return "a scalar, which only LoRA, LoHa, LoKr and GLoRA layers have"
    return problem


def _is(part: str, name: str) -> bool:
    return part.startswith("lokr_w") if name == "lokr_w" else part == name


def _pair_problem(parts: Parts) -> str | None:
    down, up = _matrix(parts["down"]), _matrix(parts["up"])
    shapes = f"down {list(down.shape)}, up {list(up.shape)}"
    if down.ndim != 2 or up.ndim != 2:
        return f"weights that are not matrices, {shapes}"
    if down.shape[0] != up.shape[1] or down.shape[0] == 0:
        return f"ranks that differ, {shapes}"
    return _dora_problem(parts, (up.shape[0], down.shape[1]), shapes)


def _dora_problem(parts: Parts, shape: Shape, shapes: str) -> str | None:
    dora = magnitude(parts["dora_scale"]) if "dora_scale" in parts else None
    if dora is None or len(shape) != 2 or None in shape or dora.shape in ((shape[0], 1), (1, shape[1])):
        return None
    return f"DoRA scale of shape {list(dora.shape)}, {shapes}"


def _other_problem(parts: Parts) -> str | None:
    if not kinds_of(parts) or ({"down", "up"} & set(parts) and "lora_mid.weight" not in parts):
        return f"only {listed(sorted(parts))}, which is not a whole layer"
    try:
        shape = change_shape(parts)
    except KeyError:
        return f"only {listed(sorted(parts))}, which is not a whole layer"
    except ValueError:
        given = (f"{p} {list(t.shape)}" for p, t in parts.items() if p in PASSTHROUGH or p in ("down", "up"))
        return f"shapes that do not fit together, {listed(given)}"
    return _dora_problem(parts, shape, f"weight {list(shape)}")


def change_shape(parts: Parts) -> Shape:
    """Shape of the weight change of a layer that is no low-rank pair; () if it has none or its parts do not tell.

    Raises KeyError if parts are missing, ValueError if their shapes do not fit together.
    """
    for sign, shape in (
        ("set_weight", lambda: tuple(parts["set_weight"].shape)),
        ("diff", lambda: tuple(parts["diff"].shape)),
        ("w_norm", lambda: tuple(parts["w_norm"].shape)),
        ("hada_", lambda: _loha_shape(parts)),
        ("lokr_", lambda: _lokr_shape(parts)),
        ("a1.weight", lambda: _glora_shape(parts)),
        ("oft_blocks", lambda: _oft_shape(parts["oft_blocks"])),
        ("lora_mid.weight", lambda: _tucker_shape(parts)),
    ):
        if any(part == sign or (sign.endswith("_") and part.startswith(sign)) for part in parts):
            return shape()
    if {"diff_b", "b_norm"} & set(parts):
        return ()
    raise KeyError(listed(parts))


def only_for_host(parts: Parts) -> list[str]:
    """The kinds among the parts of a layer whose weight change only ComfyUI can compute; sorted."""
    kinds = kinds_of(set(parts) - DIFFERENCES)
    stages = "oft_blocks" in parts and parts["oft_blocks"].ndim == 4
    return sorted("BOFT" if stages and kind == "OFT" else kind for kind in kinds)


def weight_of(parts: Parts) -> Tensor | None:
    """The weight difference of a layer that stores it whole, or None."""
    weight = parts.get("diff")
    return parts.get("w_norm") if weight is None else weight


def bias_of(parts: Parts) -> Tensor | None:
    """The bias difference of a layer, (out,), or None."""
    bias = parts.get("diff_b")
    return parts.get("b_norm") if bias is None else bias


def _loha_shape(parts: Parts) -> Shape:
    if {"hada_t1", "hada_t2"} & set(parts):  # Tucker cores, of convolutions
        cores = [parts[f"hada_t{n}"] for n in (1, 2)]
        a, b = parts["hada_w1_a"], parts["hada_w1_b"]
        _fit(all(t.ndim == 4 for t in cores) and a.ndim == b.ndim == 2)
        _fit(parts["hada_w2_a"].shape[1:] == a.shape[1:] and parts["hada_w2_b"].shape[1:] == b.shape[1:])
        return ()
    first, second = (_product(parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"]) for n in (1, 2))
    _fit(first == second)
    return first


def _lokr_shape(parts: Parts) -> Shape:
    if "lokr_t2" in parts:
        _fit(parts["lokr_t2"].ndim == 4 and parts["lokr_w2_a"].ndim == parts["lokr_w2_b"].ndim == 2)
        return ()
    shapes = []
    for name in ("lokr_w1", "lokr_w2"):
        whole = parts.get(name)
        shape = _product(parts[f"{name}_a"], parts[f"{name}_b"]) if whole is None else tuple(whole.shape)
        _fit(len(shape) == 2 or (len(shape) == 4 and name == "lokr_w2"))
        shapes.append(shape)
    return (shapes[0][0] * shapes[1][0], shapes[0][1] * shapes[1][1], *shapes[1][2:])


def _glora_shape(parts: Parts) -> Shape:
    """LyCORIS changed the order of the factors: now W a1 a2 + b1 b2, before W a2 a1 + b2 b1."""
    a1, a2, b1, b2 = (parts[f"{name}.weight"] for name in ("a1", "a2", "b1", "b2"))
    for a, aa, b, bb in ((a1, a2, b1, b2), (a2, a1, b2, b1)):
        if (
            all(t.ndim == 2 for t in (a, aa, b, bb))
            and len({a.shape[1], aa.shape[0], b.shape[1], bb.shape[0]}) == 1
        ):
            width = bb.shape[1]
            if a.shape[0] == aa.shape[1] == width:
                return b.shape[0], width
    raise ValueError


def _oft_shape(blocks: Tensor) -> Shape:
    """(blocks, size, size) of OFT; (stages, blocks, size, size) of BOFT."""
    _fit(blocks.ndim in (3, 4) and blocks.shape[-1] == blocks.shape[-2])
    return (blocks.shape[-3] * blocks.shape[-1], None)


def _tucker_shape(parts: Parts) -> Shape:
    down, up, core = parts["down"], parts["up"], parts["lora_mid.weight"]
    _fit(core.ndim == 4 and down.ndim in (2, 4) and up.ndim in (2, 4))
    _fit(core.shape[0] == core.shape[1] == down.shape[0] == up.shape[1])
    return (up.shape[0], down.shape[1], *core.shape[2:])


def _product(a: Tensor, b: Tensor) -> tuple[int, ...]:
    _fit(a.ndim == b.ndim == 2 and a.shape[1] == b.shape[0] and a.shape[1] > 0)
    return a.shape[0], b.shape[1]


def _fit(it_does: bool) -> None:
    if not it_does:
        raise ValueError


def _factors(parts: Parts) -> tuple[str, ...]:
    return next((factors for factors in _FACTORS if set(factors) <= set(parts)), ())


def without_scalar(parts: Parts) -> dict[str, Tensor]:
    """The parts with older LyCORIS' `.scalar` multiplied into the weights, in fp32: the change is linear in them."""
    scalar = parts.get("scalar")
    if scalar is None:
        return dict(parts)
    scaled = {part: parts[part].float() * scalar.float().reshape(()) for part in _factors(parts)}
    return {part: scaled.get(part, tensor) for part, tensor in parts.items() if part != "scalar"}


def pair_of(module: str, parts: Parts, config: Mapping[str, Any]) -> LoraPair:
    """The low-rank pair of a layer. config: PEFT's settings. Raises LoraError if they give no usable alpha."""
    down, up = _matrix(parts["down"]), _matrix(parts["up"])
    rank = down.shape[0]
    alpha = float(parts["alpha"].item()) if "alpha" in parts else configured_alpha(config, module, rank)
    dora = magnitude(parts["dora_scale"]) if "dora_scale" in parts else None
    return LoraPair(down, up, alpha, dora)


def _matrix(tensor: Tensor) -> Tensor:
    """The weight (out, in, 1, 1) of a 1x1 convolution as a matrix (out, in); any other tensor unchanged."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def magnitude(tensor: Tensor) -> Tensor:
    """A DoRA scale as (out, 1) or (1, in). PEFT stores (out,), a 1x1 convolution has four dimensions."""
    return tensor[:, None] if tensor.ndim == 1 else _matrix(tensor)
