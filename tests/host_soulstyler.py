"""Run by the host's Python, not by pytest: what the pack imports by itself, and what a run leaves behind.

    python host_soulstyler.py PACK FOLDER      in a ComfyUI checkout's folder; FOLDER: a base with tiny models

Prints JSON: modules that loading the pack imported of the heavy kind, those after each node ran, and whether the
global random generators are as they were.
"""

import asyncio
import importlib.util
import json
import random
import sys

from in_host import PACK, start

start()

import comfy_api.latest  # noqa: E402, F401  what a running host has imported before any pack
import numpy  # noqa: E402
import torch  # noqa: E402

import nodes  # noqa: E402, F401

HEAVY = ("transformers.models.", "diffusers", "accelerate", "peft", "scipy.", "uharfbuzz")


def heavy():
    return {name for name in sys.modules if name.startswith(HEAVY)}


def load():
    """The pack as the host loads it, from its own __init__, and its nodes by id."""
    del sys.modules["rechar-pack.nodes"]
    spec = importlib.util.spec_from_file_location(
        "rechar-pack", PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["rechar-pack"] = module
    spec.loader.exec_module(module)
    extension = asyncio.run(module.comfy_entrypoint())
    return {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def state():
    return torch.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()


def main():
    before = heavy()
    found = load()
    about = {"loading": sorted(heavy() - before)}
    image, mask = torch.rand(1, 48, 56, 3), torch.zeros(1, 48, 56)
    mask[:, 12:36, 12:40] = 1
    found["SoulstylerInstruction"].execute("Turn the red car into lace", "rules")
    about["instruction"] = sorted(heavy() - before)
    seg = found["SoulstylerLoadSegmenter"].execute("clipseg-rd64-refined")[0]
    models = {name.split(".")[2] for name in heavy() - before if name.startswith("transformers.models.")}
    about["segmenter"] = sorted(models & {"clipseg", "grounding_dino", "sam2"})
    states = state()
    search = {"threshold": 0.05, "grow": 0, "feather": 0, "on_empty": "error"}
    named = {"image": image, "segmenter": seg, "object_name": "car"}
    about["found"] = bool(found["SoulstylerMask"].execute(**named, **search)[1])
    guide = found["SoulstylerLoadGuide"].execute("clip-vit-base-patch32", "vgg19.safetensors")[0]
    recipe = {"t": 0.7, "steps": 2, "learning_rate": 5e-4, "crops": 4, "crop_size": 16, "resolution": 48}
    wires = {"guide": guide, "image": image, "mask": mask}
    found["SoulstylerOptimise"].execute(**wires, style_text="cubism", keep_outside=True, seed=1, **recipe)
    few = {"t": 0.7, "steps": 1, "crops": 4, "resolution": 48}
    found["SoulstylerSweep"].execute(**wires, styles="cubism", seeds="0, 1", **few)
    about["generators"] = state() == states
    print(json.dumps(about))


with torch.inference_mode():  # as in a node
    main()
