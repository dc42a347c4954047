"""The demo model: a tiny SDXL, trained by us, to try B-LoRA on a CPU. Its training code is in demo/."""

from .build import SAMPLES, DemoModel, demo_state, load_demo

__all__ = ["SAMPLES", "DemoModel", "demo_state", "load_demo"]
