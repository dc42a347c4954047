"""`python -m rechar_core` train, generate and restyle on the simulated device: `python check_cli.py PACK FOLDER`.

What each writes is what the CPU writes, within rounding.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

PACK, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
sys.path[0] = str(Path(__file__).parents[1])  # tests/
sys.path.append(str(PACK))

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from accelerator import checking  # noqa: E402
from accelerator.device import DEVICE, memory  # noqa: E402
from rechar_core.backend import placement  # noqa: E402
from rechar_core.backend.processes import processes  # noqa: E402
from rechar_core.cli import train  # noqa: E402
from rechar_core.cli.main import main  # noqa: E402
from rechar_core.demo.build import SAMPLES  # noqa: E402
from rechar_core.lora import files  # noqa: E402
from rechar_core.training.memory import WORKSPACES  # noqa: E402

MODEL = Path(sys.path[0]) / "data" / "blora_tiny"
PLACES = {"cpu": torch.device("cpu"), "sim": DEVICE}


class Failed(Exception):
    """A command ended in an error, in one sentence."""


def command(place: str, *words: object) -> None:
    """Run a command on the CPU or on the card, which it must have used then."""
    processes().device = PLACES[place]
    gc.collect()
    memory.reset_peak()
    before = memory.peak
    if main([str(word) for word in words]) != 0:
        raise Failed(words)
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


@cache
def trained_by_the_cpu() -> torch.Tensor:
    return trained("cpu")


def alike(options: tuple[str, ...], least: float) -> None:
    """least: cosine of the card's LoRA and of the CPU's in fp32."""
    found = torch.cosine_similarity(trained("sim", *options), trained_by_the_cpu(), dim=0)
    assert found > least, (options, found)


def check_train_in_every_memory_mode() -> None:
    for mode in ("fast", "normal", "low"):
        alike(("--memory", mode), 0.9999)


def check_train_where_the_encoders_have_no_room() -> None:
    """The CPU encodes, and the card trains."""
    for name in ("encode_prompt", "encode_picture"):
        whole = getattr(train, name)

        def short(*given: Any, name: str = name, whole: Any = whole) -> Any:
            setattr(train, name, whole)
            memory.fail_in = 5
            return whole(*given)

        setattr(train, name, short)
        alike((), 0.9999)
        assert getattr(train, name) is whole and memory.fail_in is None, name


def check_train_in_16_bits() -> None:
    alike(("--mixed-precision", "bf16"), 0.85)
    alike(("--mixed-precision", "fp16"), 0.95)


def check_train_with_a_base_in_8_bits() -> None:
    alike(("--fp8-base", "--mixed-precision", "bf16"), 0.5)


def near(place: str, other: str, name: str) -> None:
    a, b = (np.asarray(Image.open(FOLDER / p / name)).astype(int) for p in (place, other))
    assert np.abs(a - b).max() <= 2 and a.std() > 1, np.abs(a - b).max()


def generated(place: str, *options: object) -> None:
    """A picture of the place's own LoRA, FOLDER / place / drawn.png."""
    lora = FOLDER / place / "lora.safetensors"
    size = "--steps", 2, "--width", 64, "--height", 64, "--images", 1, "--seed", 1, "--precision", "fp32"
    given = "--model", MODEL / "model", "--prompt", "A [v]", "--output", FOLDER / place / "drawn"
    command(place, "generate", *given, *size, "--structure", lora, "--style", lora, *options)
    (FOLDER / place / "drawn" / "seed_00001.png").replace(FOLDER / place / "drawn.png")


def restyled(place: str) -> None:
    """FOLDER / place / restyled.png."""
    width, height = Image.open(MODEL / "style.png").size
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[height // 4 : -height // 4, width // 4 : -width // 4] = 255
    Image.fromarray(mask).save(FOLDER / "mask.png")
    given = "--image", MODEL / "style.png", "--mask", FOLDER / "mask.png", "--model", MODEL / "model"
    wish = "--instruction", "Turn the red square into a mosaic", "--output", FOLDER / place / "restyled.png"
    how = "--seed", 1, "--steps", 4, "--guidance", 2, "--precision", "fp32"
    command(place, "restyle", *given, *wish, *how)


def decorated(place: str) -> None:
    """FOLDER / place / decorated.png, with all that may draw along."""
    given = "--model", "demo", "--mode", "tuned", "--glyph", SAMPLES["glyph_luo"], "--elements", "flowers"
    leading = [
        f"--{name}" for name in ("composition-adapter", "style-adapter", "image-encoder", "control-net")
    ]
    more = [word for name in leading for word in (name, "demo")]
    size = "--steps", 2, "--width", 64, "--images", 1, "--seed", 1, "--precision", "fp32"
    folder = FOLDER / place / "decorated"
    style = "--style-image", SAMPLES["style_c"]
    command(place, "generate", *given, *more, *style, *size, "--output", folder)
    (folder / "seed_00001.png").replace(FOLDER / place / "decorated.png")


def check_generate() -> None:
    trained_by_the_cpu(), trained("sim")
    for place in PLACES:
        generated(place)
    near("sim", "cpu", "drawn.png")


def check_restyle() -> None:
    for place in PLACES:
        restyled(place)
    near("sim", "cpu", "restyled.png")


def check_decorate() -> None:
    for place in PLACES:
        decorated(place)
    near("sim", "cpu", "decorated.png")


@contextmanager
def card_of(size: int) -> Iterator[None]:
    """So many bytes more than are in use now."""
    gc.collect()
    memory.limit = memory.current + size
    try:
        yield
    finally:
        memory.limit = None


def on_a_small_card(draw: Callable[[str], None], size: int, name: str) -> None:
    """The same picture on a card of so many bytes; all weights at once there would be too much."""
    whole, placement.free_memory = placement.free_memory, lambda _: 1 << 40
    try:
        with card_of(size), pytest.raises(Failed):  # in one sentence
            draw("sim")
    finally:
        placement.free_memory = whole
    gc.collect()
    with card_of(size):
        draw("sim")
    near("sim", "cpu", name)


def check_generate_on_a_small_card() -> None:
    on_a_small_card(generated, weights_of(MODEL / "model"), "drawn.png")


def check_generate_several_pictures_on_a_small_card() -> None:
    """Each is what it is alone: what the LoRAs changed goes to the card and back with every picture."""
    with card_of(weights_of(MODEL / "model")):
        generated("sim", "--seed", 0, "--images", 2)
    near("sim", "cpu", "drawn.png")


def check_restyle_on_a_small_card() -> None:
    on_a_small_card(restyled, weights_of(MODEL / "model"), "restyled.png")


def check_decorate_on_a_small_card() -> None:
    """The ControlNet is streamed."""
    on_a_small_card(decorated, 42 << 20, "decorated.png")  # the UNet has 37 of them


def check_decorate_where_unet_and_control_net_fit_together() -> None:
    with card_of(int(WORKSPACES) + (60 << 20)):
        decorated("sim")
    assert 45 << 20 < memory.peak < 60 << 20  # both have 45 of them, the whole model has 95
    near("sim", "cpu", "decorated.png")


def weights_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


checking.main(globals(), FOLDER)
