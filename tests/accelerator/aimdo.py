"""The C library of comfy-aimdo on the simulated card's memory; the package's own Python code runs on it.

ComfyUI's dynamic VRAM keeps a model's weights in virtual memory of the card (a VBAR). A weight is faulted in before
each use and pinned; unpinned pages may be taken back at any allocation, those of the models used longest ago first,
from the end. Here they are then filled with NaN, and every misuse that would be silent or a crash on a card is kept in
`violations`: a weight read while it was not pinned, an object freed twice, or used after it was freed.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
import mmap
import os
from collections import Counter, deque
from typing import Any

import torch

from . import device
from .device import memory

FREED = 64  # regions that keep their spoilt memory
PAGE = 1 << 16  # 32 MB in the real library; small models need smaller ones
OOM = 1  # what vbar_fault answers where the weight has to be cast for this call alone
violations: list[str] = []
taken_back = 0  # bytes of weights, so far, because memory was short


def violation(text: str) -> RuntimeError:
    violations.append(text)
    return RuntimeError(f"comfy-aimdo (simulated): {text}")


class Region:
    """Address space that takes real memory only where it is written to; never unmapped, so that a late use is seen."""

    def __init__(self, size: int):
        size = max(size, PAGE)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self.map = mmap.mmap(-1, size, flags=flags)
        self.bytes = torch.frombuffer(self.map, dtype=torch.uint8)
        self.size, self.base, self.freed = size, self.bytes.data_ptr(), False
        _regions.append(self)

    def spoil(self, offset: int, size: int) -> None:
        """Whatever type is read here, it is NaN, or -1."""
        ctypes.memset(self.base + offset, 0xFF, size)

    def check(self, offset: int, size: int) -> None:
        if self.freed:
            raise violation(f"memory of a {type(self).__name__} was used after it was freed")

    def free(self, used: int) -> None:
        """Spoil the first `used` bytes. Of what was freed long ago the real memory is given back: it reads as 0."""
        self.freed = True
        self.spoil(0, used)
        _freed.append(self)
        if len(_freed) > FREED:
            _freed.popleft().map.madvise(mmap.MADV_DONTNEED)


_regions: list[Region] = []
_freed: deque[Region] = deque()


class Vbar(Region):
    """A model's weights. serials: of the pages that are on the card, a new one whenever a page is loaded."""

    def __init__(self, size: int):
        super().__init__(size)
        self.serials: dict[int, int] = {}
        self.pins: Counter[int] = Counter()
        self.watermark = -(-self.size // PAGE)  # pages from here on are not loaded
        self.limit = 0

    @staticmethod
    def pages(offset: int, size: int) -> range:
        return range(offset // PAGE, -(-(offset + size) // PAGE))

    def check(self, offset: int, size: int) -> None:
        super().check(offset, size)
        if any(not self.pins[page] or page not in self.serials for page in self.pages(offset, size)):
            violation("a weight was used while the library could take its memory back")

    def load(self, page: int) -> None:
        """Raises: torch.OutOfMemoryError."""
        memory.take(PAGE)
        self.serials[page] = next(_serial)
        self.spoil(page * PAGE, min(PAGE, self.size - page * PAGE))

    def lower(self) -> int:
        """Take back the last page below the watermark: bytes freed."""
        self.watermark -= 1
        page = self.watermark
        if self.pins[page] or page not in self.serials:
            return 0
        self.drop(page)
        return PAGE

    def drop(self, page: int) -> None:
        del self.serials[page]
        self.spoil(page * PAGE, min(PAGE, self.size - page * PAGE))
        memory.give(PAGE)


_serial = itertools.count(1)


class VramBuffer(Region):
    """Where a weight is put together for one call."""

    taken = 0

    def grow(self, size: int) -> None:
        size = -(-size // PAGE) * PAGE
        if size > self.taken:
            memory.take(size - self.taken)
            self.taken = size


class HostBuffer(Region):
    """Memory of the CPU for copies of weights."""

    used = 0


class Mapped:
    """A file mapped into memory, which cannot be written to."""

    def __init__(self, path: bytes):
        self.file = open(path, "rb")  # noqa: SIM115 as long as the mapping
        with contextlib.suppress(UserWarning):
            self.bytes = torch.frombuffer(
                mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_READ), dtype=torch.uint8
            )


class Library:
    """The functions that comfy-aimdo 0.4 to 0.6 calls; a handle is a number, as a pointer would be."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}
        self._vbars: list[Vbar] = []  # lowest priority first
        self._handles = itertools.count(1000)
        for name in [n for n in dir(self) if not n.startswith("_")]:
            setattr(
                self, name, functools.partial(getattr(self, name))
            )  # takes .argtypes, as a function of ctypes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("set_log_"):
            return self.__dict__.setdefault(name, functools.partial(lambda *_: None))
        raise AttributeError(name)

    def _new(self, made: Any) -> int:
        handle = next(self._handles)
        self._objects[handle] = made
        return handle

    def _get(self, handle: int) -> Any:
        if handle not in self._objects:
            raise violation("an object was used after it was freed")
        return self._objects[handle]

    def _free(self, handle: int) -> Any:
        if handle not in self._objects:
            raise violation("an object was freed twice")
        return self._objects.pop(handle)

    # The library and its devices

    def init(self, devices: Any, headrooms: Any, count: int) -> bool:
        memory.reclaim = self._reclaim
        return True

    def get_devctx(self, number: int) -> int:
        return number + 1

    def plat_init(self) -> bool:
        return True

    def plat_cleanup(self) -> None: ...

    cleanup = plat_cleanup

    def set_simple_vram_headroom(self, size: int) -> None: ...

    set_nvml_pressure = aimdo_analyze = set_simple_vram_headroom

    def get_total_vram_usage(self, context: int) -> int:
        buffers = sum(made.taken for made in self._objects.values() if isinstance(made, VramBuffer))
        return self.vbars_analyze(context, False) + buffers

    # Weights

    def vbar_allocate(self, context: int, size: int, number: int) -> int:
        made = Vbar(size)
        self._vbars.append(made)
        return self._new(made)

    def vbar_get(self, context: int, handle: int) -> int:
        return self._get(handle).base

    def vbar_free(self, context: int, handle: int) -> None:
        bar = self._free(handle)
        self._vbars.remove(bar)
        for page in list(bar.serials):
            bar.drop(page)
        bar.free(0)

    def vbar_prioritize(self, context: int, handle: int, clamp: int = 0) -> None:
        bar = self._get(handle)
        self._vbars.remove(bar)
        self._vbars.append(bar)
        bar.watermark = -(-bar.size // PAGE)

    def vbar_deprioritize(self, context: int, handle: int) -> None:
        bar = self._get(handle)
        self._vbars.remove(bar)
        self._vbars.insert(0, bar)

    def vbar_fault(self, context: int, handle: int, offset: int, size: int, signature: Any) -> int:
        """The signature changes when one of the pages was loaded anew."""
        bar = self._get(handle)
        pages = bar.pages(offset, size)
        if pages.stop > bar.watermark:
            return OOM
        for page in pages:
            if page not in bar.serials:
                self._reclaim(memory.missing(PAGE))
                if pages.stop > bar.watermark:
                    return OOM
                try:
                    bar.load(page)
                except torch.OutOfMemoryError:
                    return OOM
        signature[0] = max(bar.serials[page] for page in pages)
        bar.pins.update(pages)
        return 0

    def vbar_unpin(self, context: int, handle: int, offset: int, size: int) -> None:
        bar = self._get(handle)
        for page in bar.pages(offset, size):
            bar.pins[page] = max(0, bar.pins[page] - 1)
            if not bar.pins[page] and page >= bar.watermark and page in bar.serials:
                bar.drop(page)

    def vbar_loaded_size(self, context: int, handle: int) -> int:
        return len(self._get(handle).serials) * PAGE

    def vbar_free_memory(self, context: int, handle: int, size: int) -> int:
        bar, freed = self._get(handle), 0
        while freed < size and bar.watermark > bar.limit:
            freed += bar.lower()
        return freed

    def vbar_set_watermark(self, context: int, handle: int, size: int) -> None:
        bar = self._get(handle)
        while bar.watermark > -(-size // PAGE):
            bar.lower()
        bar.watermark = min(-(-size // PAGE), -(-bar.size // PAGE))

    def vbar_set_watermark_limit(self, context: int, handle: int, size: int) -> None:
        self._get(handle).limit = -(-size // PAGE)

    def vbars_reset_watermark_limits(self, context: int) -> None:
        for bar in self._vbars:
            bar.limit = 0

    def vbar_get_nr_pages(self, context: int, handle: int) -> int:
        return -(-self._get(handle).size // PAGE)

    def vbar_get_watermark(self, context: int, handle: int) -> int:
        return self._get(handle).watermark

    def vbar_get_residency(self, context: int, handle: int, into: Any, count: int) -> None:
        bar = self._get(handle)
        for page in range(count):
            into[page] = (page in bar.serials) + 2 * bool(bar.pins[page])

    def vbars_analyze(self, context: int, only_dirty: bool) -> int:
        return sum(len(bar.serials) for bar in self._vbars) * PAGE

    def _reclaim(self, size: int) -> None:
        """Take back at least so many bytes, if there are as many that are not pinned."""
        global taken_back
        for bar in self._vbars:
            while size > 0 and bar.watermark > bar.limit:
                freed = bar.lower()
                size, taken_back = size - freed, taken_back + freed

    # Buffers on the card

    def vrambuf_create(self, number: int, size: int) -> int:
        return self._new(VramBuffer(size))

    def vrambuf_get(self, handle: int) -> int:
        return self._get(handle).base

    def vrambuf_grow(self, handle: int, size: int) -> bool:
        try:
            self._get(handle).grow(size)
        except torch.OutOfMemoryError:
            return False
        return True

    def vrambuf_destroy(self, handle: int) -> bool:
        buffer = self._free(handle)
        buffer.free(buffer.taken)
        memory.give(buffer.taken)
        return True

    # Buffers of the CPU

    def hostbuf_allocate(self, prewarm: int, size: int, mark_cold: bool) -> int:
        return self._new(HostBuffer(size))

    def hostbuf_free(self, handle: int) -> None:
        buffer = self._free(handle)
        buffer.free(buffer.used)

    def hostbuf_get_raw_address(self, handle: int) -> int:
        return self._get(handle).base

    def hostbuf_extend(self, handle: int, size: int, reallocate: bool, register: bool, added: Any) -> int:
        buffer = self._get(handle)
        if buffer.used + size > buffer.size:
            return 0
        buffer.used += size
        added._obj.value = size
        return buffer.base + buffer.used - size

    def hostbuf_truncate(self, handle: int, size: int, unregister: bool = True) -> bool:
        buffer = self._get(handle)
        buffer.spoil(size, max(0, buffer.used - size))
        buffer.used = size
        return True

    def hostbuf_register(self, handle: int, offset: int, size: int = 0) -> bool:
        return bool(self._get(handle))

    hostbuf_unregister = hostbuf_register

    def hostbuf_read_file_slice(
        self,
        handle: int,
        number: int,
        file: int,
        start: int,
        size: int,
        offset: int,
        stream: Any,
        address: int,
    ) -> bool:
        buffer = self._get(handle)
        buffer.used = max(buffer.used, offset + size)
        for target in filter(None, (buffer.base + offset, address)):
            ctypes.memmove(target, os.pread(file, size, start), size)
        return True

    def hostbuf_file_reader_read(
        self, number: int, file: int, start: int, size: int, stream: Any, address: int, mark_cold: bool
    ) -> bool:
        ctypes.memmove(address, os.pread(file, size, start), size)
        return True

    def hostbuf_file_reader_cleanup(self) -> None: ...

    # Mapped files

    def model_mmap_allocate(self, path: bytes) -> int:
        return self._new(Mapped(path))

    def model_mmap_get(self, handle: int) -> int:
        return self._get(handle).bytes.data_ptr()

    def model_mmap_get_file_handle(self, handle: int) -> int:
        return self._get(handle).file.fileno()

    def model_mmap_bounce(self, handle: int) -> bool:
        return bool(self._get(handle))

    def model_mmap_deallocate(self, handle: int) -> None:
        self._free(handle)


def to_tensor(allocation: tuple[Any, int, int], wanted: Any = None) -> torch.Tensor:
    """The bytes of an allocation (its owner, address, size) as a uint8 tensor of the card."""
    _, address, size = allocation
    region = next(r for r in reversed(_regions) if r.base <= address < r.base + r.size)
    offset = address - region.base
    data = torch.frombuffer(region.bytes.numpy()[offset : offset + size], dtype=torch.uint8).untyped_storage()
    use = functools.partial(region.check, offset, size)
    made = device.storage(device.Block(data, counted=False, use=use))
    return device.tensor(made, torch.uint8, 0, (size,), (1,))


def install() -> None:
    """Before anything imports ComfyUI: comfy-aimdo finds this library loaded."""
    import comfy_aimdo.control

    comfy_aimdo.control.lib = Library()
    import comfy_aimdo.torch

    comfy_aimdo.torch.aimdo_to_tensor = to_tensor
