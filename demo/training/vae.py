"""Train the VAE's decoder (its encoder is written, see vae_weights), resumably.

Training sees 64 px crops. The last level is trained with 36 channels and put into the declared 96 when it is exported:
GroupNorm's 32 groups need 96 channels there to keep colours (vae_weights), but a third of them is enough to draw with.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .build import build_vae
from .latents import Basis
from .state import Checkpoint
from .vae_weights import SCALING, silence_middle, start_decoder, thin_tail, widen, write_encoder

CROP = 8  # latent cells a side
RATE = 1e-3


def thin_vae(basis: Basis) -> nn.Module:
    """The VAE with its written encoder and a decoder, ready to be trained, whose last level is thin."""
    vae = build_vae(basis.channels)
    decoder = vae.decoder
    decoder.up_blocks[3].resnets, decoder.conv_norm_out, decoder.conv_out = thin_tail()
    start_decoder(vae, basis)
    write_encoder(vae, basis)
    return vae


def trained(vae: nn.Module) -> dict[str, nn.Parameter]:
    """Everything in the decoder but for the parts kept silent."""
    silent = ("mid_block.attentions", "mid_block.resnets.1")
    return {f"decoder.{n}": p for n, p in vae.decoder.named_parameters() if not n.startswith(silent)}


def fixed(vae: nn.Module) -> dict[str, Tensor]:
    """0/1 masks of the colour path (vae_weights.carry): its constants are large, and a training that moves them lets
    the picture drift away (tried: at a rate of 1.5e-3 the loss trebled in a hundred steps). What residual blocks add to
    its three signals is free, what they would add to its constants is not.
    """
    masks, path, count = {}, "decoder.up_blocks.3.resnets", 9
    constants = [row for row in range(count) if row % 3]
    named = trained(vae)
    for name in (f"{path}.0.conv_shortcut", "decoder.conv_norm_out"):
        for part in ("weight", "bias"):
            masks[f"{name}.{part}"] = torch.ones_like(named[f"{name}.{part}"])
            masks[f"{name}.{part}"][:count] = 0
    masks["decoder.conv_out.weight"] = torch.ones_like(named["decoder.conv_out.weight"])
    masks["decoder.conv_out.weight"][:, :count] = 0
    for block in (0, 1):
        for part in ("weight", "bias"):
            mask = torch.ones_like(named[f"{path}.{block}.conv2.{part}"])
            mask[constants] = 0
            masks[f"{path}.{block}.conv2.{part}"] = mask
    return masks


def decode(vae: nn.Module, latents: Tensor) -> Tensor:
    """Latents (n, channels, h, w) as `Basis` gives them -> pictures (n, 3, 8h, 8w) in 0..1, with a thin decoder."""
    decoder = vae.decoder
    hidden = decoder.conv_in(vae.post_quant_conv(latents / SCALING))
    hidden = decoder.mid_block.resnets[0](hidden, None)
    for block in decoder.up_blocks:
        hidden = block(hidden)
    return decoder.conv_out(nn.functional.silu(decoder.conv_norm_out(hidden))) / 2 + 0.5


def bands(pictures: Tensor) -> list[Tensor]:
    """Luminance in three octaves, from the finest: (n, 1, h, w), (n, 1, h/2, w/2), ..."""
    grey, found = pictures.mean(1, keepdim=True), []
    for _ in range(3):
        small = nn.functional.avg_pool2d(grey, 2)
        found.append(grey - nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear"))
        grey = small
    return found


def texture(pictures: Tensor) -> list[Tensor]:
    """How strong each octave is round each place: deviation in 8x8 cells of it."""
    return [(nn.functional.avg_pool2d(band**2, 8, 4) + 1e-5).sqrt() for band in bands(pictures)]


def picture_loss(guess: Tensor, truth: Tensor) -> Tensor:
    """L1, squared error, L1 of the slopes, and the texture's strength: without the last, fine texture is blurred."""
    across = (guess - truth).diff(dim=-1).abs().mean()
    down = (guess - truth).diff(dim=-2).abs().mean()
    strength = sum(((a - b).abs()).mean() for a, b in zip(texture(guess), texture(truth)))
    return 2 * (guess - truth).abs().mean() + 4 * ((guess - truth) ** 2).mean() + across + down + strength


class Crops:
    """Random crops of the first shards' pictures."""

    def __init__(self, folder: Path, shards: int = 12) -> None:
        self.paths, self.limit = folder / "data", shards
        self.pictures: list[np.ndarray] = []

    def refresh(self) -> None:
        paths = sorted(self.paths.glob("[0-9]*.npz"))[: self.limit]
        for path in paths[len(self.pictures) :]:
            with np.load(path) as shard:
                self.pictures.append(shard["pictures"])

    def draw(self, count: int, basis: Basis, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Latents of whole-cell crops with a margin's worth of true neighbours left out, and the crops."""
        found = []
        for _ in range(count):
            shard = self.pictures[rng.integers(len(self.pictures))]
            picture = shard[rng.integers(len(shard))]
            top, left = 8 * rng.integers(0, 33 - CROP, 2)
            crop = picture[:, top : top + 8 * CROP, left : left + 8 * CROP]
            crop = crop[:, ::-1] if rng.random() < 0.3 else crop
            found.append(np.ascontiguousarray(crop[:, :, ::-1] if rng.random() < 0.5 else crop))
        truth = torch.from_numpy(np.stack(found)).float() / 255
        return basis.latents(truth), truth


class DecoderTrainer:
    """The decoder, its optimizer and its moving average, in FOLDER/vae.pt."""

    def __init__(self, folder: Path, basis: Basis, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.basis, self.device = basis.to(device), torch.device(device)
        self.vae = thin_vae(basis).to(device)
        self.named = trained(self.vae)
        self.checkpoint = Checkpoint(
            folder / "vae.pt", self.named, RATE, average=0.998, masks=fixed(self.vae), weight_decay=0.0
        )
        self.crops = Crops(folder)

    def run(self, minutes: float, batch: int = 8, log_every: int = 100) -> None:
        """Train for some minutes; the rate falls over the last 40 % of them."""
        state, began, saved = self.checkpoint, time.time(), time.time()
        self.crops.refresh()
        history = []
        while (share := (time.time() - began) / (60 * minutes)) < 1:
            rng = np.random.default_rng([11, state.step])
            latents, truth = (t.to(self.device) for t in self.crops.draw(batch, self.basis, rng))
            noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(state.step))
            guess = decode(self.vae, latents + 0.03 * noise.to(self.device))
            loss = picture_loss(guess, truth)
            loss.backward()
            state.update(rate=RATE * max(0.03, min(1, (1 - share) / 0.4)))
            history.append([loss.item(), ((guess.detach() - truth) ** 2).mean().item()])
            if state.step % log_every == 0:
                mean = np.mean(history[-log_every:], 0)
                print(
                    f"vae step {state.step} min {minutes * share:.1f} loss {mean[0]:.4f} "
                    f"crop PSNR {-10 * np.log10(mean[1]):.2f}",
                    flush=True,
                )
                self.crops.refresh()
            if time.time() - saved > 180:
                state.save()
                saved = time.time()
        state.save()


def averaged(folder: Path, basis: Basis, thin: bool = True) -> nn.Module:
    """The VAE with the moving average of the decoder's training; thin, or as it is shipped."""
    vae = thin_vae(basis)
    path = folder / "vae.pt"
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True)["average"], strict=False)
    if thin:
        return vae.eval()
    whole = build_vae(basis.channels)
    state = widen(vae.state_dict(), whole.state_dict())
    whole.load_state_dict(state)
    silence_middle(whole)
    return whole.eval()
