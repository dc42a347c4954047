"""Tiny random CLIP, CLIPSeg, GroundingDINO, SAM 2 and VGG19, in memory and as folders, for the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rechar_core.soulstyler.guide import VGG19, Guide, Vgg

_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
_WORDS = {**_TEXT, "vocab_size": 600, "max_position_embeddings": 32, "eos_token_id": 1, "bos_token_id": 0}
_VISION = {**_TEXT, "image_size": 32, "patch_size": 8}


def clip(seed: int = 0) -> Any:
    """A CLIPModel of 32 channels that sees 32 x 32 pixels."""
    from transformers import CLIPConfig, CLIPModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = CLIPConfig(text_config=_WORDS, vision_config=_VISION, projection_dim=16)
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
        sizes = {"projection_dim": 16, "reduce_dim": 16, "extract_layers": [0, 1], "conditional_layer": 0}
        config = CLIPSegConfig(
            text_config=_WORDS,
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


def grounding_dino_folder(folder: Path) -> Path:
    """A random GroundingDINO with BERT's special tokens, in transformers' layout."""
    from transformers import BertConfig, GroundingDinoConfig, GroundingDinoForObjectDetection, SwinConfig

    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    swin = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 4}
    sizes = {f"{part}_{what}": 2 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(image_size=64, out_indices=[2, 3, 4], **swin),
        text_config=BertConfig(vocab_size=1400, **heads),
        num_queries=40,
        d_model=32,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        **sizes,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = GroundingDinoForObjectDetection(config)
    made.model.decoder.layer_norm.weight.data.mul_(0.05)  # never very sure
    made.save_pretrained(folder)
    words = [f"[unused{i}]" for i in range(1400)]
    for place, word in (
        (0, "[PAD]"),
        (100, "[UNK]"),
        (101, "[CLS]"),
        (102, "[SEP]"),
        (1012, "."),
        (1029, "?"),
    ):
        words[place] = word
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words[1100:1126], words[1126:1152] = letters, [f"##{letter}" for letter in letters]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    return folder


def sam_folder(folder: Path, video: bool = True) -> Path:
    """A random SAM 2 that sees 64 x 64 pixels; video: with the memory for films, as the published folders have it.

    Skips the test where transformers has none: what the user reads then is tested in test_soulstyler_words.py.
    """
    import transformers

    if not hasattr(transformers, "Sam2Model"):
        pytest.skip(f"transformers {transformers.__version__} has no SAM 2; 4.56 and newer have")

    hiera = {"hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64], "blocks_per_stage": [1, 1, 2, 1]}
    hiera |= {"num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4]}
    hiera |= {"image_size": [64, 64], "global_attention_blocks": [3], "model_type": "sam2_hiera_det_model"}
    hiera |= {"window_positional_embedding_background_size": [2, 2]}
    vision = {"backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    name = "Sam2Video" if video else "Sam2"
    config = getattr(transformers, f"{name}Config")(
        vision_config={"backbone_config": hiera, **vision, "fpn_hidden_size": 16},
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    return folder


def llm_folder(folder: Path) -> Path:
    """A random language model of one layer: what it writes is no answer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=600, max_position_embeddings=4096, **sizes)).save_pretrained(
        folder
    )
    tokenizer_files(folder)
    return folder


FILES = {  # what the shipped workflows name in models/soulstyler
    "clipseg-rd64-refined": clipseg_folder,
    "clip-vit-base-patch32": clip_folder,
    "vgg19.safetensors": vgg_file,
    "grounding-dino-tiny": grounding_dino_folder,
    "sam2.1-hiera-tiny": sam_folder,
}


def stock(folder: Path) -> None:
    """All of them."""
    for name, make in FILES.items():
        if not (folder / name).exists():
            make(folder / name)
