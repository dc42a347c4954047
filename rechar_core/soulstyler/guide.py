"""The networks that measure the restyled picture: CLIP (a transformers folder) and the first layers of VGG19 (a file).

Both are local. They are loaded outside inference_mode, because tensors created inside cannot be used in a backward
pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FileError, ModelError, listed
from ..images import CLIP, IMAGENET, normalised
from ..storage import opened
from .folders import WITH_WORDS, need_files, pretrained, tokenizer_of

# VGG19 as torchvision numbers it: channels of each convolution, "M" a pooling; up to relu5_2 (layer 31)
VGG19 = (64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512)
RELU4_2, RELU5_2 = 22, 31


class Vgg(nn.Module):
    """The convolutions of VGG19. widths: as VGG19 above, or narrower for a test; the layers keep their numbers."""

    def __init__(self, widths: Sequence[int | str] = VGG19):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in widths:
            if isinstance(width, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
        self.features = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> list[Tensor]:
        """relu4_2 and relu5_2 of a picture (B, 3, H, W) in 0..1; both sides at least 16 pixels."""
        x, features = normalised(image, IMAGENET), []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in (RELU4_2, RELU5_2):
                features.append(x)
        return features


@dataclass(frozen=True)
class Guide:
    """CLIP, its tokenizer and VGG19, in fp32, frozen, on one device.

    clip: a transformers CLIPModel; tokenizer: called with texts, padding, truncation and return_tensors.
    """

    clip: Any
    tokenizer: Any
    vgg: nn.Module

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.clip.parameters()).device
        return device

    @property
    def side(self) -> int:
        """Side in pixels of CLIP's square input."""
        return int(self.clip.config.vision_config.image_size)

    def see(self, images: Tensor) -> Tensor:
        """Features (N, D) of length 1 of pictures (N, 3, S, S) in 0..1, already of CLIP's size. Differentiable."""
        pooled = self.clip.vision_model(pixel_values=normalised(images, CLIP))[1]
        return F.normalize(self.clip.visual_projection(pooled), dim=-1)

    def see_whole(self, image: Tensor) -> Tensor:
        """Features (1, D) of a picture of any size, squeezed into CLIP's square as the published code does."""
        return self.see(F.interpolate(image, (self.side, self.side), mode="bicubic"))

    def read(self, texts: list[str]) -> Tensor:
        """The mean feature (1, D) of texts, of length 1."""
        tokens = self.tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        ids, mask = tokens["input_ids"].to(self.device), tokens["attention_mask"].to(self.device)
        pooled = self.clip.text_model(input_ids=ids, attention_mask=mask)[1]
        return F.normalize(self.clip.text_projection(pooled).mean(0, keepdim=True), dim=-1)


def load_guide(clip_folder: Path, vgg_file: Path) -> Guide:
    """The guide from local files; nothing is downloaded.

    clip_folder: CLIPModel in transformers' layout (ViT-B/32 in the paper). vgg_file: VGG19 as .safetensors with
    torchvision's names (features.0.weight ...). Raises FileError naming the folder and the files that are missing,
    ModelError if one of them is another model.
    """
    need_files(
        clip_folder, WITH_WORDS, "a CLIP model (transformers' layout, e.g. openai/clip-vit-base-patch32)"
    )
    vgg = load_vgg(vgg_file).eval().requires_grad_(False)
    clip = pretrained("CLIPModel", clip_folder, "a CLIP model").float()
    return Guide(clip, tokenizer_of(clip_folder, "a CLIP model"), vgg)


def load_vgg(file: Path) -> Vgg:
    """VGG19's first 32 layers. Raises FileError if the file is missing or unreadable, ModelError if it is not VGG19."""
    if not file.is_file():
        raise FileError(
            f"There is no {file.name} in {file.parent}; put VGG19 there as .safetensors with torchvision's names "
            "(features.0.weight ...), for example model.safetensors of timm/vgg19.tv_in1k under that name."
        )
    with opened(file) as reader, torch.inference_mode(False):
        with torch.device("meta"):
            vgg = Vgg()
        if missing := sorted(set(vgg.state_dict()) - set(reader.keys())):
            raise ModelError(f"{file.name} is not VGG19: it lacks {listed(missing, 3)}.")
        state = {name: reader.get_tensor(name).float() for name in vgg.state_dict()}
        try:
            vgg.load_state_dict(state, assign=True)
        except RuntimeError as error:
            raise ModelError(f"{file.name} is not VGG19: {str(error).splitlines()[-1].strip()}") from None
    return vgg
