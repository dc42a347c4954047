"""What a section of the GPU benchmark is given, and the model that all of them measure with."""

from __future__ import annotations

import gc
import json
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rechar_core.device import empty_cache, ran_out
from rechar_core.images import fit, read

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline
    from torch import Tensor

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "rechar_core" / "demo" / "samples"
GLYPH, STYLE = SAMPLES / "glyph_han.png", SAMPLES / "style_a.png"

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much is done. group: steps between two looks at the clock; groups: of them, the first to warm up.

    Memory mode low computes 16 steps' prefixes at once: only whole groups of 16 tell what its step costs.
    drawn: pictures with the LoRA and without. matrix: side of the largest matrix product.
    recipes: what is trained from start to end, with other steps than its own if not 0. parts: changes of SDXL's
    configuration, by part.
    """

    name: str
    pixels: int
    rank: int
    groups: int
    draw_steps: int
    drawn: int
    matrix: int
    recipes: Mapping[str, int]
    group: int = 16
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_SMALL_ENCODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
SIZES = {
    "sdxl": Size("sdxl", 1024, 64, 4, 30, 3, 8192, {"quick": 0, "b-lora": 0}),
    # only to know that the benchmark itself works
    "small": Size(
        "small",
        *(64, 4, 2, 2, 1, 64, {"quick": 2}, 1),
        parts={
            "unet": {
                "block_out_channels": [32, 64, 64],
                "attention_head_dim": [2, 4, 4],
                "transformer_layers_per_block": [1, 1, 1],
                "cross_attention_dim": 64,
                "projection_class_embeddings_input_dim": 32 + 6 * 256,
            },
            "vae": {"block_out_channels": [32, 32, 32, 32], "layers_per_block": 1},
            "text_encoder": _SMALL_ENCODER,
            "text_encoder_2": {**_SMALL_ENCODER, "projection_dim": 32},
        },
    ),
}


class Task:
    """A section's work. ends: time.time() at which it should be done. known: the sections before, by name.

    launcher: what starts ComfyUI's main.py, if not tests/attached.py. out: the report's file.
    """

    def __init__(
        self,
        device: torch.device,
        size: Size,
        checkpoint: Path | None,
        ends: float,
        send: Callable[[str, Row], None],
        known: Mapping[str, Any],
        launcher: tuple[str, ...] = (),
        out: Path | None = None,
    ):
        self.device, self.size, self.checkpoint = device, size, checkpoint
        self.ends, self.send, self.known = ends, send, known
        self.launcher, self.out = launcher, out

    @property
    def left(self) -> float:
        """Seconds."""
        return self.ends - time.time()

    def measure(self, name: str, seconds: float, work: Callable[[], Row]) -> Row | None:
        """Hands in what `work` gives as the row `name`, or why there is nothing: its result, None without one.

        seconds: what it takes at least; with less time left it is not begun. Running out of memory, or any other
        error, is a row as well.
        """
        if self.left < seconds:
            self.send(name, {"skipped": f"{self.left:.0f} s were left, it takes about {seconds:.0f} s"})
            return None
        row, found = None, {}
        try:
            row = found = work()
        except Exception as error:  # whatever it is, the other rows are worth having
            short = isinstance(error, RuntimeError) and ran_out(error)
            if not short:
                traceback.print_exc()
            text = str(error).strip().splitlines()
            kind = "out_of_memory" if short or "memory ran out" in str(error) else "error"
            found = {kind: f"{type(error).__name__}: {text[0][:300] if text else ''}"}
        self.send(name, found)
        gc.collect()
        empty_cache(self.device)
        return row

    def wait(self) -> None:
        """Until the device has done all it was given."""
        torch.get_device_module(self.device.type).synchronize()

    def clock(self) -> float:
        """Seconds, when the device has done all it was given."""
        self.wait()
        return time.perf_counter()

    def picture(self, path: Path) -> Tensor:
        """IMAGE (1, H, W, 3) at the size's resolution."""
        return fit(read(path), self.size.pixels)

    def pipeline(self, dtype: torch.dtype) -> StableDiffusionXLPipeline:
        """The checkpoint's, or SDXL with random weights; on the CPU, where `train` loads it too."""
        if self.checkpoint is None:
            return random_pipeline(self.device, dtype, self.size.parts)
        from rechar_core.backend.pipeline import load

        return load(str(self.checkpoint), dtype, torch.device("cpu"))


def random_pipeline(
    device: torch.device, dtype: torch.dtype, changes: Mapping[str, Mapping[str, Any]]
) -> StableDiffusionXLPipeline:
    """SDXL's layout with random weights, which `device` draws in seconds; then on the CPU. The VAE is in fp32."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    from rechar_core.backend.pipeline import cast
    from rechar_core.backend.single_file import CONFIG
    from rechar_core.synthesis.tokenizer import tokenizers

    def config(part: str) -> dict[str, Any]:
        return json.loads((CONFIG / part / "config.json").read_text(encoding="utf-8")) | {
            **changes.get(part, {})
        }

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    with torch.device(device):
        vae = AutoencoderKL.from_config(config("vae"))
        try:
            torch.set_default_dtype(dtype)
            unet = UNet2DConditionModel.from_config(config("unet"))
            first = CLIPTextModel(CLIPTextConfig(**config("text_encoder")))
            second = CLIPTextModelWithProjection(CLIPTextConfig(**config("text_encoder_2")))
        finally:
            torch.set_default_dtype(before)
    words = dict(zip(("tokenizer", "tokenizer_2"), tokenizers(), strict=True))
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        unet=unet,
        scheduler=EulerDiscreteScheduler.from_pretrained(str(CONFIG), subfolder="scheduler"),
        **words,
        add_watermarker=False,
    )
    for part in (vae, unet, first, second):
        cast(part.eval().requires_grad_(False), torch.device("cpu"))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def note(text: str) -> None:
    """A line for whoever looks on."""
    print(text, file=sys.stderr, flush=True)
