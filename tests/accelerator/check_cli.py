"""`python -m rechar_core` train, generate and restyle on the simulated device: `python check_cli.py PACK FOLDER`.

What each writes is what the CPU writes, within rounding.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path

PACK, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
sys.path[0] = str(Path(__file__).parents[1])  # tests/
sys.path.append(str(PACK))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from accelerator import checking  # noqa: E402
from accelerator.device import DEVICE, memory  # noqa: E402
from rechar_core import files  # noqa: E402
from rechar_core.standalone.cli import main  # noqa: E402
from rechar_core.standalone.processes import processes  # noqa: E402

MODEL = Path(sys.path[0]) / "data" / "blora_tiny"
PLACES = {"cpu": torch.device("cpu"), "sim": DEVICE}


def command(place: str, *words: object) -> None:
    """Run a command on the CPU or on the card, which it must have used then."""
    processes().device = PLACES[place]
    gc.collect()
    memory.reset_peak()
    before = memory.peak
    assert main([str(word) for word in words]) == 0, words
    assert (memory.peak > before) == (place == "sim")


def trained(place: str, *options: str) -> torch.Tensor:
    """The LoRA's product of a short training."""
    made = FOLDER / place / "lora.safetensors"
    given = (
        "--model",
        MODEL / "model",
        "--image",
        MODEL / "structure.png",
        "--prompt",
        "A [v]",
        "--output",
        made,
    )
    small = "--rank", 4, "--steps", 3, "--resolution", 64, "--learning-rate", 1e-3, "--fresh"
    command(place, "train", *given, *small, *options)
    pairs = files.read(made).pairs
    return torch.cat([pairs[name].delta().flatten() for name in sorted(pairs)])


def alike(options: tuple[str, ...], least: float) -> None:
    """least: cosine of the card's LoRA and of the CPU's in fp32."""
    found = torch.cosine_similarity(trained("sim", *options), trained("cpu"), dim=0)
    assert found > least, (options, found)


def check_train_in_every_memory_mode() -> None:
    for mode in ("fast", "normal", "low"):
        alike(("--memory", mode), 0.9999)


def check_train_in_16_bits() -> None:
    alike(("--mixed-precision", "bf16"), 0.85)
    alike(("--mixed-precision", "fp16"), 0.95)


def check_train_with_a_base_in_8_bits() -> None:
    alike(("--fp8-base", "--mixed-precision", "bf16"), 0.5)


def near(place: str, other: str, name: str) -> None:
    a, b = (np.asarray(Image.open(FOLDER / p / name)).astype(int) for p in (place, other))
    assert np.abs(a - b).max() <= 2 and a.std() > 1, np.abs(a - b).max()


def check_generate() -> None:
    for place in PLACES:
        trained(place)
        loras = (
            "--structure",
            FOLDER / place / "lora.safetensors",
            "--style",
            FOLDER / place / "lora.safetensors",
        )
        size = "--steps", 2, "--width", 64, "--height", 64, "--images", 1, "--seed", 1, "--precision", "fp32"
        given = "--model", MODEL / "model", "--prompt", "A [v]", "--output", FOLDER / place / "drawn"
        command(place, "generate", *given, *size, *loras)
        (picture,) = (FOLDER / place / "drawn").glob("*.png")
        picture.rename(FOLDER / place / "drawn.png")
    near("sim", "cpu", "drawn.png")


def check_restyle() -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[16:48, 16:48] = 255
    Image.fromarray(mask).save(FOLDER / "mask.png")
    for place in PLACES:
        given = "--image", MODEL / "style.png", "--mask", FOLDER / "mask.png", "--model", MODEL / "model"
        wish = (
            "--instruction",
            "Turn the red square into a mosaic",
            "--output",
            FOLDER / place / "restyled.png",
        )
        command(
            place, "restyle", *given, *wish, "--seed", 1, "--steps", 4, "--guidance", 2, "--precision", "fp32"
        )
    near("sim", "cpu", "restyled.png")


checking.main(globals(), FOLDER)
