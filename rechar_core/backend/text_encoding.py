"""Encodes a prompt's words for diffusers: all together, then the rows of dropped words leave the context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..synthesis.elements import PromptToken, packed
from .pipeline import device_of

if TYPE_CHECKING:
    from diffusers import StableDiffusionXLPipeline


def encode_prompt_tokens(
    pipeline: StableDiffusionXLPipeline, words: Sequence[PromptToken]
) -> tuple[Tensor, Tensor]:
    """Context (1, rows, width) and pooled embedding (1, width) of a prompt's words.

    With all words kept it is what the pipeline's own encode_prompt gives. Dropped words leave the context; its first
    row, the start token, always stays (nodes/host/elements.py says why). Emphasis moves a token's row away from that
    of the empty prompt, as ComfyUI does (comfy/sd1_clip.py, encode_token_weights).
    """
    parts = []
    tokenizers = (pipeline.tokenizer, pipeline.tokenizer_2)
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        groups = [
            [(token, word.weight) for token in tokenizer(word.text, add_special_tokens=False).input_ids]
            for word in words
        ]
        chunks, kept_rows = packed(groups, words, tokenizer.model_max_length)
        framed = [_framed([token for token, _ in chunk], tokenizer) for chunk in [*chunks, []]]
        with torch.no_grad():
            out = encoder(torch.tensor(framed, device=device_of(encoder)), output_hidden_states=True)
        seen, empty = out.hidden_states[-2][:-1], out.hidden_states[-2][-1:]
        weights = torch.ones_like(seen[..., :1])
        for row, chunk in zip(weights, chunks, strict=True):
            row[1 : len(chunk) + 1, 0] = torch.tensor([weight for _, weight in chunk])
        emphasised = torch.where(weights == 1, seen, empty + (seen - empty) * weights)
        parts.append(emphasised.flatten(0, 1)[None])
        pooled, rows = out[0][:1], [0, *kept_rows]
    context = torch.cat(parts, -1)
    return (context if all(word.kept for word in words) else context[:, rows]), pooled


def _framed(tokens: Sequence[int], tokenizer: Any) -> list[int]:
    """A chunk with start, end and padding."""
    padding = [tokenizer.pad_token_id] * (tokenizer.model_max_length - 2 - len(tokens))
    return [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id, *padding]
