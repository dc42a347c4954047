"""API workflows on the demo model, built in a few words for the server tests."""

from __future__ import annotations

from typing import Any

Workflow = dict[str, dict[str, Any]]
MODEL, CLIP, VAE = ["demo", 0], ["demo", 1], ["demo", 2]
SIDE = 128  # pixels: small enough to be quick, large enough for the glyph to be told
RECIPE = {"steps": 3, "learning_rate": 1e-2, "rank": 4, "resolution": SIDE, "batch_size": 1, "seed": 0}


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def glyph(text: str = "羅") -> dict[str, Any]:
    look = {"font": "ReChar CJK", "direction": "auto", "fit": "ink", "margin": 0.1, "stroke": 0.0}
    colours = {"outline_only": False, "ink": "#000000", "paper": "#ffffff"}
    return node("ReCharGlyph", text=text, width=SIDE, height=SIDE, **look, **colours)


def train(image: str = "glyph", **changes: Any) -> dict[str, Any]:
    """Train B-LoRA for a few steps on the picture of node `image`."""
    settings = {
        "prompt": "A [v]",
        "target": "both",
        "memory": "auto",
        "optimizer": "adamw",
        **RECIPE,
        **changes,
    }
    return node("ReCharTrainBLoRA", model=MODEL, clip=CLIP, vae=VAE, image=[image, 0], **settings)


def fuse(
    structure: Any = None, style: Any = None, structure_alpha: float = 1.0, style_alpha: float = 1.0
) -> Any:
    wires = {name: wire for name, wire in (("structure", structure), ("style", style)) if wire}
    alphas = {"structure_alpha": structure_alpha, "style_alpha": style_alpha, "alpha_mode": "linear"}
    return node("ReCharFuse", model=MODEL, **alphas, **wires)


def draw(model: list[Any], name: str = "save", positive: Any = None) -> Workflow:
    """Nodes that sample two steps with the model on wire `model` and save the picture as node `name`."""
    sampler = {
        "seed": 1,
        "steps": 2,
        "cfg": 2.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 1.0,
    }
    return {
        f"{name}_prompt": node("CLIPTextEncode", clip=CLIP, text="A [v]"),
        f"{name}_empty": node("CLIPTextEncode", clip=CLIP, text=""),
        f"{name}_size": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=1),
        f"{name}_sampler": node(
            "KSampler",
            model=model,
            positive=positive or [f"{name}_prompt", 0],
            negative=[f"{name}_empty", 0],
            latent_image=[f"{name}_size", 0],
            **sampler,
        ),
        f"{name}_decode": node("VAEDecode", samples=[f"{name}_sampler", 0], vae=VAE),
        name: node("SaveImage", images=[f"{name}_decode", 0], filename_prefix="rechar_test"),
    }


def demo(**nodes: Any) -> Workflow:
    """A workflow with the demo model and a glyph, and the given nodes."""
    return {"demo": node("ReCharDemoModel"), "glyph": glyph(), **nodes}


def show(wire: list[Any]) -> dict[str, Any]:
    """A node that shows text."""
    return node("PreviewAny", source=wire)


def word(text: str = "永山", **changes: Any) -> Workflow:
    """Nodes that draw a word with ReChar Word, character by character, trained for a few steps."""
    settings = {
        "pipeline_mode": "tuned",
        "elements": "",
        "side": SIDE,
        "margin": 0.15,
        "shared_style": "noise and statistics",
        "matte": "glyph",
        "structure_steps": 3,
        "structure_rate": 1e-2,
        "structure_rank": 4,
        "seed": 1,
        "steps": 2,
        "guidance": 1.0,
        "template": "A [c]",
        **changes,
    }
    wires = {"model": MODEL, "clip": CLIP, "vae": VAE, "characters": ["text", 2]}
    written = glyph(text)
    written["inputs"] |= {"width": SIDE, "height": SIDE // 2}
    return {"text": written, "word": node("ReCharWord", **{**wires, **settings})}
