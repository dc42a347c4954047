"""Reading LoRA keys: seconds for 100,000 keys, and how many times that of an earlier commit, in one run.

    python -m benchmarks.keys [--base 970fc76]

Needs the repository's history. The keys: full SDXL LoRAs in nine layouts, whose layers lie inside and outside the two
blocks, and as many text-encoder keys as such files have. Best of five, the two versions in turn.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rechar_core.lora import key_formats

ROOT = Path(__file__).resolve().parent.parent
_LAYOUTS = (
    ("lora_unet_", "_", True, (".lora_down.weight", ".lora_up.weight", ".alpha")),
    ("lora_unet_", "_", False, (".lora_down.weight", ".lora_up.weight", ".alpha")),
    ("diffusion_model.", ".", False, (".lora_down.weight", ".lora_up.weight", ".alpha")),
    ("lycoris_", "_", True, (".lokr_w1", ".lokr_w2_a", ".lokr_w2_b", ".alpha")),
    ("unet.", ".", True, (".lora.down.weight", ".lora.up.weight")),
    ("unet.unet.", ".", True, (".lora.down.weight", ".lora.up.weight")),
    ("unet.", ".", True, (".lora_A.weight", ".lora_B.weight")),
    ("base_model.model.", ".", True, (".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector")),
    ("", ".", True, (".lora_A.default.weight", ".lora_B.default.weight")),
)
# Attention of SDXL's UNet: (diffusers path, ComfyUI path, transformer blocks)
_ATTENTIONS = (
    *((f"down_blocks.1.attentions.{i}", f"input_blocks.{4 + i}.1", 2) for i in range(2)),
    *((f"down_blocks.2.attentions.{i}", f"input_blocks.{7 + i}.1", 10) for i in range(2)),
    ("mid_block.attentions.0", "middle_block.1", 10),
    *((f"up_blocks.0.attentions.{i}", f"output_blocks.{i}.1", 10) for i in range(3)),
    *((f"up_blocks.1.attentions.{i}", f"output_blocks.{3 + i}.1", 2) for i in range(3)),
)
_LAYERS = tuple(f"attn{a}.to_{x}" for a in (1, 2) for x in ("q", "k", "v", "out.0"))


def keys(number: int) -> list[str]:
    """So many keys, distinct as far as the layouts have them, then again from the first."""
    found = []
    for prefix, separator, diffusers, endings in _LAYOUTS:
        for path, host, depth in _ATTENTIONS:
            for block, layer in itertools.product(range(depth), _LAYERS):
                module = f"{path if diffusers else host}.transformer_blocks.{block}.{layer}"
                found += [prefix + module.replace(".", separator) + ending for ending in endings]
    for layer, ending in itertools.product(range(32), (".lora_down.weight", ".lora_up.weight", ".alpha")):
        found += [f"lora_te2_text_model_encoder_layers_{layer}_mlp_fc{n}{ending}" for n in (1, 2)]
    return list(itertools.islice(itertools.cycle(found), number))


def earlier_parse(commit: str) -> Callable[[str], Any]:
    """`parse` of an earlier commit, from its own rechar_core/keys.py and rechar_core/blocks.py. Raises SystemExit."""
    package = types.ModuleType("earlier")
    package.__path__ = []
    sys.modules["earlier"] = package
    for name in ("blocks", "keys"):
        shown = subprocess.run(
            ["git", "show", f"{commit}:rechar_core/{name}.py"], cwd=ROOT, capture_output=True, check=False
        )
        if shown.returncode:
            raise SystemExit(shown.stderr.decode().strip())
        module = types.ModuleType(f"earlier.{name}")
        module.__package__ = "earlier"
        sys.modules[module.__name__] = module
        exec(compile(shown.stdout, f"{commit}:{name}.py", "exec"), module.__dict__)
    parse: Callable[[str], Any] = sys.modules["earlier.keys"].parse
    return parse


def seconds(parse: Callable[[str], Any], given: list[str]) -> float:
    start = time.process_time()
    for key in given:
        parse(key)
    return time.process_time() - start


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--base", default="970fc76", help="the commit to compare with")
    options.add_argument("--number", type=int, default=100_000, help="how many keys")
    given = options.parse_args()
    earlier, many = earlier_parse(given.base), keys(given.number)
    both = [(seconds(earlier, many), seconds(key_formats.parse, many)) for _ in range(5)]
    before, now = (min(times) for times in zip(*both, strict=True))
    print(f"{given.number} keys: {given.base} {before:.2f} s, now {now:.2f} s, {now / before:.2f} of it")


if __name__ == "__main__":
    main()
