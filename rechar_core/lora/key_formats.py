"""LoRA key formats: one row of `KEY_FORMATS` per format. A key goes to the first row that knows its ending.

A key is prefix + module + ending. The module is looked up, whole, in one table of the layers of the two blocks, so that
"attentions.1" never matches "attentions.10" and "to_out_0" means "to_out.0". Dots and underscores between the parts of
prefix and module count as the same, because converters mix them (`..._attn1.to_q` beside `..._attn1_to_q`).

The formats, who writes them, examples, and what else a new one needs: docs/blora.md, "Key formats".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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

# Parts that are not a low-rank pair -> the kind of layer they belong to. `DIFFERENCES` are added as they are; of the
# others, the weight change is computed by ComfyUI.
PASSTHROUGH: Mapping[str, str] = {
    **dict.fromkeys(("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"), "LoHa"),
    **dict.fromkeys(("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"), "LoKr"),
    "lokr_t2": "LoKr",
    **dict.fromkeys(("a1.weight", "a2.weight", "b1.weight", "b2.weight"), "GLoRA"),
    **dict.fromkeys(("oft_blocks", "rescale"), "OFT"),
    **dict.fromkeys(("diff", "diff_b", "w_norm", "b_norm"), "full difference"),
    "set_weight": "replaced weight",
    **dict.fromkeys(("lora_mid.weight", "reshape_weight"), "Tucker LoRA"),
}
DIFFERENCES = frozenset(("diff", "diff_b", "w_norm", "b_norm"))


def kinds_of(parts: Iterable[str]) -> list[str]:
    """The kinds of layer other than a low-rank pair among the parts of a layer, or of several; sorted."""
    return sorted({PASSTHROUGH[part] for part in parts if part in PASSTHROUGH})


@dataclass(frozen=True)
class Spelling:
    """How module paths are written in a key: written form -> diffusers path, for the modules of both blocks."""

    paths: Mapping[str, str]

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
        {(s + m).replace(".", separator): path + m for s, path in starts.items() for m in _MODULES}
    )


_DOTTED = _spelling(".", host=False)
_FLAT = _spelling("_", host=False)
_HOST_DOTTED = _spelling(".", host=True)
_HOST_FLAT = _spelling("_", host=True)
# diffusers < 0.18 named the attention processor and left out the ".0" of to_out; it knew no other layers.
_PROCESSOR = Spelling(
    {
        written.replace(".to_", ".processor.to_").removesuffix(".0"): path
        for written, path in _DOTTED.paths.items()
        if ".to_" in written
    }
)


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

    def format(self, module: str, part: str) -> str:
        """The key of a module's part. Raises KeyError for a module outside the two blocks or an unknown part."""
        return self.prefixes[0] + self.spelling.spell(module) + self.suffixes[part][0]


class Parsed(NamedTuple):
    """A parsed key. module: a diffusers path inside the two blocks, the key itself outside them."""

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
    "scalar": (".scalar",),
}
_PEFT_SUFFIXES = {
    "down": (".lora_A.weight", ".lora_A"),
    "up": (".lora_B.weight", ".lora_B"),
    "alpha": (".alpha",),
    "dora_scale": (".lora_magnitude_vector", ".lora_magnitude_vector.weight"),
}
_DIFFUSERS_SUFFIXES = {
    "down": (".lora.down.weight", ".lora_linear_layer.down.weight", ".lora_down.weight"),
    "up": (".lora.up.weight", ".lora_linear_layer.up.weight", ".lora_up.weight"),
    "alpha": (".alpha",),
    "dora_scale": (".lora_magnitude_vector", ".dora_scale", ".dora_scale.weight", ".magnitude"),
}
_PROCESSOR_SUFFIXES = {"down": ("_lora.down.weight",), "up": ("_lora.up.weight",), "alpha": (".alpha",)}
_COMFY_SUFFIXES = {p: (*e, *_PEFT_SUFFIXES.get(p, ())) for p, e in _KOHYA_SUFFIXES.items()}

_ALL = frozenset(("down", "up", "alpha", "dora_scale", *PASSTHROUGH))
_NO_ALPHA = frozenset(("down", "up", "dora_scale"))
_PEFT_PREFIXES = ("unet.", "unet.base_model.model.", "base_model.model.unet.", "base_model.model.", "")
_HOST_PREFIXES = ("diffusion_model.", "model.diffusion_model.")

KEY_FORMATS: tuple[KeyFormat, ...] = (
    KeyFormat("kohya", ("lora_unet_",), _FLAT, _KOHYA_SUFFIXES, _ALL),
    KeyFormat("kohya-sgm", ("lora_unet_",), _HOST_FLAT, _KOHYA_SUFFIXES, _ALL),
    KeyFormat("comfy", _HOST_PREFIXES, _HOST_DOTTED, _COMFY_SUFFIXES, _ALL),
    KeyFormat("lycoris", ("lycoris_",), _FLAT, _KOHYA_SUFFIXES, _ALL),
    KeyFormat("diffusers", ("unet.", ""), _DOTTED, _DIFFUSERS_SUFFIXES, _NO_ALPHA),
    KeyFormat("diffusers-0.24", ("unet.unet.",), _DOTTED, _DIFFUSERS_SUFFIXES, _NO_ALPHA),
    KeyFormat(
        "diffusers-processor", ("unet.", ""), _PROCESSOR, _PROCESSOR_SUFFIXES, frozenset(("down", "up"))
    ),
    KeyFormat("peft", _PEFT_PREFIXES, _DOTTED, _PEFT_SUFFIXES, _NO_ALPHA),
    KeyFormat("onetrainer", ("unet.", ""), _HOST_DOTTED, _COMFY_SUFFIXES, _ALL),
    KeyFormat("lycoris-sgm", ("lycoris_",), _HOST_FLAT, _KOHYA_SUFFIXES, _ALL),
    KeyFormat("comfy-diffusers", _HOST_PREFIXES, _DOTTED, _COMFY_SUFFIXES, _ALL),
)
WRITABLE: tuple[str, ...] = ("kohya", "kohya-sgm", "diffusers", "peft", "comfy")


def _heads() -> dict[str, list[tuple[KeyFormat, str]]]:
    """Prefix + module, with underscores and transformer block 0 -> (row, diffusers path), in the order of the rows."""
    heads: dict[str, list[tuple[KeyFormat, str]]] = {}
    for row in KEY_FORMATS:
        for prefix in row.prefixes:
            for written, path in row.spelling.paths.items():
                heads.setdefault((prefix + written).replace(".", "_"), []).append((row, path))
    return heads


_HEADS = _heads()
_PARTS = {e: p for row in KEY_FORMATS for p, endings in row.suffixes.items() for e in endings}
_KNOWN = {row.name: frozenset(e for endings in row.suffixes.values() for e in endings) for row in KEY_FORMATS}
# PEFT may write the adapter's name into the key: ".lora_A.default.weight", ".lora_magnitude_vector.default.weight".
_NAMED = (".lora_A", ".lora_B", ".lora_magnitude_vector")


def _split(key: str) -> tuple[str, str] | None:
    """(prefix + module, ending) of a key whose ending belongs to some format: its last one, two or three words."""
    one = key.rfind(".")
    if key[one:] in _PARTS:
        return key[:one], key[one:]
    two = key.rfind(".", 0, max(one, 0))
    if two < 0:
        return None
    if key[two:] in _PARTS:
        return key[:two], key[two:]
    if key[two:one] == ".lora_magnitude_vector":
        return key[:two], key[two:one]
    if key[two - 5 :] in _PARTS:  # "_lora.up.weight"
        return key[: two - 5], key[two - 5 :]
    three = key.rfind(".", 0, two)
    if three < 0:
        return None
    if key[three:two] in _NAMED and key.endswith(".weight"):
        return key[:three], f"{key[three:two]}.weight"
    return (key[:three], key[three:]) if key[three:] in _PARTS else None


# The rest of the UNet, the text encoders and embeddings that LoRA files contain, and a uint8 tensor that ComfyUI 0.34
# and newer may write: which attention to use for a layer. All are reported but never used.
_PREFIXES = sorted({prefix for row in KEY_FORMATS for prefix in row.prefixes}, key=len, reverse=True)
_ELSEWHERE = re.compile(
    f"(?:{'|'.join(map(re.escape, _PREFIXES))})"
    f"(?!(?:{'|'.join(f'{b.path}|{b.host}' for b in BLOCKS).replace('.', '[._]')})[._])"
    f"(?:{'|'.join((*_DIFFUSERS_ROOTS, *_HOST_ROOTS))})[._]"
    r"|(?:lora_|lycoris_)(?:prior_)?te\d?_|lycoris_text_model_|text_encoders?(?:_\d)?[._]|clip_[lgh]\."
    r"|(?:te\d?\.)?text_model\.|base_model\.model\.text_model\.|bundle_emb\.|.*\.comfy_attention\.config$"
)


def parse(key: str) -> Parsed | None:
    """The parsed `key`, or None if it belongs to no known format.

    A row takes the endings of all others too, as ComfyUI does, if no row with its prefix and spelling knows the ending.
    """
    split = _split(key)
    if split:
        head, ending = split[0].replace(".", "_"), split[1]
        number = _NUMBER.search(head)
        rows = _HEADS.get(f"{head[: number.start()]}0{head[number.end() :]}" if number else head)
        if rows:
            row, path = next((r for r in rows if ending in _KNOWN[r[0].name]), rows[0])
            if number:
                path = _NUMBER.sub(number[0], path)
            return Parsed(row.name, path, _PARTS[ending], True)
    return Parsed("", key, "", False) if _ELSEWHERE.match(key) else None


def key_format_named(name: str) -> KeyFormat:
    """The key format called `name`. Raises KeyError for an unknown name."""
    return {f.name: f for f in KEY_FORMATS}[name]


def format_key(format: str, module: str, part: str) -> str:
    """The key of a part of a module (diffusers path) in a format; the inverse of `parse`.

    Raises KeyError for an unknown format, module or part.
    """
    return key_format_named(format).format(module, part)
