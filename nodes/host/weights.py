"""Replaces the weights of a host's model by plain tensors while we compute with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...rechar_core.device import or_on_cpu
from ...rechar_core.errors import ModelError
from ...rechar_core.training.offload import Table, like, tables

_LOG = logging.getLogger(__name__)
_CPU = torch.device("cpu")
# How the host has a weight cast at each call: by patches and functions that wait on the module, into memory (_v)
# that it may take back at any time. Set aside, the module computes with the tensors that it holds.
_CAST_STATE = (
    "_v",
    "_prefetch",
    "weight_function",
    "bias_function",
    "weight_lowvram_function",
    "bias_lowvram_function",
)
# The second is that of quantised layers, where False stands for quantising what comes in, too.
_CAST_SWITCHES = {"comfy_cast_weights": False, "_full_precision_mm": True}


class OwnWeights:
    """Every weight of some modules as a plain tensor that a backward pass can use, on a device that we choose.

    The host may hold a weight with or without its LoRA patches, on any device, mapped from a file, quantised, or as an
    inference tensor, which cannot be saved for a backward pass. Ours is what the host would compute with: dequantised,
    patched once, in the computation's dtype. Where the host's own tensor is that already, ours shares its storage.
    """

    def __init__(self, weights: dict[tuple[int, str], _Weight]):
        self._weights = weights

    def place(
        self, modules: Iterable[nn.Module], device: torch.device, each: Callable[[], None] = lambda: None
    ) -> None:
        """All weights of these modules onto `device`; `each` is called after every one, and may raise."""
        with torch.inference_mode(False), torch.no_grad():
            for table in tables(modules):
                for name in table:
                    weight = self._weights.get((id(table), name))
                    if weight is not None:
                        table[name] = like(weight.host, weight.on(device))
                        each()

    def values(self) -> Iterator[Tensor]:
        """Every weight as it is used, in model order, one at a time: to tell two models apart."""
        return (weight.value() for weight in self._weights.values())


class _Weight:
    """One tensor of the host's, and ours in its place, in `dtype`.

    compute: from the host's to the values used; None: the same.
    """

    def __init__(
        self, table: Table, name: str, compute: Callable[[Tensor], Tensor] | None, dtype: torch.dtype
    ):
        self.table, self.name, self.host = table, name, table[name]
        self.origin = self.host.device
        self.compute, self.dtype = compute, dtype
        self.own: Tensor | None = None
        self.on_cpu: Tensor | None = None  # kept, once it was there: coming back from a GPU costs no copy

    def on(self, device: torch.device) -> Tensor:
        """Ours, on `device`."""
        if self.own is None or self.own.device != device:
            if device.type == "cpu":
                self.own = self.on_cpu = self._to_cpu()
            else:
                self.own = self._made(device) if self.own is None else self.own.to(device)
        return self.own

    def _to_cpu(self) -> Tensor:
        if self.on_cpu is not None:
            return self.on_cpu
        if self.host.device.type != "cpu":  # --highvram: the host keeps it on the GPU, where we need the room
            self.host = like(self.host, self.host.detach().to(_CPU))
        return self._made(_CPU) if self.own is None else self.own.to(_CPU)

    def _made(self, device: torch.device) -> Tensor:
        if self.compute is not None:
            return self.compute(self.host).to(device)
        if self.host.device != device or self.host.dtype != self.dtype:
            return self.host.detach().to(device, self.dtype)
        return _alias(self.host) if self.host.is_inference() else self.host.detach()

    def value(self) -> Tensor:
        """As it is used, but in the host's dtype where nothing is computed; the same wherever ours is kept."""
        return self.host if self.compute is None else self.compute(self.host)

    def drop(self) -> None:
        """The host's own again, but where it is now: `restore`, for which there is room then, takes it back."""
        self.table[self.name] = self.host
        self.own = self.on_cpu = None

    def restore(self) -> None:
        """The host's own to where it was, or left on the CPU where there is no room: the host moves what it uses."""
        if self.host.device != self.origin:
            at = or_on_cpu(self.host.detach().to, self.origin, "take back a weight", _LOG.warning)
            self.table[self.name] = like(self.host, at)


@contextmanager
def own_weights(patcher: Any, roots: Iterable[str], dtype: torch.dtype) -> Iterator[OwnWeights]:
    """The weights of a ModelPatcher's model below `roots` (module names) belong to us, in `dtype`, until the end.

    Nothing is computed or moved before OwnWeights.place. Everything that the host has loaded is unloaded first.
    Afterwards model and patcher are as before, the host's tensors the very same objects (but those that left a GPU).
    Raises ModelError for weights that have no plain values (GGUF and other packed kinds).
    """
    import comfy.model_management

    comfy.model_management.unload_all_models()
    if getattr(patcher.model, "current_weight_patches_uuid", None) is not None:
        patcher.detach()  # loaded past the host's list: its patches would be applied twice
    weights: dict[tuple[int, str], _Weight] = {}
    asides: list[Callable[[], None]] = []
    try:
        with torch.inference_mode(False), torch.no_grad():
            patcher.patch_model(load_weights=False)  # object patches and injections, no weights
            for _, adapter in bypass_adapters(patcher.model):
                adapter.weights = type(adapter.weights)(map(_usable, adapter.weights))
            for root in roots:
                for path, module in patcher.model.get_submodule(root).named_modules(prefix=root):
                    weights |= _weights_of(patcher, path, module, dtype)
                    asides.append(_set_aside(module))
        yield OwnWeights(weights)
    finally:
        for weight in weights.values():
            weight.drop()
        with ExitStack() as last:  # whatever one of them raises, the others are called, too
            last.callback(patcher.unpatch_model, device_to=None, unpatch_weights=False)
            for restore in (*asides, *[weight.restore for weight in weights.values()]):
                last.callback(restore)


def _weights_of(
    patcher: Any, path: str, module: nn.Module, dtype: torch.dtype
) -> dict[tuple[int, str], _Weight]:
    weights = {}
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is None:
                continue
            compute = _computation(patcher, f"{path}.{name}", module, name, tensor, dtype)
            if compute is not None or tensor.is_floating_point():
                weights[id(table), name] = _Weight(table, name, compute, dtype)
            elif name in ("weight", "bias"):
                raise ModelError(
                    f"This MODEL's weights are {type(tensor).__name__} in {tensor.dtype} (a packed checkpoint such as "
                    "GGUF or NF4), which cannot be trained on; load the fp16, bf16, fp32 or fp8 checkpoint."
                )
    return weights


def _computation(
    patcher: Any, key: str, module: nn.Module, name: str, tensor: Tensor, dtype: torch.dtype
) -> Callable[[Tensor], Tensor] | None:
    """From the host's tensor to the values that the host would compute with; None where they are the same.

    As ModelPatcher.patch_weight_to_device and comfy.ops.cast_bias_weight do it, in fp32 and without rounding back to
    the type that the weight is stored in.
    """
    quantised = is_quantised(tensor)
    # Before ComfyUI had quantised tensors, it stored fp8 values and a function that scales them.
    scale = getattr(module, f"convert_{name}", None)
    patches, functions = patcher.patches.get(key, ()), patcher.weight_wrapper_patches.get(key, ())
    if not (quantised or scale or patches or functions):
        return None

    def compute(weight: Tensor) -> Tensor:
        return or_on_cpu(
            lambda device: computed(weight, device), patcher.load_device, f"patch {key}", _LOG.info
        )

    def computed(weight: Tensor, device: torch.device) -> Tensor:
        import comfy.lora

        with torch.inference_mode(False), torch.no_grad():
            values: Any = weight.to(device)
            values = (
                values.to(torch.float32).dequantize() if quantised else values.to(torch.float32, copy=True)
            )
            if scale:
                values = scale(values, inplace=True)
            if patches:
                values = comfy.lora.calculate_weight(patches, values, key)
            values = values.to(dtype)
            for function in functions:
                values = function(values)
            return _usable(values)

    return compute


def is_quantised(tensor: Tensor) -> bool:
    """Whether it is the host's quantised tensor, whose dtype is that of the float values which it stands for."""
    try:
        from comfy.quant_ops import QuantizedTensor
    except ImportError:  # the oldest hosts have none
        return False
    return isinstance(tensor, QuantizedTensor)


def _set_aside(module: nn.Module) -> Callable[[], None]:
    """Makes `module` compute with its own tensors, without the host's casting; the result restores the casting."""
    attributes = module.__dict__
    switches = _CAST_SWITCHES if hasattr(module, "comfy_cast_weights") else {}
    before = {name: attributes[name] for name in (*_CAST_STATE, *switches) if name in attributes}
    for name in _CAST_STATE:
        attributes.pop(name, None)
    attributes.update(switches)

    def restore() -> None:
        for name in switches:
            attributes.pop(name, None)
        attributes.update(before)

    return restore


def bypass_adapters(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Module path and LoRA, where the host's bypass mode has put one into a forward; it holds a tuple of weights."""
    for path, module in model.named_modules():
        hook = getattr(module.__dict__.get("forward"), "__self__", None)
        adapter = getattr(hook, "adapter", None)
        if isinstance(getattr(adapter, "weights", None), (tuple, list)):
            yield path, adapter


def _usable(value: Any) -> Any:
    """A tensor that a backward pass may save; anything else as it is."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _alias(tensor: Tensor) -> Tensor:
    """An ordinary tensor over the storage of an inference tensor."""
    alias = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
    return alias.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
