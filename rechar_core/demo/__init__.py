"""The demo model: a tiny SDXL, trained by us, that makes B-LoRA visible on a CPU. How it is made: demo/."""

from .build import SAMPLES, DemoModel, demo_state, load_demo

__all__ = ["SAMPLES", "DemoModel", "demo_state", "load_demo"]
