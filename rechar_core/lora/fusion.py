"""Alpha-controlled fusion: the structure block of one B-LoRA and the style block of another, each with an alpha.

The two blocks share no layer, so the fusion is a union and the order does not matter (B-LoRA, Frenkel et al.,
ECCV 2024, section 4).
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from ..errors import LoraError, ModelError, check_choice, listed, readable
from .blocks import BLOCKS, STRUCTURE, STYLE, Block, block_of
from .blora import BLora, LoraPair
from .layers import Shape, bias_of, change_shape, only_for_host, weight_of

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

AlphaMode = Literal["linear", "reference"]

# The published code multiplies both down and up by alpha, so its weight change grows with alpha^2 (docs/blora.md).
_EFFECTIVE_ALPHAS: Mapping[str, Callable[[float], float]] = {
    "linear": lambda alpha: alpha,
    "reference": lambda alpha: alpha * alpha,
}


@dataclass(frozen=True)
class Fusion:
    """The layers to add to a model, each with its effective alpha, which is never 0.

    pairs: diffusers module path -> (pair, alpha). passthrough: module path -> (part -> tensor, alpha), for differences
    of weights and biases, and for the layer kinds that only ComfyUI can apply.
    """

    pairs: Mapping[str, tuple[LoraPair, float]]
    passthrough: Mapping[str, tuple[Mapping[str, Tensor], float]]

    def __str__(self) -> str:
        """The number of layers and the alpha of each block, one line per block."""
        lines = []
        for block in BLOCKS:
            parts = (*self.pairs.items(), *self.passthrough.items())
            alphas = [alpha for path, (_, alpha) in parts if block_of(path) is block]
            text = f"{len(alphas)} layers at alpha {alphas[0]:g}" if alphas else "nothing"
            lines.append(f"{block.name}: {text}")
        return "\n".join(lines)

    def check(
        self, shapes: Mapping[str, tuple[int, ...]], biases: Mapping[str, tuple[int, ...]] | None = None
    ) -> None:
        """Compares every layer with the model's weight shapes: module path -> (out, in), or (out, in, 1, 1).

        biases: module path -> (out,), of the modules that have a bias; None: they are not compared. A bias for a layer
        without one is left out, as in ComfyUI, and the log says so.
        Raises ModelError listing up to ten layers that are missing from the model or have another shape.
        """
        changes: list[tuple[str, Shape]] = []
        changes += [(path, (pair.up.shape[0], pair.down.shape[1])) for path, (pair, _) in self.pairs.items()]
        changes += [
            (path, () if path in self.pairs else change_shape(parts))
            for path, (parts, _) in self.passthrough.items()
        ]
        misfits = [m for m in (_misfit(path, shape, shapes) for path, shape in changes) if m]
        if biases is not None:
            misfits += self._misfit_biases(biases)
        if misfits:
            raise ModelError(
                f"The LoRA does not fit this model in {len(misfits)} of {len(changes)} layers ({listed(misfits)}); "
                "choose the SDXL model it was trained for."
            )

    def _misfit_biases(self, biases: Mapping[str, tuple[int, ...]]) -> list[str]:
        given = {
            p: bias for p, (parts, _) in self.passthrough.items() if (bias := bias_of(parts)) is not None
        }
        homeless = [path for path in given if path not in biases]
        if homeless:
            text = f"The LoRA's biases of {len(homeless)} layers are left out, for these have none in the model: "
            logging.getLogger(__name__).warning(readable(text + listed(homeless)))
        found = (_misfit(path, tuple(b.shape), biases) for path, b in given.items() if path in biases)
        return [f"the bias of {misfit}" for misfit in found if misfit]


def effective_alpha(alpha: float, mode: str = "linear") -> float:
    """The multiplier of the weight change for a user's alpha: alpha, or alpha^2 in the mode "reference".

    Raises LoraError if alpha is not finite or the mode is unknown.
    """
    check_choice("alpha mode", mode, _EFFECTIVE_ALPHAS, LoraError)
    if not math.isfinite(alpha):
        raise LoraError(f"Alpha is {alpha}; give a finite number, usually between 0 and 2.")
    return _EFFECTIVE_ALPHAS[mode](float(alpha))


def alpha_list(text: str) -> list[float]:
    """Alphas from a list in text ("0, 0.5, 1"), separated by commas, semicolons (CJK ones too) or spaces.

    Raises LoraError if it is empty, too long, or not numbers.
    """
    try:
        alphas = [float(part) for part in re.split(r"[\s,;，；、]+", text) if part]
    except ValueError:
        raise LoraError(
            f"'{text}' is no list of alphas; write numbers separated by commas, like 0, 0.5, 1."
        ) from None
    if not 1 <= len(alphas) <= 32 or not all(math.isfinite(a) for a in alphas):
        raise LoraError(f"'{text}' gives {len(alphas)} alphas; give 1 to 32 finite numbers.")
    return alphas


def decimal_comma(alphas: Sequence[float]) -> str:
    """A sentence for alphas that look like a number with a decimal comma, such as 0 and 5 of "0,5"; else ""."""
    if alphas.count(0) != 1 or not any(alpha > 2 and alpha == int(alpha) for alpha in alphas):
        return ""
    return (
        f"The alphas are {', '.join(f'{a:g}' for a in alphas)}. If a half is meant, write 0.5 with a point."
    )


def fuse(
    structure: BLora | None,
    style: BLora | None,
    structure_alpha: float = 1.0,
    style_alpha: float = 1.0,
    alpha_mode: str = "linear",
) -> Fusion:
    """The structure block of `structure` and the style block of `style`. Either may be None; alpha 0 leaves it out.

    Raises LoraError if a LoRA has no weights in its block, if an alpha is not finite, or if the mode is unknown.
    """
    pairs: dict[str, tuple[LoraPair, float]] = {}
    passthrough: dict[str, tuple[Mapping[str, Tensor], float]] = {}
    for block, blora, alpha in ((STRUCTURE, structure, structure_alpha), (STYLE, style, style_alpha)):
        effective = effective_alpha(alpha, alpha_mode)
        part = None if blora is None else selected(blora, block)
        if part is not None and effective != 0:
            pairs.update({path: (pair, effective) for path, pair in part.pairs.items()})
            passthrough.update({path: (parts, effective) for path, parts in part.passthrough.items()})
    return Fusion(pairs, passthrough)


@contextmanager
def applied(unet: Module, fusion: Fusion) -> Iterator[None]:
    """Context manager that applies a fusion to the linear layers of a diffusers UNet and restores them at the end.

    The original weights are never written to, so they are restored bit for bit. The fusion is checked against the
    UNet before any layer is changed. Raises LoraError for layer kinds that only ComfyUI can apply, ModelError if the
    fusion does not fit the UNet.
    """
    import torch

    kinds = sorted({kind for parts, _ in fusion.passthrough.values() for kind in only_for_host(parts)})
    if kinds:
        raise LoraError(
            f"Only ComfyUI can apply {listed(kinds)} weights; use this file there, or a plain LoRA here."
        )
    fusion.check(weight_shapes(unet), _shapes(unet, ".bias"))
    modules = {path: unet.get_submodule(path) for path in (*fusion.pairs, *fusion.passthrough)}
    originals = {path: dict(module._parameters) for path, module in modules.items()}
    try:
        for path, (pair, alpha) in fusion.pairs.items():
            weight = patched(cast("Tensor", originals[path]["weight"]), pair, alpha)
            modules[path]._parameters["weight"] = torch.nn.Parameter(weight, requires_grad=False)
        for path, (parts, alpha) in fusion.passthrough.items():
            for name, change in (("weight", weight_of(parts)), ("bias", bias_of(parts))):
                original = originals[path].get(name)
                if change is not None and original is not None:
                    total = torch.nn.Parameter(_sum(original, change, alpha), requires_grad=False)
                    modules[path]._parameters[name] = total
        yield
    finally:
        for path, parameters in originals.items():
            modules[path]._parameters.update(parameters)


def _sum(original: Tensor, change: Tensor, alpha: float) -> Tensor:
    """original + alpha * change, computed in fp32 and cast to the original's dtype."""
    import torch

    with torch.no_grad():
        wide = original.detach().to(torch.promote_types(original.dtype, torch.float32))
        return (wide + alpha * change.to(wide).reshape(wide.shape)).to(original.dtype)


def patched(weight: Tensor, pair: LoraPair, alpha: float) -> Tensor:
    """A copy of a layer's weight (out, in) with the pair added, computed in fp32 and cast to the weight's dtype.

    With a DoRA scale m the changed weight is W' = m * (W + delta) / ||W + delta||, the norm taken per output for m
    (out, 1) and per input for m (1, in) (DoRA, Liu et al. 2024, eq. 5); alpha interpolates linearly from W to W'.
    """
    import torch

    with torch.no_grad():
        base = weight.detach().flatten(1).to(torch.promote_types(weight.dtype, torch.float32))
        delta = pair.delta().to(base)
        if pair.dora_scale is not None:
            changed, magnitude = base + delta, pair.dora_scale.to(base)
            per_output = magnitude.shape[0] == base.shape[0]
            norm = torch.linalg.vector_norm(changed, dim=1 if per_output else 0, keepdim=True)
            delta = changed * (magnitude / norm.clamp_min(torch.finfo(base.dtype).tiny)) - base
        return (base + alpha * delta).reshape(weight.shape).to(weight.dtype)


def weight_shapes(unet: Module) -> dict[str, tuple[int, ...]]:
    """Module path -> shape of its weight, for all modules of a torch model that have a weight."""
    return _shapes(unet, ".weight")


def _shapes(unet: Module, suffix: str) -> dict[str, tuple[int, ...]]:
    return {n.removesuffix(suffix): tuple(p.shape) for n, p in unet.named_parameters() if n.endswith(suffix)}


def selected(blora: BLora, block: Block) -> BLora:
    """The weights of a LoRA inside `block`. Raises LoraError if there are none."""
    part = blora.select(block)
    if not part.modules:
        has = listed(b.name for b in blora.blocks) or "nothing"
        raise LoraError(
            f"The {block.name} LoRA has no weights in the {block.name} block ({block.path}), it has {has}; "
            f"give a B-LoRA trained for {block.name}."
        )
    return part


def _misfit(path: str, wanted: Shape, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """Why a weight change of this shape does not fit the model's layer, or None if it fits."""
    if path not in shapes:
        return f"{path} is not in the model"
    shape = tuple(shapes[path])
    same = len(wanted) <= len(shape) and all(w in (None, n) for w, n in zip(wanted, shape, strict=False))
    if not wanted or (same and all(n == 1 for n in shape[len(wanted) :])):
        return None
    return f"{path} is {list(wanted)} in the LoRA and {list(shape)} in the model"
