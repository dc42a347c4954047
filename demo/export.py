"""Write the shipped file: `python -m demo.export FOLDER` gathers FOLDER/ckpt/{last,vae,text}.pt into rechar_core/demo.

Parts that were not trained yet are written as they are initialised, so that others can build against the file.
"""

import json
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rechar_core.demo.build import TOKENS, WEIGHTS, build_text_encoders, build_unet, build_vae

from .roles import initialise

SPARSE = 0.2  # tensors with a smaller share of non-zero values are stored by index


def _trained_unet(folder: Path) -> dict[str, Tensor]:
    unet = build_unet()
    initialise(unet)
    state = unet.state_dict()
    path = folder / "ckpt" / "last.pt"
    if path.exists():
        average = torch.load(path, weights_only=True)["average"]
        unknown = set(average) - set(state)
        if unknown:
            raise SystemExit(f"{path} holds tensors that the UNet lacks: {sorted(unknown)[:5]}")
        state |= average
    _fold_constant(state)
    return state


def _fold_constant(state: dict[str, Tensor]) -> None:
    """The added embedding reads nothing (its first weight is zero), so it is a constant: keep only that."""
    hidden = nn.functional.silu(state["add_embedding.linear_1.bias"])
    state["add_embedding.linear_2.bias"] = (
        state["add_embedding.linear_2.weight"] @ hidden + state["add_embedding.linear_2.bias"]
    )
    state["add_embedding.linear_2.weight"] = torch.zeros_like(state["add_embedding.linear_2.weight"])


def _pack(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Tensors as stored, and the shapes of those that are stored by their few non-zero values."""
    stored, shapes = {}, {}
    for name, tensor in tensors.items():
        if tensor.dtype == torch.int32:
            stored[name] = tensor
        elif tensor.count_nonzero() < SPARSE * tensor.numel():
            index = tensor.flatten().nonzero()[:, 0].int()
            shapes[name] = list(tensor.shape)
            stored |= {f"{name}.index": index, f"{name}.value": tensor.flatten()[index.long()].half()}
        else:
            stored[name] = tensor.half().contiguous()
    return stored, shapes


def _trained_part(folder: Path, name: str, module: nn.Module) -> dict[str, Tensor]:
    path = folder / "ckpt" / f"{name}.pt"
    return torch.load(path, weights_only=True) if path.exists() else module.state_dict()


def _text_states(folder: Path) -> dict[str, Tensor]:
    """Both text encoders under classic names, their embeddings cut to the trained rows."""
    tensors: dict[str, Tensor] = {}
    for prefix, module in zip(("text_encoder", "text_encoder_2"), build_text_encoders()):
        state = _trained_part(folder, prefix, module)
        ids = state.pop("token_ids", torch.arange(64, dtype=torch.int32))
        for name, tensor in state.items():
            if name.endswith("position_ids"):
                continue
            classic = name if name.startswith(("text_model.", "text_projection")) else f"text_model.{name}"
            tensors[f"{prefix}.{classic}"] = tensor
        table = tensors.pop(f"{prefix}.{TOKENS}weight")
        tensors[f"{prefix}.{TOKENS}rows"] = table[ids.long()]
        tensors[f"{prefix}.{TOKENS}ids"] = ids.int()
    return tensors


def main() -> None:
    folder = Path(sys.argv[1])
    tensors = {f"unet.{name}": tensor for name, tensor in _trained_unet(folder).items()}
    tensors |= {f"vae.{name}": tensor for name, tensor in _trained_part(folder, "vae", build_vae()).items()}
    tensors |= _text_states(folder)
    stored, shapes = _pack(tensors)
    partial = WEIGHTS.with_suffix(".partial")
    save_file(stored, partial, metadata={"sparse": json.dumps(shapes, separators=(",", ":"))})
    partial.chmod(0o644)
    os.replace(partial, WEIGHTS)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size / 1e6:.1f} MB, {len(tensors)} tensors, {len(shapes)} sparse")


if __name__ == "__main__":
    main()
