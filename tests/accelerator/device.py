"""The device "sim": tensors in the CPU's memory that are of another device for torch.

A tensor of it is an ordinary torch.Tensor whose storage says "sim:0". Each operation on such tensors comes to `run`,
which refuses tensors of another device as a card does, computes with CPU tensors on the same memory, and counts what
the results take. Importing this module registers the device for the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
_CPU = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_HALF = (torch.float16, torch.bfloat16)
TOTAL = 24 << 30  # where the memory has no limit


class Memory:
    """What the card holds, in bytes: tensors by their storages, and what others claim with `take`.

    limit: past it an allocation raises torch.OutOfMemoryError, after `reclaim` was asked for the missing bytes.
    fail_in: the n-th allocation from now fails (1 is the next); None for never.
    """

    def __init__(self) -> None:
        self.limit: int | None = None
        self.fail_in: int | None = None
        self.reclaim: Callable[[int], object] | None = None
        self.current = self.peak = self.allocations = 0
        self._lock = threading.RLock()  # a backward pass runs in a thread of its own

    def take(self, size: int) -> None:
        """Raises: torch.OutOfMemoryError."""
        with self._lock:
            self.allocations += 1
            failing = self.fail_in == 1
            if self.fail_in is not None:
                self.fail_in = self.fail_in - 1 or None
            if not failing and self.missing(size) > 0 and self.reclaim:
                self.reclaim(self.missing(size))
            if failing or self.missing(size) > 0:
                raise torch.OutOfMemoryError(
                    f"SIM out of memory. Tried to allocate {size} bytes. GPU 0 has a total capacity of {self.limit} "
                    f"bytes of which {self.current} are in use."
                )
            self.current += size
            self.peak = max(self.peak, self.current)

    def give(self, size: int) -> None:
        with self._lock:
            self.current -= size

    def missing(self, size: int) -> int:
        """How many bytes too few are free for `size` more; not positive if there are enough."""
        return -1 if self.limit is None else self.current + size - self.limit

    def total(self) -> int:
        """The card's size."""
        return TOTAL if self.limit is None else self.limit

    def reset_peak(self) -> None:
        self.peak = self.current


memory = Memory()


class Block:
    """The memory behind a storage of the device: CPU bytes, counted until the storage dies.

    use: called before each operation on these bytes.
    """

    __slots__ = ("bytes", "size", "use")

    def __init__(
        self, data: torch.UntypedStorage, counted: bool = True, use: Callable[[], None] | None = None
    ):
        self.size = 0
        if counted:
            memory.take(data.nbytes())
            self.size = data.nbytes()
        self.bytes, self.use = data, use

    def __del__(self) -> None:
        memory.give(self.size)


def storage(block: Block) -> torch.UntypedStorage:
    """A storage of the device over a block, which lives as long as it."""
    made = torch._C._construct_storage_from_data_pointer(block.bytes.data_ptr(), DEVICE, block.bytes.nbytes())
    made._block = block  # an attribute lives as long as the storage in C++
    return made


def tensor(
    data: torch.UntypedStorage, dtype: torch.dtype, offset: int, size: Sequence[int], stride: Any
) -> Tensor:
    """A tensor of the device over a storage of it."""
    made = torch._C._acc.create_empty_tensor((0,), dtype)
    aten.set_.source_Storage_storage_offset.redispatch(_CPU, made, data, offset, size, stride)
    return made


def to_sim(cpu: Tensor, data: torch.UntypedStorage | None = None) -> Tensor:
    """The device's tensor over the same bytes; `data` if they have a storage of the device already."""
    if data is None:
        data = storage(Block(cpu.untyped_storage()))
    return tensor(data, cpu.dtype, cpu.storage_offset(), cpu.size(), cpu.stride())


def to_cpu(sim: Tensor) -> Tensor:
    """The CPU's tensor over the same bytes."""
    block = sim.untyped_storage()._block
    if block.use:
        block.use()
    made = torch.empty(0, dtype=sim.dtype)
    return made.set_(block.bytes, sim.storage_offset(), sim.size(), sim.stride())


def is_sim(thing: Any) -> bool:
    return isinstance(thing, Tensor) and thing.device.type == "sim"


# Which operations may be given tensors of the CPU too, as on a card


def _misplaced(kind: Kind, args: Sequence[Any]) -> bool:
    """Whether a tensor of the CPU is among the arguments where a card takes none."""
    for place, given in enumerate(args):
        if isinstance(given, (list, tuple)):
            if not (kind.indexing and place == 1) and _misplaced(kind, given):
                return True
        elif isinstance(given, Tensor) and given.device.type != "sim":  # noqa: SIM102 reads as it is decided
            if given.device.type != "cpu" or given.dim() or not kind.scalars:
                return True
    return False


@dataclass(frozen=True)
class Kind:
    """What `run` asks of an operation. scalars: takes tensors of the CPU without dimensions; written: its results."""

    indexing: bool
    scalars: bool
    mutable: bool
    written: tuple[bool, ...]


@cache
def _kind(op: Any) -> Kind:
    packet, schema = op.overloadpacket, op._schema
    scalars = torch.Tag.pointwise in op.tags or packet in _WITH_SCALARS
    written = tuple(value.alias_info is not None and value.alias_info.is_write for value in schema.returns)
    return Kind(packet in _INDEXING, scalars, schema.is_mutable, written)


_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
_INDEXING |= {aten._unsafe_index_put, aten._unsafe_masked_index}
_WITH_SCALARS = {aten.fill, aten.fill_, aten.masked_fill, aten.masked_fill_, aten.where, *_INDEXING}
_WITH_SCALARS |= {getattr(aten, name) for name in dir(aten) if name.startswith("_foreach_")}


# Every operation


def run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation on tensors of the device, computed by the CPU's kernel. Raises: RuntimeError for a second device."""
    kind = _kind(op)
    if _misplaced(kind, (*args, *kwargs.values())):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, sim:0 and cpu! "
            f"(when checking arguments of {op})"
        )
    shared: dict[int, Tensor] = {}  # the CPU's storage -> a tensor of the device on the same bytes
    pairs: list[tuple[Tensor, Tensor]] = []

    def lower(given: Any) -> Any:
        if isinstance(given, (list, tuple)):
            return type(given)([lower(g) for g in given])
        if isinstance(given, torch.device):
            return torch.device("cpu")
        if not is_sim(given):
            return given
        cpu = to_cpu(given)
        shared[cpu.untyped_storage()._cdata] = given
        pairs.append((given, cpu))
        return cpu

    made = _computed(op, [lower(a) for a in args], {name: lower(a) for name, a in kwargs.items()})
    lower = None  # it knows itself: what it holds would live until the next garbage collection
    for sim, cpu in pairs if kind.mutable else ():
        _follow(sim, cpu)

    def lift(cpu: Any, written: bool) -> Any:
        if isinstance(cpu, (list, tuple)):
            return type(cpu)([lift(c, written) for c in cpu])
        if not isinstance(cpu, Tensor):
            return cpu
        if written:
            return next(sim for sim, own in pairs if own is cpu)
        source = shared.get(cpu.untyped_storage()._cdata)
        return to_sim(cpu, None if source is None else source.untyped_storage())

    lifted: Any = None
    if len(kind.written) == 1:
        lifted = lift(made, kind.written[0])
    elif kind.written:
        lifted = tuple(lift(m, w) for m, w in zip(made, kind.written))
    lift = None
    return lifted


def _follow(sim: Tensor, cpu: Tensor) -> None:
    """An operation may resize what it writes to: the device's tensor gets the same bytes and shape."""
    block, now = sim.untyped_storage()._block, cpu.untyped_storage()
    if now.data_ptr() != sim.untyped_storage().data_ptr() or now._cdata != block.bytes._cdata:
        data = storage(Block(now))
    elif sim.size() != cpu.size() or sim.stride() != cpu.stride():
        data = sim.untyped_storage()
    else:
        return
    target = aten.set_.source_Storage_storage_offset
    target.redispatch(_CPU, sim, data, cpu.storage_offset(), cpu.size(), cpu.stride())


# 16-bit types


def _computed(op: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The CPU's result; the heavy operations take 16-bit tensors in fp32 and round."""
    half = next((a.dtype for a in args if isinstance(a, Tensor) and a.dtype in _HALF), None)
    if op not in _HEAVY or half is None:
        return op(*args, **kwargs)
    made = op(*[a.float() if isinstance(a, Tensor) and a.dtype in _HALF else a for a in args], **kwargs)
    if isinstance(made, Tensor):
        return made.to(half)
    statistics = op in _WITH_STATISTICS  # fp32 on a card: mean and rstd, logsumexp
    return tuple(m if m is None or (statistics and i) else m.to(half) for i, m in enumerate(made))


_ATTENTION = aten._scaled_dot_product_flash_attention_for_cpu
_ATTENTION_BACK = aten._scaled_dot_product_flash_attention_for_cpu_backward
_WITH_STATISTICS = {aten.native_layer_norm.default, aten.native_group_norm.default, _ATTENTION.default}
_HEAVY = {aten.native_layer_norm_backward.default, aten.native_group_norm_backward.default, *_WITH_STATISTICS}
_HEAVY |= {
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.baddbmm.default,
    aten.convolution.default,
}
_HEAVY |= {aten.convolution_backward.default, _ATTENTION_BACK.default}


# What is not left to `run` as it comes


def _empty(
    size: Any,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> Tensor:
    return to_sim(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format))


def _empty_strided(
    size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> Tensor:
    return to_sim(torch.empty_strided(size, stride, dtype=dtype))


def _copy(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    (to_cpu(target) if is_sim(target) else target).copy_(to_cpu(source) if is_sim(source) else source)
    return target


def _to_copy(
    source: Tensor,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    non_blocking: bool = False,
    memory_format: Any = None,
) -> Tensor:
    made = torch.empty_like(source, dtype=dtype, device=device, memory_format=memory_format)
    return made.copy_(source)


def _resize(sim: Tensor, size: Sequence[int], memory_format: Any = None) -> Tensor:
    cpu = to_cpu(sim)
    needed = torch.empty(size, dtype=sim.dtype, device="meta").untyped_storage().nbytes()
    if needed + cpu.storage_offset() * cpu.element_size() > cpu.untyped_storage().nbytes():
        grown = torch.empty(size, dtype=sim.dtype)
        kept = min(cpu.numel(), grown.numel())
        grown.view(-1)[:kept].copy_(cpu.reshape(-1)[:kept])
        cpu = grown
    else:
        cpu = cpu.resize_(size)
    _follow(sim, cpu)
    return sim


def _set(
    sim: Tensor, source: Any = None, offset: int | None = None, size: Any = None, stride: Any = ()
) -> Tensor:
    if isinstance(source, Tensor):
        offset, size, stride = source.storage_offset(), source.size(), source.stride()
        source = source.untyped_storage()
    elif source is None:
        source = storage(Block(torch.empty(0).untyped_storage()))
    if size is None:
        offset, size = 0, (source.nbytes() // sim.element_size(),)
    aten.set_.source_Storage_storage_offset.redispatch(_CPU, sim, source, offset, size, stride)
    return sim


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, *how: Any) -> Tensor:
    return run(aten.convolution.default, x, weight, bias, *how)


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, *how: Any) -> Any:
    transposed, groups = how[3], how[5]
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    return run(aten.convolution_backward.default, grad, x, weight, [channels], *how)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    dropout: float = 0.0,
    causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Without the matrix of all weights, as a card's kernels, where the CPU has such a kernel."""
    plain = q.dim() == k.dim() == v.dim() == 4 and q.shape[-1] == v.shape[-1] and q.shape[1] == k.shape[1]
    if (
        not plain
        or dropout
        or enable_gqa
        or (mask is not None and (mask.requires_grad or mask.dim() not in (2, 4)))
    ):
        given = {"scale": scale, "enable_gqa": enable_gqa}
        return aten._scaled_dot_product_attention_math(q, k, v, mask, dropout, causal, **given)[0]
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))  # the CPU's kernel does not ask
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf)
    elif mask is not None:
        mask = mask.to(q.dtype)
    return _ATTENTION(q, k, v, 0.0, causal, attn_mask=mask, scale=scale)[0]


def _view_of(op: Any) -> Callable[..., Tensor]:
    """A view needs no kernel: the CPU's code makes one of any device."""
    return lambda *args: op.redispatch(_CPU, *args)


def _data_across_devices() -> None:
    """`parameter.data = tensor` takes a tensor of another device here too, and so module.to keeps its Parameters."""
    plain, compatible = torch._C.TensorBase.data, torch._has_compatible_shallow_copy_type

    def put(self: Tensor, value: Tensor) -> None:
        if is_sim(self) == is_sim(value):
            plain.__set__(self, value)
        else:
            torch._C._swap_tensor_impl(self, value.detach().requires_grad_(self.requires_grad))

    def either(input: Tensor, from_: Tensor) -> bool:  # named as in torch: torch._dynamo compares signatures
        return compatible(input, from_) or is_sim(input) != is_sim(from_)

    torch.Tensor.data = property(plain.__get__, put)
    torch._has_compatible_shallow_copy_type = either


def _storages_are_copied() -> None:
    """copy.deepcopy of a tensor copies its storage, for which torch knows no allocator of this device."""
    plain = torch.UntypedStorage.clone

    def clone(self: torch.UntypedStorage) -> torch.UntypedStorage:
        if self.device.type != "sim":
            return plain(self)
        if self._block.use:
            self._block.use()
        return storage(Block(self._block.bytes.clone()))

    torch.UntypedStorage.clone = clone


class _Backend:
    """The module torch.sim."""

    def is_available(self) -> bool:
        return True

    is_initialized = is_available

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None: ...

    synchronize = set_device

    def empty_cache(self) -> None: ...

    def memory_allocated(self, device: Any = None) -> int:
        return memory.current

    memory_reserved = memory_allocated

    def max_memory_allocated(self, device: Any = None) -> int:
        return memory.peak

    def reset_peak_memory_stats(self, device: Any = None) -> None:
        memory.reset_peak()

    def mem_get_info(self, device: Any = None) -> tuple[int, int]:
        return memory.total() - memory.current, memory.total()

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None: ...

    def get_rng_state(self, device: Any = None) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return list(_HALF)


def _register() -> list[torch.library.Library]:
    """The libraries live as long as what they register."""
    _setup_privateuseone_for_python_backend("sim", backend_module=_Backend())
    every = torch.library.Library("_", "IMPL")
    every.fallback(run, "PrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    for name, kernel in {
        "empty.memory_format": _empty,
        "empty_strided": _empty_strided,
        "_copy_from": _copy,
        "_to_copy": _to_copy,
        "resize_": _resize,
        "set_": _set,
        "set_.source_Tensor": _set,
        "set_.source_Storage": _set,
        "set_.source_Storage_storage_offset": _set,
        "convolution_overrideable": _convolution,
        "convolution_backward_overrideable": _convolution_backward,
        "scaled_dot_product_attention": _attention,
        **{name: _view_of(getattr(aten, name).default) for name in ("view", "as_strided", "_reshape_alias")},
    }.items():
        own.impl(name, kernel, "PrivateUse1")
    own.impl("scaled_dot_product_attention", _attention, "AutogradPrivateUse1")
    for op in _not_taken_apart():
        own.impl(op.name(), partial(run, op), "PrivateUse1")
    return [every, own]


def _not_taken_apart() -> Iterator[Any]:
    """Operations that torch would do in smaller ones for a device without a kernel of them, as no card does."""
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    for name in torch._C._dispatch_get_all_op_names():
        space, _, rest = name.partition("::")
        packet, _, overload = rest.partition(".")
        if space == "aten" and has_kernel(name, "CompositeExplicitAutogradNonFunctional"):
            yield getattr(getattr(aten, packet), overload or "default")
    yield from (getattr(aten, name).default for name in ("native_layer_norm", "native_group_norm"))


_libraries = _register()
_data_across_devices()
_storages_are_copied()
DEVICE = torch.device("sim", 0)
