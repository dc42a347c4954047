"""CONDITIONING of a prompt: all tokens are encoded together, then the dropped ones are removed from the context."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...rechar_core.images import batch_of
from ...rechar_core.synthesis.elements import PromptToken, packed, without_elements
from .inputs import check_clip

Tokens = dict[str, list[list[tuple[Any, float]]]]


def element_conditioning(clip: Any, words: tuple[PromptToken, ...], region: Tensor | None) -> list[Any]:
    """CONDITIONING of the words; with a region (MASK) the elements act inside it only.

    Of a CLIP with hooks on a schedule there is an entry for each part of it, as from CLIPTextEncode. Outside the region
    the same prompt without its elements is used; inside and outside tile the picture exactly.
    Raises ModelError if CLIP is not SDXL's.
    """
    check_clip(clip)
    if region is None:
        return _encode(clip, words)
    region = batch_of(region)
    inside, outside = _encode(clip, words), _encode(clip, without_elements(words))
    for entries, mask in ((inside, region), (outside, 1 - region)):
        for _, options in entries:
            options.update(mask=mask, mask_strength=1.0, set_area_to_bounds=False)
    return [*inside, *outside]


def _encode(clip: Any, words: tuple[PromptToken, ...]) -> list[Any]:
    tokens, rows = _tokens(clip, words)
    entries: list[Any] = clip.encode_from_tokens_scheduled(tokens)  # context: (1, 77 * chunks, width)
    if all(w.kept for w in words):
        return entries
    return [[context[:, rows], options] for context, options in entries]


def _tokens(clip: Any, words: tuple[PromptToken, ...]) -> tuple[Tokens, list[int]]:
    """What clip.tokenize would give for the prompt, and the rows of the kept words' tokens.

    Row 0, the start token, always stays: it depends on no word, and the attention needs it as a sink. The end token and
    the padding depend on all words, so they are dropped too.
    """
    empty = clip.tokenize("")
    per_word = [clip.tokenize(literal(w.text), return_word_ids=True) for w in words]
    tokens: Tokens = {key: [] for key in empty}
    rows: list[int] = [0]
    for key, chunks in empty.items():
        start, end, pad, length = chunks[0][0], chunks[0][1], chunks[0][-1], len(chunks[0])
        groups = [
            [(t, word.weight) for chunk in tokenized[key] for t, _, i in chunk if i]
            for word, tokenized in zip(words, per_word, strict=True)
        ]
        filled, kept = packed(groups, words, length)
        tokens[key] = [[start, *chunk, end, *[pad] * (length - 2 - len(chunk))] for chunk in filled]
        rows = [0, *kept]
    return tokens, rows


def literal(text: str) -> str:
    """The text as the host's tokenizer must get it so that its parentheses are words, not weights."""
    return text.replace("(", "\\(").replace(")", "\\)")
