"""ReChar's passes in the host: what the single nodes do, one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...rechar_core.synthesis.elements import PromptToken
from ...rechar_core.synthesis.passes import RenderJob
from ...rechar_core.synthesis.references.attention import Reference
from ...rechar_core.synthesis.references.encoding import IPAdapters
from ...rechar_core.synthesis.references.projection import IPAdapter
from .elements import element_conditioning
from .patch import patch_model
from .progress import Progress
from .references import apply_references, check_adapters
from .sampling import sample

_SAMPLER = {"sampler_name": "euler", "scheduler": "normal"}


@dataclass(frozen=True)
class HostRenderer:
    """A Renderer (see passes.py) with MODEL, CLIP and VAE. adapters, control_net: or None.

    progress: each picture is its next part. Each prompt is encoded once: the negative one is the same for all pictures.
    """

    model: Any
    clip: Any
    vae: Any
    adapters: IPAdapters | None
    control_net: Any
    progress: Progress
    _encoded: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def adapter(self, role: str) -> IPAdapter | None:
        return None if self.adapters is None else getattr(self.adapters, role)

    def check(self) -> None:
        if self.adapters is not None:
            check_adapters(self.model, self.adapters)

    def encode_reference(self, picture: Tensor, role: str, keep: Tensor | None) -> Reference:
        assert self.adapters is not None  # callers ask `adapter` first
        return self.adapters.encode_reference(picture, role, keep)

    def render(self, job: RenderJob) -> Tensor:
        import torch

        from nodes import ControlNetApplyAdvanced  # the host's

        model = patch_model(self.model, job.fusion)
        if job.references:
            model = apply_references(model, job.references, job.layout, job.scales)
        if change := job.each_step:
            model.set_model_sampler_post_cfg_function(lambda step: change(step["denoised"]))
        positive, negative = map(self._prompt, (job.positive, job.negative))
        if job.hint is not None:
            positive, negative = ControlNetApplyAdvanced().apply_controlnet(
                positive, negative, self.control_net, job.hint, job.control, 0.0, 1.0
            )
        latent = {"samples": torch.zeros(1, 4, job.size[0] // 8, job.size[1] // 8)}
        settings = {"seed": job.seed, "steps": job.steps, "cfg": job.cfg, **_SAMPLER}
        return sample(model, self.vae, latent, positive, negative, settings, self.progress)[None]

    def _prompt(self, words: tuple[PromptToken, ...]) -> list[Any]:
        if words not in self._encoded:
            self._encoded[words] = element_conditioning(self.clip, words, None)
        return self._encoded[words]
