"""A custom node that makes an older ComfyUI behave as 0.34 to 0.38.1 where these differ for this pack.

Written after reading those versions' files, for test_newer_hosts.py: every cross-attention has a parameterless child
comfy_attention, whose choice a checkpoint may hold as a uint8 key "....comfy_attention.config"; the category "fonts"
is for .ttf and .otf alone; torchaudio is not installed.
"""

import json
import sys

import comfy.ldm.modules.attention as attention
import folder_paths
import torch

MODULE = "comfy_attention"
CHOICE = {"attention": "comfy_kitchen_int8"}


class ComfyAttention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.config, self.function = None, None

    def _load_from_state_dict(self, state, prefix, *others):
        found = state.pop(f"{prefix}config", None)
        self.config = None if found is None else json.loads(bytes(found.tolist()))
        super()._load_from_state_dict(state, prefix, *others)

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.config is not None:
            destination[f"{prefix}config"] = as_key(self.config)


def as_key(config):
    return torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


def with_choice(made):
    def init(self, *arguments, **settings):
        made(self, *arguments, **settings)
        setattr(self, MODULE, ComfyAttention())

    return init


attention.CrossAttention.__init__ = with_choice(attention.CrossAttention.__init__)
folder_paths.folder_names_and_paths["fonts"] = ([folder_paths.models_dir + "/fonts"], {".ttf", ".otf"})
sys.modules["torchaudio"] = None


class ChooseAttention:
    """As if MODEL's checkpoint had the key for every attention; the count of such keys in its state_dict."""

    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL", "INT"), "choose", "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    def choose(self, model):
        unet = model.model.diffusion_model
        names = [name for name, module in unet.named_modules() if name.endswith(f".{MODULE}")]
        unet.load_state_dict({f"{name}.config": as_key(CHOICE) for name in names}, strict=False)
        found = [key for key in model.model.state_dict() if key.endswith(f".{MODULE}.config")]
        return (model.clone(), len(found))


NODE_CLASS_MAPPINGS = {"ChooseAttention": ChooseAttention}
