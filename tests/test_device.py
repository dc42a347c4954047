"""rechar_core.device: which type and how much memory, on devices that this machine need not have."""

from __future__ import annotations

import types

import psutil
import pytest
import torch

from rechar_core import device
from rechar_core.device import float_named, free_memory, in_ram, render_precision, training_precision

GIB = 2**30


def test_seeds_go_round_where_torchs_end():
    torch.Generator().manual_seed(device.MOST_SEED)
    with pytest.raises((RuntimeError, ValueError)):
        torch.Generator().manual_seed(device.MOST_SEED + 1)
    assert [device.next_seed(device.MOST_SEED, n) for n in (0, 1, 2)] == [device.MOST_SEED, 0, 1]


def card(monkeypatch, name="NVIDIA GeForce RTX 3060", capability=(8, 6), arch=None, **memory):
    """What torch.cuda would say of such a card; arch: an AMD card's."""
    module = types.SimpleNamespace(
        get_device_name=lambda _: name,
        get_device_capability=lambda _: capability,
        get_device_properties=lambda _: types.SimpleNamespace(
            gcnArchName=arch, total_memory=memory.get("total", 0)
        ),
        memory_reserved=lambda _: memory.get("reserved", 0),
        memory_allocated=lambda _: memory.get("allocated", 0),
    )
    if "free" in memory:
        module.mem_get_info = lambda _: (memory["free"], memory["total"])
    monkeypatch.setattr(device, "_module", lambda _: module)
    for method in ("get_device_capability", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, method, getattr(module, method))
    monkeypatch.setattr(torch.version, "hip", "6.4" if arch else None)
    return torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("about", "training", "drawing"),
    [
        ({}, "bf16", "fp16"),
        ({"name": "NVIDIA GeForce RTX 2080", "capability": (7, 5)}, "fp16", "fp16"),
        ({"name": "NVIDIA GeForce GTX 1660 SUPER", "capability": (7, 5)}, "no", "fp32"),
        ({"name": "Quadro T1000", "capability": (7, 5)}, "no", "fp32"),
        ({"name": "NVIDIA GeForce GTX 1080", "capability": (6, 1)}, "fp16", "fp16"),
        ({"name": "AMD Radeon RX 7900 XTX", "arch": "gfx1100"}, "bf16", "fp16"),
        ({"name": "AMD Radeon RX 6800", "arch": "gfx1030"}, "fp16", "fp16"),
        ({"name": "AMD Instinct MI300X", "arch": "gfx942:sramecc+:xnack-"}, "bf16", "fp16"),
    ],
)
def test_precision_of_each_kind_of_card(monkeypatch, about, training, drawing):
    """A failure means pictures or losses of NaN on that card, or a base of twice the size that it need be."""
    it = card(monkeypatch, **about)
    assert (training_precision(it), render_precision(it)) == (training, drawing)


@pytest.mark.parametrize(
    ("kind", "release", "training", "drawing"),
    [
        ("cpu", "", "no", "fp32"),
        ("xpu", "", "bf16", "fp16"),
        ("mps", "15.2", "bf16", "fp16"),
        ("mps", "13.6", "no", "fp16"),
        ("meta", "", "no", "fp32"),
    ],
)
def test_precision_elsewhere(monkeypatch, kind, release, training, drawing):
    monkeypatch.setattr(device.platform, "mac_ver", lambda: (release, ("", "", ""), ""))
    it = torch.device(kind)
    assert (training_precision(it), render_precision(it)) == (training, drawing)


def test_the_names_of_precisions_are_those_of_recipes_and_of_options():
    assert [float_named(n) for n in ("no", "fp32", "fp16", "bf16")] == [
        torch.float32,
        torch.float32,
        torch.float16,
        torch.bfloat16,
    ]


def test_what_torch_holds_unused_counts_as_free(monkeypatch):
    """A failure means that a second training on the same card is thought to have less memory than the first."""
    it = card(monkeypatch, free=2 * GIB, total=8 * GIB, reserved=5 * GIB, allocated=1 * GIB)
    assert free_memory(it) == 6 * GIB
    it = card(monkeypatch, total=8 * GIB, reserved=5 * GIB, allocated=1 * GIB)  # a driver that does not tell
    assert free_memory(it) == 7 * GIB


def test_a_cpu_and_a_mac_have_what_ram_is_available(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: types.SimpleNamespace(available=6 * GIB))
    assert free_memory(torch.device("cpu")) == 6 * GIB
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 5 * GIB, raising=False)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1 * GIB)
    assert free_memory(torch.device("mps")) == 4 * GIB
    assert [in_ram(torch.device(kind)) for kind in ("cpu", "mps", "cuda", "xpu")] == [
        True,
        True,
        False,
        False,
    ]


def test_the_peak_of_a_cpu_is_that_of_the_process():
    """A failure means that the log of a training is a thousand times off: systems count in bytes or in kilobytes."""
    now = psutil.Process().memory_info().rss
    assert 0.9 * now < device.peak_memory(torch.device("cpu")) < 20 * now
