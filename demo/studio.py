"""The shipped demo model at work, in batches: encode, learn a B-LoRA, draw. Evaluation only."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from rechar_core.backend.denoiser import DiffusersDenoiser
from rechar_core.demo import load_demo
from rechar_core.lora.blora import BLora
from rechar_core.lora.fusion import Fusion, applied
from rechar_core.training.denoiser import Conditioning, LatentMoments
from rechar_core.training.loop import Training
from rechar_core.training.recipe import TrainingRecipe
from rechar_core.training.run import TrainingRun

from .roles import Silent

Array = np.ndarray


class Shortcut(nn.Module):
    """What a resnet block is when its residual branch is zero."""

    def __init__(self, resnet: nn.Module) -> None:
        super().__init__()
        self.inner = resnet.conv_shortcut or nn.Identity()

    def forward(self, hidden: Tensor, temb: Tensor | None = None) -> Tensor:
        return self.inner(hidden)


def lighten(unet: nn.Module, vae: nn.Module) -> None:
    """Leave out what is fixed at zero: the same pictures in two thirds of the time."""
    for name, module in [*unet.named_modules(), *vae.named_modules()]:
        for child_name, child in module.named_children():
            if child_name == "attn2" and not child.to_out[0].weight.any() and not child.to_out[0].bias.any():
                module.attn2 = Silent()
            if name.endswith("resnets") and not child.conv2.weight.any() and not child.conv2.bias.any():
                module[int(child_name)] = Shortcut(child)


class Studio:
    """Holds the model; pictures are (256, 256, 3) arrays in 0..1."""

    def __init__(self) -> None:
        self.model = load_demo()
        lighten(self.model.unet, self.model.vae)
        self.denoiser = DiffusersDenoiser(self.model.unet, dict(self.model.scheduler.config))
        self.scale = self.model.vae.config.scaling_factor

    @torch.no_grad()
    def context(self, prompts: Sequence[str]) -> Tensor:
        """(n, 77, 192): both encoders' states before their last layer, side by side."""
        parts = []
        for tokenizer, encoder in (
            (self.model.tokenizer, self.model.text_encoder),
            (self.model.tokenizer_2, self.model.text_encoder_2),
        ):
            batch = tokenizer(list(prompts), padding="max_length", max_length=77, truncation=True)
            ids = torch.tensor(batch.input_ids)
            parts.append(encoder(input_ids=ids, output_hidden_states=True).hidden_states[-2])
        return torch.cat(parts, -1)

    def _added(self, count: int) -> dict[str, Tensor]:
        width = self.model.text_encoder_2.config.projection_dim
        ids = torch.tensor([[256.0, 256, 0, 0, 256, 256]])
        return {"text_embeds": torch.zeros(count, width), "time_ids": ids.expand(count, -1)}

    @torch.no_grad()
    def moments(self, picture: Array) -> LatentMoments:
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() * 2 - 1
        posterior = self.model.vae.encode(pixels).latent_dist
        return LatentMoments(posterior.mean * self.scale, posterior.std * self.scale)

    def learn(self, picture: Array, recipe: TrainingRecipe) -> BLora:
        added = self._added(1)
        conditioning = Conditioning(self.context([recipe.prompt]), added["text_embeds"], added["time_ids"])
        training = Training(self.denoiser, [self.moments(picture)], conditioning, recipe)
        for _ in TrainingRun([training]).steps():
            pass
        return training.blora()

    @torch.no_grad()
    def draw(
        self, prompts: Sequence[str], seeds: Sequence[int], fusion: Fusion, guidance: float, steps: int
    ) -> list[Array]:
        """One picture a (prompt, seed), Euler; the unconditional side of the guidance is the empty prompt."""
        count, scheduler = len(prompts), self.model.scheduler
        scheduler.set_timesteps(steps)
        noise = [torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        latents = torch.cat(noise) * scheduler.init_noise_sigma
        context = self.context(prompts)
        guided = guidance != 1
        both = torch.cat([self.context([""]).expand_as(context), context]) if guided else context
        with applied(self.model.unet, fusion):
            for time in scheduler.timesteps:
                noisy = scheduler.scale_model_input(torch.cat([latents] * (2 if guided else 1)), time)
                added = self._added(len(noisy))
                guess = self.model.unet(
                    noisy, time, encoder_hidden_states=both, added_cond_kwargs=added
                ).sample
                if guided:
                    without, within = guess.split(count)
                    guess = without + guidance * (within - without)
                latents = scheduler.step(guess, time, latents).prev_sample
        pictures = [self.model.vae.decode(z[None] / self.scale).sample for z in latents]
        return [(p[0].permute(1, 2, 0).numpy().clip(-1, 1) + 1) / 2 for p in pictures]
