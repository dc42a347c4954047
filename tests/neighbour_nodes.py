"""A custom node file of the tests' server: what other packs put on the wires, from their observed behaviour."""

from __future__ import annotations

from typing import Any

import torch

ODD = {
    "plain": lambda image, mask: (image, mask),
    "255": lambda image, mask: (image * 255, mask * 255),
    "channels": lambda image, mask: (image.movedim(-1, 1), mask[:, None]),
    "single": lambda image, mask: (image[0], mask[0]),
    "last": lambda image, mask: (image, mask[..., None]),
    "bool": lambda image, mask: (image, mask > 0.5),
    "nan": lambda image, mask: (image * float("nan"), mask * float("nan")),
    "negative": lambda image, mask: (image * 2 - 1, -mask),
    "empty": lambda image, mask: (image[:0], mask[:0]),
}


class NeighbourOdd:
    """IMAGE and MASK as another pack hands them on."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "hand_on", ("IMAGE", "MASK")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE",), "mask": ("MASK",), "kind": (list(ODD),)}}

    def hand_on(self, image: torch.Tensor, mask: torch.Tensor, kind: str) -> tuple[Any, Any]:
        return ODD[kind](image, mask)


class NeighbourPatch:
    """An attention patch that is added to the one it finds in the MODEL, else is one of its own."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "patched", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",), "weight": ("FLOAT", {"default": 1.0})}}

    def patched(self, model: Any, weight: float) -> tuple[Any]:
        made, block = model.clone(), ("output", 0, 0)
        found = (
            made.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {}).get(block)
        )

        def more(out: Any, *_: Any, **__: Any) -> Any:
            return torch.full_like(out, weight)

        if found is not None:
            found.add(more, sigma_start=1e9, sigma_end=0.0)
        return (made,)


class NeighbourInjection:
    """Code that is put into the MODEL while it is in use."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "injected", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"model": ("MODEL",)}}

    def injected(self, model: Any) -> tuple[Any]:
        from comfy.patcher_extension import PatcherInjection

        made = model.clone()
        made.set_injections("neighbour", [PatcherInjection(inject=lambda _: None, eject=lambda _: None)])
        return (made,)


NODE_CLASS_MAPPINGS = {each.__name__: each for each in (NeighbourOdd, NeighbourPatch, NeighbourInjection)}
