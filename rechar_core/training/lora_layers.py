"""LoRA layers as forward hooks: the base's weights are never changed, and up @ down is never computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import TrainingError, listed
from ..lora.blocks import Block, block_of
from ..lora.blora import BLora, LoraPair
from .noise import SeededNoise
from .recipe import TrainingRecipe


@dataclass(frozen=True)
class LoraLayer:
    """y += up(down(x)): `down` (rank, in) and `up` (out, rank), fp32 parameters whatever the base's dtype.

    Scale 1, as the reference trains: the stored alpha equals the rank.
    """

    down: nn.Parameter
    up: nn.Parameter

    def hook(self, _module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The forward hook of the layer that it is added to."""
        x = args[0]
        return output + F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))


class LoraLayers:
    """The LoRA layers of one training, by diffusers module path, in model order."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        recipe: TrainingRecipe,
        noise: SeededNoise,
        device: torch.device,
    ):
        self.layers = chosen_layers(layers, recipe.blocks)
        self.by_path: dict[str, LoraLayer] = {}
        for path, layer in self.layers.items():
            weight = getattr(layer, "weight", None)
            if weight is None or weight.ndim != 2:
                raise TrainingError(
                    f"{path} is a {type(layer).__name__}, not a linear layer; use an unquantised SDXL model."
                )
            down = noise.down(path, recipe.rank, weight.shape[1]).to(device, torch.float32)
            up = torch.zeros(weight.shape[0], recipe.rank, device=device)
            self.by_path[path] = LoraLayer(nn.Parameter(down), nn.Parameter(up))

    def parameters(self) -> list[nn.Parameter]:
        """Every trained parameter: down and up of each LoRA layer, in model order."""
        return [p for layer in self.by_path.values() for p in (layer.down, layer.up)]

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks the LoRA layers onto the model's; the hooks are removed at the end, also after an error."""
        handles = [self.layers[path].register_forward_hook(a.hook) for path, a in self.by_path.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def check_gradients(self) -> None:
        """Raises TrainingError if a layer took no part in the forward pass: its LoRA would be saved untrained."""
        idle = [path for path, a in self.by_path.items() if a.up.grad is None]
        if idle:
            raise TrainingError(
                f"{listed(idle, 3)} took no part in training; this model's attention bypasses its layers."
            )

    def to_blora(self, recipe: TrainingRecipe) -> BLora:
        """The trained values on the CPU, fp32. Raises TrainingError on NaN/Inf, or if nothing was learnt."""
        pairs = {p: _pair(a, recipe.rank) for p, a in self.by_path.items()}
        broken = [
            p for p, pair in pairs.items() if not (pair.down.isfinite().all() and pair.up.isfinite().all())
        ]
        if broken:
            raise TrainingError(
                f"{listed(broken, 3)} became NaN or infinite; train with a lower learning rate or in bf16."
            )
        untouched = [p for p, pair in pairs.items() if not pair.up.any()]
        if untouched:
            raise TrainingError(
                f"{listed(untouched, 3)} learnt nothing (zero change); raise the learning rate."
            )
        return BLora(pairs=pairs, trigger=recipe.prompt, recipe=recipe.to_json())


def chosen_layers(layers: Mapping[str, nn.Module], blocks: tuple[Block, ...]) -> dict[str, nn.Module]:
    """The layers inside `blocks`. Raises TrainingError if a block has none: that model is not SDXL."""
    chosen = {path: layer for path, layer in layers.items() if block_of(path) in blocks}
    for block in blocks:
        if not any(block_of(path) is block for path in chosen):
            raise TrainingError(
                f"The model has no attention layer in {block.path}; a B-LoRA needs an SDXL model."
            )
    return chosen


def _pair(layer: LoraLayer, rank: int) -> LoraPair:
    # alpha = rank: the stored scale is 1, as trained
    return LoraPair(layer.down.detach().cpu().clone(), layer.up.detach().cpu().clone(), float(rank))
