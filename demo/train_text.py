"""Teach the two text encoders the language of codes.py: `python -m demo.train_text FOLDER MINUTES`.

Plain regression: the target of every token is known. The last layer and the pooled output are never read by this
UNet (SDXL's context is the layer before) and stay zero.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rechar_core.demo.build import build_text_encoders
from rechar_core.synthesis.tokenizer import tokenizers

from .catalog import NAMED_GLYPHS, PALETTES
from .codes import FIRST_SLOT, POSITION_SIZE, SLOTS, TOKENS, WIDTH_1, Basis, element_code, style_code
from .glyphs import canonical_mask
from .prompts import Prompt, random_prompt
from .styles import named_style

BATCH = 48
RATE = 3e-3
SPANS = {"style": slice(0, 24), "elements": slice(24, 32), "position": slice(32, 96)}  # columns of encoder 2


class Language:
    """Token ids and target codes of prompts."""

    def __init__(self, basis: Basis) -> None:
        self.tokenizers = tokenizers()
        masks = np.stack([canonical_mask(g, "latin" if g.isascii() else "cjk") for g in NAMED_GLYPHS])
        self.content = dict(zip(NAMED_GLYPHS, torch.from_numpy(basis.content(masks))))
        self.plain = torch.from_numpy(style_code(named_style("plain", PALETTES["plain"][0])))
        self.lengths: dict[str, int] = {}

    def ids(self, text: str, encoder: int) -> list[int]:
        tokenizer = self.tokenizers[encoder]
        return tokenizer(text, padding="max_length", max_length=TOKENS, truncation=True).input_ids

    def known(self, prompt: Prompt, what: str) -> int:
        """Index of the first token that has read the end of `what`, or the end token's if the prompt lacks it."""
        text = prompt.before(what)
        if text not in self.lengths:
            self.lengths[text] = len(self.tokenizers[0](text).input_ids) - 2
        last = self.lengths[text]
        return last if any(kind == what for _, kind in prompt.parts) else last + 1

    def target_1(self, prompt: Prompt) -> Tensor:
        """(77, 32): content codes at the slots that have read the glyph, else zero."""
        target = torch.zeros(TOKENS, 32)
        if prompt.glyph:
            first = max(FIRST_SLOT, self.known(prompt, "content"))
            target[first:] = self.content[prompt.glyph][first - FIRST_SLOT :]
        return target

    def target_2(self, prompt: Prompt) -> Tensor:
        """(77, 96): style and elements from where they are known, and the slot's own position."""
        target = torch.zeros(TOKENS, 96)
        style = torch.from_numpy(style_code(named_style(*prompt.style))) if prompt.style else self.plain
        target[self.known(prompt, "style") :, SPANS["style"]] = style
        target[self.known(prompt, "elements") :, SPANS["elements"]] = torch.from_numpy(
            element_code(prompt.elements)
        )
        target[FIRST_SLOT:, SPANS["position"]] = POSITION_SIZE * torch.eye(SLOTS)
        return target


def core(encoder: nn.Module) -> nn.Module:
    """The text transformer inside (transformers 5 has no wrapper in the first encoder)."""
    return encoder.text_model if hasattr(encoder, "text_model") else encoder


class Student(nn.Module):
    """A text encoder with a small embedding table, stopping where SDXL reads its context."""

    def __init__(self, encoder: nn.Module, used: Tensor) -> None:
        super().__init__()
        self.encoder, self.used = encoder, used
        inner = core(encoder)
        width = inner.embeddings.token_embedding.weight.shape[1]
        self.rows = nn.Parameter(0.3 * torch.randn(len(used), width))
        inner.embeddings.position_embedding.weight.data.normal_(0, 0.3)
        self.row_of = torch.zeros(49408, dtype=torch.long)
        self.row_of[used] = torch.arange(len(used))
        if width > WIDTH_1:
            table = inner.embeddings.position_embedding.weight.data
            table[:, :96] = 0
            table[FIRST_SLOT:, SPANS["position"]] = POSITION_SIZE * torch.eye(SLOTS)

    def forward(self, ids: Tensor) -> Tensor:
        """(batch, 77) -> (batch, 77, width): the state before the last layer, as hidden_states[-2]."""
        inner = core(self.encoder)
        hidden = self.rows[self.row_of[ids]] + inner.embeddings.position_embedding.weight
        for layer in inner.encoder.layers[:-1]:
            hidden = _layer(layer, hidden)
        return hidden

    @torch.no_grad()
    def state(self) -> dict[str, Tensor]:
        """The encoder's state, the trained rows put in place, plus `token_ids`."""
        silent = [core(self.encoder).encoder.layers[-1]]
        if hasattr(self.encoder, "text_projection"):
            silent.append(self.encoder.text_projection)
        for module in silent:
            for parameter in module.parameters():
                parameter.zero_()
        table = core(self.encoder).embeddings.token_embedding.weight
        table.copy_(self.rows.mean(0).expand_as(table))
        table[self.used] = self.rows
        return {**self.encoder.state_dict(), "token_ids": self.used.int()}


def _layer(layer: nn.Module, hidden: Tensor) -> Tensor:
    """One CLIP layer with its causal attention, straight from its weights."""
    attention, normed = layer.self_attn, layer.layer_norm1(hidden)
    batch, tokens, width = hidden.shape

    def heads(x: Tensor) -> Tensor:
        return x.view(batch, tokens, attention.num_heads, -1).transpose(1, 2)

    query, key, value = (heads(p(normed)) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    hidden = hidden + attention.out_proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
    return hidden + layer.mlp(layer.layer_norm2(hidden))


def used_tokens(language: Language, encoder: int) -> Tensor:
    """Every token that occurs in many random prompts (glyphs, styles and elements all do)."""
    rng = np.random.default_rng(0)
    texts = {random_prompt(rng).text for _ in range(4000)}
    return torch.tensor(sorted({token for text in texts for token in language.ids(text, encoder)}))


def teach(encoder: nn.Module, which: int, language: Language, minutes: float) -> dict[str, Tensor]:
    """Regress one encoder onto its targets for some minutes; returns its state."""
    torch.manual_seed(which)
    student = Student(encoder, used_tokens(language, which))
    target_of = (language.target_1, language.target_2)[which]
    columns = (32, 96)[which]
    weight = torch.ones(columns) if which == 0 else torch.cat([torch.ones(32) * 2, torch.ones(64)])
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0)
    rng, began, step = np.random.default_rng(1), time.time(), 0
    while (share := (time.time() - began) / (60 * minutes)) < 1:
        batch = [random_prompt(rng) for _ in range(BATCH)]
        ids = torch.tensor([language.ids(prompt.text, which) for prompt in batch])
        target = torch.stack([target_of(prompt) for prompt in batch])
        error = ((student(ids)[..., :columns] - target) ** 2 * weight).mean()
        optimizer.zero_grad()
        error.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * max(0.02, 0.5 + 0.5 * np.cos(np.pi * share))
        optimizer.step()
        step += 1
        if step % 200 == 0:
            print(f"encoder {which + 1} step {step} share {share:.2f} error {error:.4f}", flush=True)
    return student.state()


def main() -> None:
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    language = Language(Basis.load(folder / "data" / "basis.npz"))
    only = sys.argv[3:]
    for which, (name, encoder) in enumerate(zip(("text_encoder", "text_encoder_2"), build_text_encoders())):
        if not only or name in only:
            torch.save(teach(encoder, which, language, minutes), folder / "ckpt" / f"{name}.pt")


if __name__ == "__main__":
    main()
