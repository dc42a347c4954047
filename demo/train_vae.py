"""Train the demo VAE's decoder (its encoder is written, see vae_weights): `python -m demo.train_vae FOLDER MINUTES`.

Training sees 64 px crops at the 128 px level, where the decoder's RGB lies in the first three channels.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rechar_core.demo.build import build_vae

from .codes import Basis
from .vae_weights import SCALING, start_decoder, write_encoder, write_tail

CROP = 16  # latent cells a side
BATCH = 8
RATE = 2e-3


def decode_small(vae: nn.Module, latents: Tensor) -> Tensor:
    """Unit-variance latents (n, 4, h, w) -> pictures (n, 3, 4h, 4w) in -1..1, stopping before the last level."""
    decoder = vae.decoder
    hidden = decoder.mid_block(decoder.conv_in(vae.post_quant_conv(latents / SCALING)))
    for block in decoder.up_blocks[:2]:
        hidden = block(hidden)
    for resnet in decoder.up_blocks[2].resnets:
        hidden = resnet(hidden, temb=None)
    return hidden[:, :3]


def picture_loss(guess: Tensor, truth: Tensor) -> Tensor:
    """L1 + squared error + half the L1 of the slopes."""
    across = (guess - truth).diff(dim=-1).abs().mean()
    down = (guess - truth).diff(dim=-2).abs().mean()
    return (guess - truth).abs().mean() + ((guess - truth) ** 2).mean() + 0.5 * (across + down)


class Crops:
    """Random crops of rendered pictures and their latents."""

    def __init__(self, folder: Path, shards: int = 4) -> None:
        paths = sorted((folder / "data").glob("pictures_*.npy"))[:shards]
        self.pictures = np.concatenate([np.load(path) for path in paths])
        codes = [np.load(str(path).replace("pictures_", "codes_").replace(".npy", ".npz")) for path in paths]
        self.latents = np.concatenate([code["latents"] for code in codes])
        self.rng = np.random.default_rng(3)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        latents, pictures = [], []
        for row in self.rng.integers(0, len(self.pictures), count):
            top, left = self.rng.integers(0, 32 - CROP + 1, 2)
            latents.append(self.latents[row, :, top : top + CROP, left : left + CROP])
            pixels = slice(4 * top, 4 * (top + CROP)), slice(4 * left, 4 * (left + CROP))
            pictures.append(self.pictures[row][pixels])
        truth = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
        return torch.from_numpy(np.stack(latents)).float(), truth


def trained_parameters(vae: nn.Module) -> list[nn.Parameter]:
    """Everything in the decoder up to the 128 px level, but for the parts kept silent."""
    frozen = (
        "mid_block.attentions",
        "mid_block.resnets.1",
        "up_blocks.2.upsamplers",
        "up_blocks.3",
        "conv_norm_out",
    )
    named = vae.decoder.named_parameters()
    return [p for name, p in named if not name.startswith((*frozen, "conv_out"))]


def prepare(folder: Path) -> nn.Module:
    """The VAE with its written ends; the decoder goes on from FOLDER/ckpt/vae.pt if that exists."""
    vae, basis, path = build_vae(), Basis.load(folder / "data" / "basis.npz"), folder / "ckpt" / "vae.pt"
    start_decoder(vae, basis)
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
    with torch.no_grad():
        write_encoder(vae, basis)
        write_tail(vae)
    return vae


def train(vae: nn.Module, crops: Crops, minutes: float) -> None:
    """Train the decoder for some minutes and leave it at the moving average of its weights."""
    parameters = trained_parameters(vae)
    moving = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0)
    noise, began, step = torch.Generator().manual_seed(1), time.time(), 0
    while (share := (time.time() - began) / (60 * minutes)) < 1:
        latents, truth = crops.draw(BATCH)
        latents += 0.04 * torch.randn(latents.shape, generator=noise)
        with torch.autocast("cpu", torch.bfloat16):
            guess = decode_small(vae, latents)
        loss = picture_loss(guess.float(), truth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 50) * max(0.02, min(1, 2 * (1 - share)))
        optimizer.step()
        step += 1
        decay = min(0.995, (1 + step) / (10 + step))
        torch._foreach_lerp_(moving, [p.detach() for p in parameters], 1 - decay)
        if step % 100 == 0:
            ratio = -10 * torch.log10(((guess.float() - truth) ** 2).mean() / 4)
            print(f"step {step} min {minutes * share:.1f} loss {loss:.4f} crop PSNR {ratio:.2f}", flush=True)
    with torch.no_grad():
        for parameter, average in zip(parameters, moving):
            parameter.copy_(average)


def main() -> None:
    folder, minutes = Path(sys.argv[1]), float(sys.argv[2])
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    vae = prepare(folder)
    train(vae, Crops(folder), minutes)
    torch.save(vae.state_dict(), folder / "ckpt" / "vae.pt")


if __name__ == "__main__":
    main()
