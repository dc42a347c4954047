"""Tiny random networks with the interfaces of CLIP, CLIPSeg and VGG19, in memory and as folders, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rechar_core.soulstyler.guide import VGG19, Guide, Vgg

_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_VISION = {**_TEXT, "image_size": 32, "patch_size": 8}


def clip(seed: int = 0) -> Any:
    """A CLIPModel of 32 channels that sees 32 x 32 pixels."""
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = {
            **_TEXT,
            "vocab_size": 600,
            "max_position_embeddings": 32,
            "eos_token_id": 1,
            "bos_token_id": 0,
        }
        config = CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=16)
        return CLIPModel(config).eval().requires_grad_(False)


def vgg(seed: int = 0) -> Vgg:
    """VGG19's layers, a sixteenth as wide."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Vgg([w if isinstance(w, str) else w // 16 for w in VGG19]).eval().requires_grad_(False)
        for weight in made.parameters():
            if weight.ndim > 1:  # so that a signal comes through sixteen layers
                torch.nn.init.kaiming_normal_(weight)
        return made


class Bytes:
    """A tokenizer: every byte a token, 0 the start, 1 the end."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, torch.Tensor]:
        rows = [[0, *(2 + b for b in text.encode()[:29]), 1] for text in texts]
        length = max(map(len, rows))
        ids = torch.tensor([row + [1] * (length - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}


def guide() -> Guide:
    return Guide(clip(), Bytes(), vgg())


def tokenizer_files(folder: Path) -> None:
    """A CLIP tokenizer that knows every byte and no merges."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    about = {"tokenizer_class": CLIPTokenizer.__name__, "model_max_length": 32}
    about |= {"bos_token": words[0], "eos_token": words[1], "unk_token": words[1], "pad_token": words[1]}
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


def clip_folder(folder: Path) -> Path:
    """A CLIP in transformers' layout."""
    clip().save_pretrained(folder)
    tokenizer_files(folder)
    return folder


def vgg_file(file: Path) -> Path:
    """A random VGG19 of full width (the loader accepts no other), in fp16: 25 MB."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = {name: tensor.half() for name, tensor in Vgg().state_dict().items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, file)
    return file


def clipseg_folder(folder: Path) -> Path:
    """A random CLIPSeg that sees 32 x 32 pixels, in transformers' layout."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = {
            **_TEXT,
            "vocab_size": 600,
            "max_position_embeddings": 32,
            "eos_token_id": 1,
            "bos_token_id": 0,
        }
        sizes = {"projection_dim": 16, "reduce_dim": 16, "extract_layers": [0, 1], "conditional_layer": 0}
        config = CLIPSegConfig(
            text_config=text,
            vision_config=_VISION,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=32,
            **sizes,
        )
        made = CLIPSegForImageSegmentation(config)
        for weight in made.decoder.transposed_convolution.parameters():
            weight.data.mul_(0.02)  # never very sure
        made.save_pretrained(folder)
    tokenizer_files(folder)
    return folder
