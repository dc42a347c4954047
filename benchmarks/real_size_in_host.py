"""Run by ComfyUI's Python in its folder, by real_size.py: a checkpoint's keys, its weights, two steps of training.

python real_size_in_host.py PACK BASE CHECKPOINT PIXELS
"""

import importlib
import logging
import sys
import types
from pathlib import Path

PACK, BASE, CHECKPOINT, PIXELS = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
sys.argv = ["main.py", "--cpu", "--bf16-unet", "--base-directory", BASE]
sys.path[:0] = ["."]

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import torch  # noqa: E402

for name, folder in (("rechar-pack", PACK), ("rechar-pack.nodes", PACK / "nodes")):
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def part(name):
    return importlib.import_module(f"rechar-pack.{name}")


class Said(logging.Handler):
    """Keeps what the host says of keys."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        text = record.getMessage()
        if any(word in text.lower() for word in ("missing", "unexpected", "left over", "no match")):
            self.lines.append(text[:300])


def loaded():
    import comfy.sd

    said = Said()
    logging.getLogger().addHandler(said)
    logging.getLogger().setLevel(logging.DEBUG)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(CHECKPOINT))
    logging.getLogger().setLevel(logging.INFO)
    print("the host says of keys:", *(said.lines or ["nothing"]), sep="\n  ", flush=True)
    return model, clip, vae


def compare(model):
    """Every weight of the UNet, dequantised by the host, with ours of the same file."""
    layout, stored = part("rechar_core.standalone.sdxl_layout"), part("rechar_core.standalone.stored")
    storage = part("rechar_core.storage")
    unet, unequal = model.model.diffusion_model, []
    with storage.opened(CHECKPOINT) as reader:
        about = stored.examine(CHECKPOINT.name, reader, layout.checkpoint())
        for key, shape in layout.unet().items():
            theirs = unet.get_parameter(key)
            theirs = (
                theirs.dequantize() if hasattr(theirs, "dequantize") and hasattr(theirs, "_qdata") else theirs
            )
            ours = stored.read(reader, about, layout.UNET + key, shape, torch.bfloat16)
            close = (theirs.detach().float() - ours.float()).abs().max() <= 2**-7 * ours.float().abs().max()
            unequal += [] if bool(close) else [key]
    print(f"UNet: {len(layout.unet())} weights compared, {len(unequal)} differ {unequal[:3]}", flush=True)


def train(model, clip, vae):
    recipe = part("rechar_core.training.recipe").TrainingRecipe(
        rank=8, steps=2, resolution=PIXELS, prompt="A [c]"
    )
    picture = torch.rand(1, PIXELS, PIXELS, 3, generator=torch.Generator().manual_seed(0))
    (trained,) = part("nodes.host.training").train(model, clip, vae, picture, recipe)
    print(f"trained: losses {trained.losses}, {len(trained.blora.pairs)} layers", flush=True)


torch.set_num_threads(1)
with torch.inference_mode():
    objects = loaded()
    compare(objects[0])
    train(*objects)
