"""Teach the two text encoders the language of codes.py, by plain regression: the target of every token is known.

The last layer and the pooled output are never read by this UNet (SDXL's context is the layer before) and stay zero.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rechar_core.synthesis.tokenizer import tokenizers

from .codes import FIRST_SLOT, POSITION_SIZE, SLOTS, TOKENS, WIDTH_1, WIDTH_2
from .meanings import Meanings, all_glyphs
from .prompts import Prompt, random_prompt
from .state import Checkpoint

BATCH, RATE = 32, 2e-3
COLUMNS = (48, 176)  # of each encoder that have a meaning
SPANS = {
    "style": slice(0, 80),
    "elements": slice(80, 112),
    "position": slice(112, 176),
}  # columns of encoder 2


class Language:
    """Token ids and target codes of prompts."""

    def __init__(self, meanings: Meanings) -> None:
        self.tokenizers, self.meanings = tokenizers(), meanings
        self.content = all_glyphs(meanings)
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
        """(77, 48): content codes at the slots that have read the glyph, else zero."""
        target = torch.zeros(TOKENS, COLUMNS[0])
        if prompt.glyph and not prompt.blank:
            first = max(FIRST_SLOT, self.known(prompt, "content"))
            target[first:] = self.content[prompt.glyph][first - FIRST_SLOT :]
        return target

    def target_2(self, prompt: Prompt) -> Tensor:
        """(77, 176): style and elements from where they are known, and the slot's own position; zero for blank."""
        target = torch.zeros(TOKENS, COLUMNS[1])
        if prompt.blank:
            return target
        m = self.meanings
        target[self.known(prompt, "style") :, SPANS["style"]] = (
            m.style(*prompt.style) if prompt.style else m.plain
        )
        first = max(FIRST_SLOT, self.known(prompt, "elements"))
        target[first:, SPANS["elements"]] = m.elements(prompt.elements)[first - FIRST_SLOT :]
        target[FIRST_SLOT:, SPANS["position"]] = POSITION_SIZE * torch.eye(SLOTS)
        return target

    def context(self, prompts: list[Prompt]) -> Tensor:
        """(n, 77, 320): what perfect encoders would say."""
        first = torch.stack([self.target_1(prompt) for prompt in prompts])
        second = torch.stack([self.target_2(prompt) for prompt in prompts])
        pad = nn.functional.pad
        return torch.cat([pad(first, (0, WIDTH_1 - COLUMNS[0])), pad(second, (0, WIDTH_2 - COLUMNS[1]))], -1)


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
            table[:, : COLUMNS[1]] = 0
            table[FIRST_SLOT:, SPANS["position"]] = POSITION_SIZE * torch.eye(SLOTS)

    def learning(self) -> dict[str, nn.Parameter]:
        """What is trained: the used rows, the positions, and every layer that is read."""
        inner = core(self.encoder)
        named = {"rows": self.rows, "positions": inner.embeddings.position_embedding.weight}
        for number, layer in enumerate(inner.encoder.layers[:-1]):
            named |= {f"layers.{number}.{name}": p for name, p in layer.named_parameters()}
        return named

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
    texts = {random_prompt(rng).text for _ in range(6000)}
    return torch.tensor(sorted({token for text in texts for token in language.ids(text, encoder)}))


class TextTrainer:
    """One encoder's training, in FOLDER/text_encoder.pt or text_encoder_2.pt."""

    def __init__(self, folder: Path, which: int, encoder: nn.Module, language: Language) -> None:
        torch.manual_seed(which)
        self.which, self.language = which, language
        self.student = Student(encoder, used_tokens(language, which))
        path = folder / ("text_encoder.pt", "text_encoder_2.pt")[which]
        named = self.student.learning()
        self.checkpoint = Checkpoint(path, named, RATE, average=0.999, weight_decay=0.0)
        self.target = (language.target_1, language.target_2)[which]

    def run(self, minutes: float, fall: float = 0.0) -> None:
        """Train for some minutes; the rate falls over the last share `fall` of them."""
        state, began, saved, history = self.checkpoint, time.time(), time.time(), []
        weight = torch.ones(COLUMNS[self.which])
        if self.which:
            weight[SPANS["style"]] = 2.0
        while (share := (time.time() - began) / (60 * minutes)) < 1:
            rng = np.random.default_rng([13, state.step])
            batch = [random_prompt(rng) for _ in range(BATCH)]
            ids = torch.tensor([self.language.ids(prompt.text, self.which) for prompt in batch])
            target = torch.stack([self.target(prompt) for prompt in batch])
            error = ((self.student(ids)[..., : COLUMNS[self.which]] - target) ** 2 * weight).mean()
            error.backward()
            state.update(RATE * max(0.02, min(1.0, (1 - share) / fall) if fall else 1.0))
            history.append(error.item())
            if state.step % 200 == 0:
                print(
                    f"text {self.which + 1} step {state.step} error {np.mean(history[-200:]):.4f}", flush=True
                )
            if time.time() - saved > 180:
                state.save()
                saved = time.time()
        state.save()

    @torch.no_grad()
    def averaged(self) -> dict[str, Tensor]:
        """The encoder's state at its moving average; the training's own weights are put back."""
        kept = [p.detach().clone() for p in self.checkpoint.parameters]
        for parameter, moving in zip(self.checkpoint.parameters, self.checkpoint.moving):
            parameter.copy_(moving)
        state = {name: tensor.clone() for name, tensor in self.student.state().items()}
        for parameter, own in zip(self.checkpoint.parameters, kept):
            parameter.copy_(own)
        return state
