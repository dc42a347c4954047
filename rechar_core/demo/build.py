"""Builds the demo model, a tiny trained SDXL, from the two files in this folder.

`model.safetensors` holds fp16 tensors under "unet.", "vae.", "text_encoder." and "text_encoder_2.". To keep it
small, tensors that are mostly zero are stored as indices and values (with their shapes in the header), and of the token
embeddings only the trained rows: `...token_embedding.rows` with `...token_embedding.ids`; other rows get their mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ReCharError

if TYPE_CHECKING:
    from torch import Tensor, nn

FOLDER = Path(__file__).parent
CONFIG = FOLDER / "config.json"
WEIGHTS = FOLDER / "model.safetensors"
SAMPLES: dict[str, Path] = {path.stem: path for path in sorted((FOLDER / "samples").glob("*.png"))}
TOKENS = "text_model.embeddings.token_embedding."
VOCABULARY = 49408


@dataclass(frozen=True)
class DemoModel:
    """The parts of an SDXL pipeline, as diffusers and transformers objects in fp32, in eval mode, on the CPU."""

    unet: Any
    vae: Any
    text_encoder: Any
    text_encoder_2: Any
    tokenizer: Any
    tokenizer_2: Any
    scheduler: Any


def read_config() -> dict[str, Any]:
    """The contents of config.json."""
    try:
        return json.loads(CONFIG.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReCharError(f"The demo model's configuration {CONFIG} cannot be read ({error}).") from error


def build_unet() -> nn.Module:
    """A freshly initialised UNet of the demo's size."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**read_config()["unet"])


def build_vae() -> nn.Module:
    """A freshly initialised VAE of the demo's size."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(**read_config()["vae"])


def build_text_encoders() -> tuple[nn.Module, nn.Module]:
    """Freshly initialised text encoders of the demo's size."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = read_config()
    first = CLIPTextModel(CLIPTextConfig(**config["text_encoder"]))
    return first, CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))


def demo_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All weights in fp32 under diffusers' names behind a prefix for each part, and the configuration.

    Raises ReCharError if a file is missing or damaged.
    """
    from safetensors import SafetensorError

    try:
        tensors = _read_weights()
        for encoder in ("text_encoder.", "text_encoder_2."):
            _expand_tokens(tensors, f"{encoder}{TOKENS}")
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ReCharError(
            f"The demo model's weights {WEIGHTS} are missing or damaged ({error}). Install ReChar again."
        ) from error
    return {name: tensor.float() for name, tensor in tensors.items()}, read_config()


def _read_weights() -> dict[str, Tensor]:
    """The tensors of the file, those that are stored as indices and values whole."""
    import torch
    from safetensors import safe_open

    with safe_open(str(WEIGHTS), framework="pt") as file:
        shapes = json.loads((file.metadata() or {})["sparse"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, shape in shapes.items():
        index, values = tensors.pop(f"{name}.index"), tensors.pop(f"{name}.value")
        tensors[name] = torch.zeros(shape).flatten().index_put((index.long(),), values.float()).view(shape)
    return tensors


def _expand_tokens(tensors: dict[str, Tensor], name: str) -> None:
    """Replaces the stored rows and ids of a token embedding by the whole table."""
    rows, ids = tensors.pop(f"{name}rows").float(), tensors.pop(f"{name}ids").long()
    table = rows.mean(0, keepdim=True).repeat(VOCABULARY, 1)
    table[ids] = rows
    tensors[f"{name}weight"] = table


def part_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _fill(module: nn.Module, tensors: dict[str, Tensor], prefix: str) -> nn.Module:
    """The module with the tensors of its part, whose names transformers 5 uses without "text_model." in some."""
    own, part = module.state_dict(), part_of(tensors, prefix)
    state = {name if name in own else name.removeprefix("text_model."): part[name] for name in part}
    state |= {name: value for name, value in own.items() if name.endswith("position_ids")}
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ReCharError(
            f"The demo model's weights {WEIGHTS} do not fit config.json. Install ReChar again."
        ) from error
    return module.eval().requires_grad_(False)


def load_demo() -> DemoModel:
    """The trained demo model, ready for diffusers."""
    from diffusers import EulerDiscreteScheduler

    from ..synthesis.tokenizer import tokenizers

    tensors, config = demo_state()
    first, second = build_text_encoders()
    tokenizer, tokenizer_2 = tokenizers()
    return DemoModel(
        unet=_fill(build_unet(), tensors, "unet."),
        vae=_fill(build_vae(), tensors, "vae."),
        text_encoder=_fill(first, tensors, "text_encoder."),
        text_encoder_2=_fill(second, tensors, "text_encoder_2."),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=EulerDiscreteScheduler(**config["scheduler"]),
    )
