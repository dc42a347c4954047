"""Random IP-Adapters in the published files' layout, small, for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

State = dict[str, Tensor]


def layers(widths: Sequence[int], context: int, draw: torch.Generator) -> State:
    """The attention matrices of an adapter for cross-attentions of these widths."""
    found = {}
    for number, width in enumerate(widths):
        for part in ("to_k_ip", "to_v_ip"):
            matrix = torch.randn(width, context, generator=draw) / context**0.5
            found[f"ip_adapter.{2 * number + 1}.{part}.weight"] = matrix
    return found


def plain(widths: Sequence[int], context: int, embedding: int = 24, seed: int = 0) -> State:
    draw = torch.Generator().manual_seed(seed)
    image = {
        "proj.weight": torch.randn(4 * context, embedding, generator=draw) / embedding**0.5,
        "proj.bias": torch.randn(4 * context, generator=draw),
        "norm.weight": 1 + 0.3 * torch.randn(context, generator=draw),
        "norm.bias": 0.3 * torch.randn(context, generator=draw),
    }
    return {f"image_proj.{k}": t for k, t in image.items()} | layers(widths, context, draw)


def plus(
    widths: Sequence[int],
    context: int,
    hidden: int = 48,
    width: int = 128,
    tokens: int = 6,
    depth: int = 4,
    seed: int = 1,
) -> State:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) / shape[-1] ** 0.5

    def norm(name: str, size: int) -> State:
        return {f"{name}.weight": 1 + 0.3 * normal(size), f"{name}.bias": normal(size)}

    image = {"latents": torch.randn(1, tokens, width, generator=draw)}
    image |= {"proj_in.weight": normal(width, hidden), "proj_in.bias": normal(width)}
    image |= {"proj_out.weight": normal(context, width), "proj_out.bias": normal(context)}
    image |= norm("norm_out", context)
    for i in range(depth):
        image |= norm(f"layers.{i}.0.norm1", width) | norm(f"layers.{i}.0.norm2", width)
        image[f"layers.{i}.0.to_q.weight"] = normal(width, width)
        image[f"layers.{i}.0.to_kv.weight"] = normal(2 * width, width)
        image[f"layers.{i}.0.to_out.weight"] = normal(width, width)
        image |= norm(f"layers.{i}.1.0", width)
        image[f"layers.{i}.1.1.weight"] = normal(4 * width, width)
        image[f"layers.{i}.1.3.weight"] = normal(width, 4 * width)
    return {f"image_proj.{k}": t for k, t in image.items()} | layers(widths, context, draw)


def halves(state: State) -> dict[str, State]:
    """As diffusers takes an adapter: {"image_proj": ..., "ip_adapter": ...}."""
    return {
        part: {k.removeprefix(f"{part}."): t for k, t in state.items() if k.startswith(f"{part}.")}
        for part in ("image_proj", "ip_adapter")
    }


def cross_attentions(unet: torch.nn.Module) -> list[str]:
    """A diffusers UNet's cross-attentions in the order of an adapter's numbers: down, up, middle."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    return [name for name in names if name.endswith("attn2")]


def stock(pack: Path, models: Path) -> None:
    """What leads the demo model, with random weights, in a server's copy of the pack, where the trained files are not.

    models: the server's folder; it gets a ControlNet under the name of the published one.
    """
    from safetensors.torch import save_file

    from rechar_core.demo import extras

    folder = pack / "rechar_core" / "demo"
    net = {extras.original_name(k): t for k, t in random_controlnet().items()}
    if not (folder / extras.CONTROLNET.name).is_file():
        save_file(net, folder / extras.CONTROLNET.name)
    if not (folder / extras.ADAPTERS.name).is_file():
        save_file(demo_adapters(), folder / extras.ADAPTERS.name)
    (models / "controlnet").mkdir(parents=True, exist_ok=True)
    save_file(net, models / "controlnet" / "controlnet-canny-sdxl-1.0.safetensors")


def random_controlnet() -> State:
    """A ControlNet of the demo's size in diffusers' naming that does something: its last layers are not zero."""
    from rechar_core.demo import extras

    torch.manual_seed(0)
    state = extras.build_controlnet().state_dict()
    last = ("controlnet_down_blocks", "controlnet_mid_block")
    return {k: 0.05 * torch.randn_like(t) if k.startswith(last) else t for k, t in state.items()}


def demo_adapters() -> State:
    """Encoder and both projections as the demo's adapters.safetensors holds them."""
    from rechar_core.demo import build, extras

    torch.manual_seed(1)
    encoder = extras.build_encoder()
    context = build.read_config()["unet"]["cross_attention_dim"]
    parts = {
        "style": plain([], context, encoder.config.projection_dim),
        "composition": plus([], context, encoder.config.hidden_size),
    }
    found = {f"encoder.{k}": t for k, t in encoder.state_dict().items()}
    for name, state in parts.items():
        found |= {f"{name}.{k.removeprefix('image_proj.')}": t for k, t in state.items()}
    return {k: t.clone().contiguous() for k, t in found.items()}
