"""A ComfyUI host on the simulated card, in the running process: its own code loads, casts and samples there.

A script that the host's Python runs (see tests/in_host.py) calls `start` before it imports anything of comfy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import aimdo, cuda, device, launch

# Keys that hosts newer than 0.33 have in a dynamic patcher's pin state beside those of 0.33.
NEWER_PINS = ("weights-fast", "patches-fast")


def prepare(dynamic: bool, limit: int | None = None) -> None:
    """The card for a host that is started after this. limit: of its memory, in bytes."""
    device.memory.limit = limit
    cuda.pretend()
    if dynamic:
        aimdo.install()


def finish() -> Any:
    """What can only be answered once comfy.model_management is there, which is returned."""
    import comfy.model_management as management

    if hasattr(management, "STREAMS"):
        management.STREAMS[device.DEVICE] = [cuda.Stream(), cuda.Stream()]  # as many as on an NVIDIA card
    if hasattr(
        management, "get_all_torch_devices"
    ):  # else unload_all_models looks for models on "cuda" alone
        management.get_all_torch_devices = lambda exclude_current=False: (
            [] if exclude_current else [device.DEVICE]
        )
    return management


def start(*options: str, dynamic: bool, limit: int | None = None, newer_pins: bool = False) -> Any:
    """ComfyUI importable and set up for the card, with its dynamic VRAM or without: comfy.model_management.

    newer_pins: with the keys of hosts newer than 0.33 in the pin states.
    """
    import in_host

    prepare(dynamic, limit)
    in_host.start(*options, *([] if dynamic else launch.plain(Path())), cpu=False)
    management = finish()
    if dynamic:
        _as_main_does(newer_pins)
    return management


def _as_main_does(newer_pins: bool) -> None:
    import comfy.memory_management
    import comfy.model_patcher
    import comfy_aimdo.control

    comfy_aimdo.control.init()
    assert comfy_aimdo.control.init_devices([device.DEVICE.index])
    dynamic = comfy.model_patcher.ModelPatcherDynamic
    comfy.model_patcher.CoreModelPatcher = dynamic
    comfy.memory_management.aimdo_enabled = True
    if not newer_pins:
        return
    register = dynamic.register_load_device

    def with_newer(self: Any, where: Any) -> None:
        import comfy_aimdo.host_buffer

        register(self, where)
        for key in NEWER_PINS:
            pins = (comfy_aimdo.host_buffer.HostBuffer(0, 0, 0), [], [-1], [0], [0], {})
            self.model.dynamic_pins[where].setdefault(key, pins)
        self.model.dynamic_pins[where].setdefault("fast_disk", False)

    dynamic.register_load_device = with_newer
