"""Which block reads what: the division of labour that makes B-LoRA work on this model, written into the weights.

up_blocks.0.attentions.0 reads content, .1 style, .2 elements. Every other cross-attention, and the path from the pooled
text and the size numbers into the time embedding, is fixed at zero, so text has no other way in.
"""

import torch
from torch import Tensor, nn

from .codes import CONTENT, ELEMENT, FIRST_SLOT, GRID, POSITION, POSITION_SIZE, SLOTS, STYLE, WIDTH

ROLES: dict[str, slice] = {
    "up_blocks.0.attentions.0": CONTENT,
    "up_blocks.0.attentions.1": STYLE,
    "up_blocks.0.attentions.2": ELEMENT,
}
SLOTTED = ("up_blocks.0.attentions.0", "up_blocks.0.attentions.2")  # each patch is to look at its own slot


class Silent(nn.Module):
    """Stands in, during training, for a cross-attention whose output is fixed at zero."""

    def forward(self, hidden_states: Tensor, *_: object, **__: object) -> Tensor:
        return torch.zeros_like(hidden_states)


class SlotAttention:
    """A diffusers attention processor that also leaves its logits (batch, heads, queries, tokens) behind."""

    logits: Tensor

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object
    ) -> Tensor:
        batch, queries, width = hidden_states.shape

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, -1, attn.heads, width // attn.heads).transpose(1, 2)

        query = heads(attn.to_q(hidden_states))
        key, value = heads(attn.to_k(encoder_hidden_states)), heads(attn.to_v(encoder_hidden_states))
        self.logits = query @ key.transpose(-1, -2) * attn.scale
        mixed = self.logits.softmax(-1) @ value
        return attn.to_out[0](mixed.transpose(1, 2).reshape(batch, queries, width))


def _transformers(unet: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, m) for name, m in unet.named_modules() if type(m).__name__ == "Transformer2DModel"]


def slotted_layers(unet: nn.Module) -> list[nn.Module]:
    """The cross-attentions whose patches look at their own slots."""
    return [block.attn2 for name in SLOTTED for block in unet.get_submodule(name).transformer_blocks]


@torch.no_grad()
def initialise(unet: nn.Module) -> None:
    """Zero the silent paths and every column that a block must not read; let slots be found from the start."""
    unet.add_embedding.linear_1.weight.zero_()
    for name, transformer in _transformers(unet):
        for block in transformer.transformer_blocks:
            if name not in ROLES:
                for parameter in block.attn2.parameters():
                    parameter.zero_()
                continue
            columns = ROLES[name]
            for weight in (block.attn2.to_k.weight, block.attn2.to_v.weight):
                kept = weight[:, columns].clone() * (WIDTH / (columns.stop - columns.start)) ** 0.5
                weight.zero_()
                weight[:, columns] = kept
    for attention in slotted_layers(unet):
        weight = attention.to_k.weight  # heads of 32: 8 rows, 8 columns, 16 unused
        weight.zero_()
        for slot in range(SLOTS):
            for head in range(attention.heads):
                weight[32 * head + slot // GRID, POSITION.start + slot] = 4 / POSITION_SIZE
                weight[32 * head + GRID + slot % GRID, POSITION.start + slot] = 4 / POSITION_SIZE


def trainable(unet: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
    """The parameters that may move by name, and for some a 0/1 mask of the entries that may."""
    silent = {"add_embedding.linear_1.weight"}
    for name, transformer in _transformers(unet):
        if name not in ROLES:
            silent |= {f"{name}.{inner}" for inner, _ in transformer.named_parameters() if ".attn2." in inner}
    named = {name: p for name, p in unet.named_parameters() if name not in silent}
    masks = {}
    for name, parameter in named.items():
        owner = next((role for role in ROLES if name.startswith(role + ".")), None)
        if owner and name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            mask = torch.zeros(WIDTH, device=parameter.device)
            mask[ROLES[owner]] = 1
            if name.endswith("to_k.weight") and owner in SLOTTED:
                mask[POSITION] = 1
            masks[name] = mask.expand_as(parameter).clone()
    return named, masks


def prepare_for_training(unet: nn.Module) -> list[SlotAttention]:
    """Skip silent cross-attentions and expose the slotted blocks' attention logits. Undo: build a fresh UNet."""
    for name, transformer in _transformers(unet):
        if name not in ROLES:
            for block in transformer.transformer_blocks:
                block.attn2 = Silent()
    processors = []
    for attention in slotted_layers(unet):
        processors.append(SlotAttention())
        attention.set_processor(processors[-1])
    return processors


def slot_loss(logits: Tensor, told: Tensor) -> Tensor:
    """Cross-entropy of 'patch p looks at slot p' over the samples whose slots are told (batch,);
    logits (batch, heads, 64, 77).
    """
    own = torch.arange(SLOTS, device=logits.device)
    chosen = logits.float().log_softmax(-1)[:, :, own, own + FIRST_SLOT].mean((1, 2))
    return -(chosen * told).sum() / told.sum().clamp(min=1)
