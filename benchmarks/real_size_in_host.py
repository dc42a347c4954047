"""Run by ComfyUI's Python in its folder, by real_runs.py: what its loader says of a checkpoint, and what is trained on.

python real_size_in_host.py PACK BASE CHECKPOINT {bf16 | fp16 | fp32} [ComfyUI's options]
"""

import importlib
import logging
import sys
import time
import types
from pathlib import Path

PACK, BASE, CHECKPOINT, TYPE = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4]
sys.argv = ["main.py", "--cpu", *sys.argv[5:], "--base-directory", BASE]
sys.path[:0], sys.path[len(sys.path) :] = ["."], [str(PACK)]  # behind the host's own modules: for benchmarks

import comfy.options  # noqa: E402
import utils  # noqa: E402, F401  as main.py does, before nodes.py puts comfy/ in front, which has another one

comfy.options.enable_args_parsing()

import torch  # noqa: E402

for name in ("", ".nodes"):
    package = types.ModuleType(f"rechar-pack{name}")
    package.__path__ = [str(PACK / name[1:])]
    sys.modules[package.__name__] = package

# CLIP-L of SDXL has neither, in sd_xl_base_1.0 too; position_ids are counted out; v_pred and ztsnr are markers, read
# before. The rest is what real_checkpoint.py adds to scaled-fp8 as junk of merged files.
EXPECTED = (
    "clip missing: ['clip_l.logit_scale', 'clip_l.transformer.text_projection.weight']",
    "clip unexpected ['clip_l.transformer.text_model.embeddings.position_ids']:",
    "Leftover VAE keys ['loss.logvar']",
    "left over keys: dict_keys(['v_pred', 'ztsnr'])",
    "left over keys: dict_keys(['model_ema.decay'])",
)


def part(name):
    return importlib.import_module(f"rechar-pack.{name}")


class Said(logging.Handler):
    """Keeps what the host says of keys."""

    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        text = record.getMessage()
        if any(
            word in text.lower() for word in ("missing", "unexpected", "left over", "leftover", "no match")
        ):
            self.lines.append(text[:300])


def loaded():
    """The host's MODEL, computing in TYPE, and the number of keys that it misses or does not know."""
    import comfy.sd

    logging.root.setLevel(logging.DEBUG)
    for handler in logging.root.handlers:
        handler.setLevel(logging.WARNING)
    said, started = Said(), time.perf_counter()
    logging.root.addHandler(said)
    model = comfy.sd.load_checkpoint_guess_config(str(CHECKPOINT))[0]
    logging.root.removeHandler(said)
    model.set_model_compute_dtype({"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}[TYPE])
    missed = [line for line in said.lines if line not in EXPECTED]
    print(
        f"the host loads it in {time.perf_counter() - started:.0f} s, {model.model.model_type.name}; of keys it says:"
    )
    print(
        *(f"  {line}{'  <--' * (line in missed)}" for line in said.lines or ["nothing"]), sep="\n", flush=True
    )
    return model, len(missed)


def unequal(model):
    """How many of the UNet's weights, while we train on them, are not the file's, dequantised by its definition."""
    layout, value = (
        part("rechar_core.backend.sdxl_layout"),
        importlib.import_module("benchmarks.real_checkpoint").value,
    )
    storage, host = part("rechar_core.storage"), part("nodes.host.denoiser")
    found = []
    with host.trainable(model) as denoiser, storage.opened(CHECKPOINT) as reader:
        denoiser.load()
        dtype = host.computed_in(model)
        for key, shape in layout.unet().items():
            ours = model.model.diffusion_model.get_parameter(key)
            wanted = value(reader, layout.UNET + key).to(dtype).reshape(shape)
            found += [] if ours.dtype == dtype and ours.equal(wanted) else [key]
    parameters = sum(1 for _ in model.model.diffusion_model.parameters())
    print(
        f"UNet: {len(layout.unet())} of {parameters} weights compared in {dtype}, {len(found)} differ {found[:3]}"
    )
    return len(found) + abs(parameters - len(layout.unet()))


with torch.inference_mode():
    MODEL, MISSED = loaded()
    WRONG = unequal(MODEL)
peak = importlib.import_module("benchmarks.measure").resident("VmHWM")
print(f"at most {peak / 1e9:.1f} GB resident, with the file's own pages", flush=True)
sys.exit(1 if MISSED or WRONG else 0)
