"""Recognises files that are not SDXL LoRAs by their keys: one row of `_SIGNS` per kind, the clearest first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_SIGNS: tuple[tuple[str, str], ...] = (
    (r"^(first_stage_model|conditioner\.embedders|cond_stage_model)\.", "a whole base model"),
    (
        r"^model\.diffusion_model\.(?!.*[._](lora|hada|lokr|oft|a[12]|b[12])[._]).*\.(weight|bias)$",
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
# Kinds of weights that neither ComfyUI nor we can read, by the endings of their keys (LyCORIS, PEFT).
_UNREADABLE = (
    (r"\.on_input$|\.ia3_l\b", "IA3"),
    (r"\.lora_E\b|\.ranknum\b", "AdaLoRA"),
    (r"\.vera_lambda_[bd]\b", "VeRA"),
    (r"\.randlora_lambda\b|\.randlora_gamma\b", "RandLoRA"),
    (r"\.(oft_[rR]|oft_diag)\b", "OFT of another layout"),
    (r"\.boft_[Rs]\b", "BOFT of PEFT's layout"),
    (r"\.fourierft_spectrum\b", "FourierFT"),
    (r"\.hra_u\b", "HRA"),
    (r"\.(bone_block|bone_[^.]+|miss_block)\b", "Bone"),
    (r"\.shira_weight\b", "SHiRA"),
    (r"\.vblora_", "VB-LoRA"),
    (r"\.lokr_t1$", "LoKr with two Tucker cores"),
    (r"\.(up|down)_list\.", "DyLoRA"),
    (r"\.(q_layer|p_layer)\.|\.lambda_layer\b", "T-LoRA"),
)
_IN_THE_BLOCKS = re.compile(r"(up_blocks[._]0[._]attentions[._][01]|output_blocks[._][01][._]1)[._]")
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
    for pattern, what in _UNREADABLE:
        matching = [key for key in keys if re.search(pattern, key)]
        if matching:
            return f"{what}, which ComfyUI cannot read either", matching[0]
    return None


def unreadable_kind(keys: Iterable[str]) -> tuple[str, str] | None:
    """(kind, the first key that shows it) of weights inside the two blocks that nothing can read, or None."""
    inside = [key for key in keys if _IN_THE_BLOCKS.search(key)]
    found = ((what, key) for pattern, what in _UNREADABLE for key in inside if re.search(pattern, key))
    return next(found, None)
