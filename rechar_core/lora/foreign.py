"""Recognises files that are not SDXL LoRAs by their keys: one row of `_SIGNS` per kind, the clearest first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_SIGNS: tuple[tuple[str, str], ...] = (
    (
        r"^(model\.diffusion_model|first_stage_model|conditioner\.embedders|cond_stage_model)\.",
        "a whole base model",
    ),
    (r"attn[12][._]to_[qkv]\.weight$", "a whole UNet"),
    (r"^(string_to_param|emb_params$|clip_[lg]$)", "a textual inversion embedding"),
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"^(lora_)?controlnet|input_hint_block|controlnet_cond_embedding", "a ControlNet"),
    (r"double_blocks|single_blocks|single_transformer_blocks", "a Flux LoRA"),
    (r"(img|txt)_m(lp|od)[._]", "a Qwen-Image LoRA"),
    (r"joint_blocks|(?<!single_)transformer_blocks[._]\d+[._](attn[._]|ff_context)", "an SD3 LoRA"),
    (r"blocks[._]\d+[._](self|cross)_attn[._]", "a Wan LoRA"),
    # SDXL has attention in down_blocks.1-2 and up_blocks.0-1 (ComfyUI: input 4-8, output 0-5); SD1.x and 2.x in more.
    (r"down_blocks[._]0[._]attentions|up_blocks[._][23][._]attentions", "an SD1.5 LoRA"),
    (r"input_blocks[._][12][._]1[._]|output_blocks[._]([6-9]|1[01])[._]1[._]", "an SD1.5 LoRA"),
    (r"^lora_te_text_model", "an SD1.5 LoRA"),
)
_CONTEXT_WIDTH = {768: "an SD1.5 LoRA", 1024: "an SD2 LoRA", 1280: "an SDXL refiner LoRA"}
_READS_CONTEXT = re.compile(
    r"attn2[._]to_[kv]\.(lora_down|lora\.down|lora_A)|attn2\.processor\.to_[kv]_lora\.down"
)


def looks_like(keys: Iterable[str], shape_of: Callable[[str], tuple[int, ...]]) -> tuple[str, str] | None:
    """(kind of file, a key that shows it), or None if no kind is recognised.

    keys: the file's keys. shape_of: gives the shape of a key's tensor. LoRAs of different base models can have the
    same names; they differ in the width of the text conditioning, which is read from the `down` weights
    (rank, width) of the cross-attention.
    """
    keys = list(keys)
    for key in keys:
        shape = shape_of(key) if _READS_CONTEXT.search(key) else ()
        if len(shape) > 1 and shape[1] in _CONTEXT_WIDTH:
            return _CONTEXT_WIDTH[shape[1]], key
    for pattern, what in _SIGNS:
        matching = [key for key in keys if re.search(pattern, key)]
        if matching:
            return what, matching[0]
    return None
