"""LoRA key formats: one row of `KEY_FORMATS` per format. A key goes to the first row that can read it.

A key is prefix + module + suffix. Prefix and suffix are literal. The module is written in one of a few spellings, which
are resolved exactly against the layers of the two blocks, so that "attentions.1" never matches "attentions.10" and
"to_out_0" means "to_out.0".

The formats, who writes them, examples, and what else a new one needs: docs/blora.md, "Key formats".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from .blocks import BLOCKS

# The modules of a block, the same in both UNets. All transformer blocks have the same layers: here those of number 0.
_MODULES = (
    *(f"transformer_blocks.0.{a}.to_{x}" for a in ("attn1", "attn2") for x in ("q", "k", "v", "out.0")),
    *(f"transformer_blocks.0.{x}" for x in ("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3")),
    *("proj_in", "proj_out", "norm"),
)
_NUMBER = re.compile(r"(?<=transformer_blocks[._])(0|[1-9]\d*)(?=[._])")

_DIFFUSERS_ROOTS = (
    *("down_blocks", "mid_block", "up_blocks"),
    *("conv_in", "conv_out", "conv_norm_out", "time_embedding", "add_embedding", "class_embedding"),
)
_HOST_ROOTS = ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out")

# Parts that are not a low-rank pair and that only ComfyUI can apply -> the kind of layer they belong to.
PASSTHROUGH: Mapping[str, str] = {
    **dict.fromkeys(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"), "LoHa"),
    **dict.fromkeys(("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"), "LoKr"),
    **dict.fromkeys(("lokr_t1", "lokr_t2"), "LoKr"),
    **dict.fromkeys(("a1.weight", "a2.weight", "b1.weight", "b2.weight"), "GLoRA"),
    **dict.fromkeys(("oft_blocks", "oft_diag", "rescale"), "OFT"),
    **dict.fromkeys(("diff", "diff_b", "w_norm", "b_norm", "set_weight"), "full difference"),
    **dict.fromkeys(("lora_mid.weight", "reshape_weight"), "Tucker LoRA"),
}


def kinds_of(parts: Iterable[str]) -> list[str]:
    """The kinds of layer that only ComfyUI can apply among the parts of a layer, or of several; sorted."""
    return sorted({PASSTHROUGH[part] for part in parts if part in PASSTHROUGH})


@dataclass(frozen=True)
class Spelling:
    """How module paths are written in a key.

    paths: written form -> diffusers path, for the modules of both blocks (`_MODULES`). blocks, roots: how the written
    paths inside the two blocks start, and those of the whole UNet.
    """

    separator: str
    paths: Mapping[str, str]
    blocks: tuple[str, ...]
    roots: tuple[str, ...]

    def resolve(self, text: str) -> tuple[str, bool] | None:
        """(diffusers path, True) inside the two blocks, (text, False) elsewhere in the UNet, None if neither."""
        path = _translated(text, self.paths)
        if path is not None:
            return path, True
        whole = text + self.separator
        return (text, False) if whole.startswith(self.roots) and not whole.startswith(self.blocks) else None

    def spell(self, path: str) -> str:
        """The written form of a diffusers path inside the two blocks. Raises KeyError for any other path."""
        written = _translated(path, {path: written for written, path in self.paths.items()})
        if written is None:
            raise KeyError(path)
        return written


def _translated(text: str, table: Mapping[str, str]) -> str | None:
    """What the table has for a module, with the module's own transformer block; None if it is not in the table."""
    number, translation = _NUMBER.search(text), table.get(_NUMBER.sub("0", text))
    return translation if number is None or translation is None else _NUMBER.sub(number[0], translation)


def _spelling(separator: str, *, host: bool) -> Spelling:
    """host: the two blocks have the names of ComfyUI's UNet, not those of diffusers'."""
    starts = {f"{block.host if host else block.path}.": f"{block.path}." for block in BLOCKS}
    return Spelling(
        separator,
        {(s + m).replace(".", separator): path + m for s, path in starts.items() for m in _MODULES},
        tuple(start.replace(".", separator) for start in starts),
        tuple(root + separator for root in (_HOST_ROOTS if host else _DIFFUSERS_ROOTS)),
    )


_DOTTED = _spelling(".", host=False)
_FLAT = _spelling("_", host=False)
_HOST_DOTTED = _spelling(".", host=True)
_HOST_FLAT = _spelling("_", host=True)
# diffusers < 0.18 named the attention processor and left out the ".0" of to_out; it knew no other layers.
_PROCESSOR_PATHS = {
    written.replace(".to_", ".processor.to_").removesuffix(".0"): path
    for written, path in _DOTTED.paths.items()
    if ".to_" in written
}
_PROCESSOR = replace(_DOTTED, paths=_PROCESSOR_PATHS)


@dataclass(frozen=True)
class KeyFormat:
    """One key format. Of prefixes and suffixes, the first is used for writing; all are read.

    suffixes: part -> its endings. holds: the parts that may be written; without "alpha" in it, the writer multiplies
    `up` by network_alpha / rank instead.
    """

    name: str
    prefixes: tuple[str, ...]
    spelling: Spelling
    suffixes: Mapping[str, tuple[str, ...]]
    holds: frozenset[str]

    def parse(self, key: str) -> Parsed | None:
        for prefix in self.prefixes:
            if not key.startswith(prefix):
                continue
            for part, endings in self.suffixes.items():
                for ending in endings:
                    module = key.endswith(ending) and self.spelling.resolve(key[len(prefix) : -len(ending)])
                    if module:
                        return Parsed(self.name, module[0], part, module[1])
        return None

    def format(self, module: str, part: str) -> str:
        """The key of a module's part. Raises KeyError for a module outside the two blocks or an unknown part."""
        return self.prefixes[0] + self.spelling.spell(module) + self.suffixes[part][0]


@dataclass(frozen=True)
class Parsed:
    """A parsed key. module: a diffusers path inside the two blocks, the text of the key outside them."""

    format: str
    module: str
    part: str
    inside: bool


_KOHYA_SUFFIXES = {
    "down": (".lora_down.weight",),
    "up": (".lora_up.weight",),
    "alpha": (".alpha",),
    "dora_scale": (".dora_scale",),
    **{part: ("." + part,) for part in PASSTHROUGH},
}
_PEFT_SUFFIXES = {
    "down": (".lora_A.weight",),
    "up": (".lora_B.weight",),
    "alpha": (".alpha",),
    "dora_scale": (".lora_magnitude_vector",),
}
_DIFFUSERS_SUFFIXES = {
    "down": (".lora.down.weight", ".lora_linear_layer.down.weight", ".lora_down.weight"),
    "up": (".lora.up.weight", ".lora_linear_layer.up.weight", ".lora_up.weight"),
    "alpha": (".alpha",),
    "dora_scale": (".lora_magnitude_vector", ".dora_scale"),
}
_PROCESSOR_SUFFIXES = {"down": ("_lora.down.weight",), "up": ("_lora.up.weight",), "alpha": (".alpha",)}
_COMFY_SUFFIXES = {p: (*e, *_PEFT_SUFFIXES.get(p, ())) for p, e in _KOHYA_SUFFIXES.items()}

_ALL = frozenset(("down", "up", "alpha", "dora_scale", *PASSTHROUGH))
_NO_ALPHA = frozenset(("down", "up", "dora_scale"))
_PEFT_PREFIXES = ("unet.", "unet.base_model.model.", "base_model.model.unet.", "base_model.model.", "")

KEY_FORMATS: tuple[KeyFormat, ...] = (
    KeyFormat("kohya", ("lora_unet_",), _FLAT, _KOHYA_SUFFIXES, _ALL),
    KeyFormat("kohya-sgm", ("lora_unet_",), _HOST_FLAT, _KOHYA_SUFFIXES, _ALL),
    KeyFormat("comfy", ("diffusion_model.",), _HOST_DOTTED, _COMFY_SUFFIXES, _ALL),
    KeyFormat("lycoris", ("lycoris_",), _FLAT, _KOHYA_SUFFIXES, _ALL),
    KeyFormat("diffusers", ("unet.", ""), _DOTTED, _DIFFUSERS_SUFFIXES, _NO_ALPHA),
    KeyFormat("diffusers-0.24", ("unet.unet.",), _DOTTED, _DIFFUSERS_SUFFIXES, _NO_ALPHA),
    KeyFormat(
        "diffusers-processor", ("unet.", ""), _PROCESSOR, _PROCESSOR_SUFFIXES, frozenset(("down", "up"))
    ),
    KeyFormat("peft", _PEFT_PREFIXES, _DOTTED, _PEFT_SUFFIXES, _NO_ALPHA),
)
WRITABLE: tuple[str, ...] = ("kohya", "kohya-sgm", "diffusers", "peft", "comfy")

# Other components that LoRA files contain. They are reported but never used.
_COMPONENTS = (
    *("lora_te_", "lora_te1_", "lora_te2_", "lycoris_text_model_"),
    *("text_encoder.", "text_encoder_2.", "text_encoders.", "base_model.model.text_model."),
    "bundle_emb.",
)
# A uint8 tensor that ComfyUI 0.34 and newer may write: which attention to use for a layer. It is not a weight.
_ATTENTION_CHOICE = ".comfy_attention.config"

# PEFT may write the adapter's name into the key: ".lora_A.default.weight", ".lora_magnitude_vector.default.weight".
_ADAPTER_NAME = (
    (re.compile(r"\.(lora_[AB])\.[^.]+\.weight$"), r".\1.weight"),
    (re.compile(r"\.lora_magnitude_vector(\.[^.]+)?(\.weight)?$"), ".lora_magnitude_vector"),
)


def parse(key: str) -> Parsed | None:
    """The parsed `key`, or None if it belongs to no known format."""
    if key.startswith(_COMPONENTS) or key.endswith(_ATTENTION_CHOICE):
        return Parsed("", key, "", False)
    plain = key
    for pattern, replacement in _ADAPTER_NAME:
        plain = pattern.sub(replacement, plain)
    return next((p for p in (f.parse(plain) for f in KEY_FORMATS) if p), None)


def key_format_named(name: str) -> KeyFormat:
    """The key format called `name`. Raises KeyError for an unknown name."""
    return {f.name: f for f in KEY_FORMATS}[name]


def format_key(format: str, module: str, part: str) -> str:
    """The key of a part of a module (diffusers path) in a format; the inverse of `parse`.

    Raises KeyError for an unknown format, module or part.
    """
    return key_format_named(format).format(module, part)
