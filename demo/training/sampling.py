"""Draw with a UNet as it is: Euler over SDXL's schedule as diffusers' EulerDiscreteScheduler spaces it ("leading")."""

import torch
from torch import Tensor, nn

from .samples import alphas_cumprod


def _times(steps: int) -> Tensor:
    """Integer times from noisy to clean, spaced "leading" with an offset of 1."""
    return (torch.arange(steps) * (1000 // steps)).flip(0) + 1


@torch.no_grad()
def sample(
    unet: nn.Module,
    context: Tensor,
    seed: int,
    steps: int = 16,
    guidance: float = 1.0,
    empty: Tensor | None = None,
) -> Tensor:
    """Latents (n, c, 32, 32) of contexts (n, 77, w); `empty` (1, 77, w): what guidance leads away from."""
    n, channels = len(context), unet.config.in_channels
    alphas = alphas_cumprod()
    sigmas = ((1 - alphas) / alphas).sqrt()
    times = _times(steps)
    levels = torch.cat([sigmas[times], torch.zeros(1)])
    noise = [
        torch.randn(1, channels, 32, 32, generator=torch.Generator().manual_seed(seed + k)) for k in range(n)
    ]
    x = torch.cat(noise) * (levels[0] ** 2 + 1).sqrt()
    guided = guidance != 1 and empty is not None
    both = torch.cat([empty.expand_as(context), context]) if guided else context
    width = unet.config.projection_class_embeddings_input_dim - 6 * 256
    for time, sigma, following in zip(times, levels, levels[1:]):
        scaled = torch.cat([x] * (2 if guided else 1)) / (sigma**2 + 1).sqrt()
        added = {"text_embeds": torch.zeros(len(scaled), width), "time_ids": torch.zeros(len(scaled), 6)}
        v = unet(scaled, time, encoder_hidden_states=both, added_cond_kwargs=added).sample
        if guided:
            without, within = v.split(n)
            v = without + guidance * (within - without)
        clean = x / (sigma**2 + 1) - v * sigma / (sigma**2 + 1).sqrt()
        x = clean + (x - clean) * following / sigma
    return x
