"""What the notes in the shipped workflows say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SITE = "https://huggingface.co"
MODELS: Mapping[
    str, Mapping[str, str]
] = {  # what lies beside the checkpoint: the widget's value -> where it is from
    name: {"name": name, "url": f"{_SITE}/{place}", "directory": folder}
    for name, folder, place in (
        (
            "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
            "clip_vision",
            "h94/IP-Adapter/resolve/main/models/image_encoder/model.safetensors",
        ),
        (
            "ip_plus_composition_sdxl.safetensors",
            "ipadapter",
            "ostris/ip-composition-adapter/resolve/main/ip_plus_composition_sdxl.safetensors",
        ),
        (
            "ip-adapter_sdxl_vit-h.safetensors",
            "ipadapter",
            "h94/IP-Adapter/resolve/main/sdxl_models/ip-adapter_sdxl_vit-h.safetensors",
        ),
        (
            "controlnet-canny-sdxl-1.0.safetensors",
            "controlnet",
            "diffusers/controlnet-canny-sdxl-1.0/resolve/main/diffusion_pytorch_model.fp16.safetensors",
        ),
    )
}
_MODES = {
    "official": (
        "**official** repeats the published inference, its faults included, to compare with. Its base was "
        "Juggernaut-XL-v9; CFG 17.5 saturates."
    ),
    "paper": (
        "**paper** adds what only the framework figure shows: the intensity layout map (gated softmax), and dropped "
        "image tokens and words."
    ),
    "tuned": (
        "**tuned** is the mode for work: no ControlNet in the style pass, CFG 6, the glyph's own mask, and the "
        "structure LoRA stays in the last pass."
    ),
    "references-only": (
        "**references-only** trains nothing: glyph and style picture are the references themselves."
    ),
}
_WORD = (
    "**ReChar Word** draws each character in its own square, with one style LoRA, the same noise and the same latent "
    "statistics, and puts the word together with alpha. Without a ControlNet, structure_steps trains a B-LoRA for each "
    "character."
)
_DEMO = (
    "This is the tiny demo model: it shows the way, not the quality of SDXL. It wants guidance 1 and 16 steps. The "
    "twin without demo_ in its name is the same for your SDXL checkpoint."
)
_FILES = (
    "Nothing is downloaded for you; what is missing is named when you press Run.\n\n"
    "| file | folder in models | from |\n|---|---|---|\n"
)


def note_of(workflow: Mapping[str, Any]) -> str | None:
    """The note of a workflow with ReChar Pipeline or ReChar Word in it; None for others."""
    kinds = {node["class_type"]: node["inputs"] for node in workflow.values()}
    if "ReCharPipeline" in kinds:
        parts = [_MODES[kinds["ReCharPipeline"]["pipeline_mode"]]]
    elif "ReCharWord" in kinds:
        parts = [_WORD]
    else:
        return None
    values = [v for inputs in kinds.values() for v in inputs.values() if isinstance(v, str)]
    rows = [
        f"| {m['name']} | {m['directory']} | [{m['url'].split('/resolve')[0].removeprefix(_SITE + '/')}]({m['url']}) |"
        for m in (MODELS[v] for v in values if v in MODELS)
    ]
    parts += [_FILES + "\n".join(rows)] if rows else [_DEMO]
    return "\n\n".join(parts)
