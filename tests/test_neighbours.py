"""What other packs and the host's own nodes put into CLIP, MODEL and LATENT is kept: each against the host's own node.

A failure means that a picture is another one than the graph says, without a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import torch
from graphs import node
from safetensors.torch import save_file
from server import Run, Server

from rechar_core.demo.build import read_config

pytestmark = pytest.mark.host

TEXT = "the letter B in cyan neon style, with stars"
SAMPLER = {"seed": 1, "steps": 4, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}


def done(run: Run) -> Run:
    assert not run.error, run.error
    return run


@pytest.fixture(scope="module")
def te_lora(comfy: Server) -> str:
    """A LoRA file that moves the first text encoder alone."""
    width = read_config()["text_encoder"]["hidden_size"]
    random = torch.Generator().manual_seed(0)
    key = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    inner = read_config()["text_encoder"]["intermediate_size"]
    sides = {"lora_down": (4, width), "lora_up": (inner, 4)}
    tensors = {f"{key}.{side}.weight": torch.randn(*shape, generator=random) for side, shape in sides.items()}
    path: Path = comfy.base / "models" / "loras" / "moves_clip.safetensors"
    save_file(tensors, path)
    return path.name


def hooked(lora: str, *, schedule: bool) -> dict[str, Any]:
    """CLIP on the wire ["hooked", 0]: with the LoRA up to half of the steps, then without."""
    return {
        "lora": node("CreateHookLora", lora_name=lora, strength_model=0.0, strength_clip=1.0),
        "first": node("CreateHookKeyframe", strength_mult=1.0, start_percent=0.0),
        "second": node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.5, prev_hook_kf=["first", 0]),
        "timed": node("SetHookKeyframes", hooks=["lora", 0], hook_kf=["second", 0]),
        "hooked": node(
            "SetClipHooks",
            clip=graphs.CLIP,
            apply_to_conds=True,
            schedule_clip=schedule,
            hooks=["timed" if schedule else "lora", 0],
        ),
    }


def drawn(name: str, positive: list[Any]) -> dict[str, Any]:
    """Nodes that draw with this CONDITIONING; the picture is that of node `name`."""
    return {
        "none": node("CLIPTextEncode", clip=graphs.CLIP, text=""),
        "size": node("EmptyLatentImage", width=graphs.SIDE, height=graphs.SIDE, batch_size=1),
        f"{name} sampler": node(
            "KSampler",
            model=graphs.MODEL,
            positive=positive,
            negative=["none", 0],
            latent_image=["size", 0],
            **SAMPLER,
        ),
        f"{name} decoded": node("VAEDecode", samples=[f"{name} sampler", 0], vae=graphs.VAE),
        name: node("PreviewImage", images=[f"{name} decoded", 0]),
    }


def elements(clip: list[Any], **changes: Any) -> dict[str, Any]:
    texts = {"structure_trigger": "", "style_trigger": "", "elements": "", "element_weight": 1.0}
    return node("ReCharElementPrompt", clip=clip, template=TEXT, **{**texts, "keep": "all", **changes})


@pytest.mark.parametrize("schedule", [False, True], ids=["hooks", "schedule"])
def test_element_prompt_keeps_a_clips_hooks(comfy: Server, te_lora: str, schedule: bool):
    nodes = {
        **hooked(te_lora, schedule=schedule),
        "ours": elements(["hooked", 0]),
        "theirs": node("CLIPTextEncode", clip=["hooked", 0], text=TEXT),
        "plain": elements(graphs.CLIP),
    }
    for name in ("ours", "theirs", "plain"):
        nodes |= drawn(f"picture {name}", [name, 0])
    made = done(comfy.run(graphs.demo(**nodes)))
    assert np.array_equal(made.images["picture ours"], made.images["picture theirs"])
    assert not np.array_equal(made.images["picture ours"], made.images["picture plain"])


def test_dropped_tokens_and_regions_are_of_every_part_of_a_schedule(comfy: Server, te_lora: str):
    """Two parts, each of them inside and outside the region; fewer tokens than the whole prompt."""
    few = {"keep": "auto", "elements": "stars", "structure_trigger": "A [v]"}
    nodes = {
        **hooked(te_lora, schedule=True),
        "region": node("SolidMask", value=1.0, width=graphs.SIDE, height=graphs.SIDE),
        "inside": elements(["hooked", 0], **few, region=["region", 0]),
        "whole": elements(["hooked", 0], **few),
        "plain": elements(graphs.CLIP, **few),
    }
    for name in ("inside", "whole", "plain"):
        nodes |= drawn(f"picture {name}", [name, 0])
    made = done(comfy.run(graphs.demo(**nodes)))
    assert not np.array_equal(made.images["picture whole"], made.images["picture plain"])
    # a region of the whole picture is none
    apart = np.abs(made.images["picture inside"].astype(int) - made.images["picture whole"].astype(int))
    assert apart.max() <= 1


def test_training_says_that_it_takes_the_first_part_of_a_schedule(comfy: Server, te_lora: str):
    train = {**graphs.train(seed=97, steps=2)}
    train["inputs"]["clip"] = ["hooked", 0]
    nodes = {"glyph": graphs.glyph(), "train": train, "seen": node("PreviewAny", source=["train", 3])}
    done(comfy.run(graphs.demo(**hooked(te_lora, schedule=True), **nodes)))
    assert "CLIP has a schedule: only its first part is used in training." in comfy.log()


def trained(model: list[Any], **settings: Any) -> dict[str, Any]:
    """Nodes that train on this MODEL; the losses are the text of node "seen"."""
    train = graphs.train(seed=98, steps=2, **settings)
    train["inputs"]["model"] = model
    return {"glyph": graphs.glyph(), "train": train, "seen": node("PreviewAny", source=["train", 3])}


def test_a_lora_in_bypass_mode_is_trained_over(comfy: Server):
    """ComfyUI's LoRA loader that changes no weight puts its code into the layers; the bare job is in the cache."""
    width = read_config()["unet"]["block_out_channels"][-1]
    key = "lora_unet_output_blocks_0_1_transformer_blocks_0_attn1_to_q"
    sides = {"lora_down": (4, width), "lora_up": (width, 4)}
    tensors = {f"{key}.{side}.weight": torch.ones(*shape) for side, shape in sides.items()}
    save_file(tensors, comfy.base / "models" / "loras" / "bypassed.safetensors")
    bare = done(comfy.run(graphs.demo(**trained(graphs.MODEL))))
    if "LoraLoaderBypassModelOnly" not in comfy.object_info():
        pytest.skip("this ComfyUI has no Load LoRA (Bypass)")
    lora = {"model": graphs.MODEL, "lora_name": "bypassed.safetensors", "strength_model": 20.0}
    losses = []
    for kind in ("LoraLoaderBypassModelOnly", "LoraLoaderModelOnly"):
        made = done(comfy.run(graphs.demo(lora=node(kind, **lora), **trained(["lora", 0]))))
        losses.append(json.loads(made.text("seen"))["loss"])
    without = json.loads(bare.text("seen"))["loss"]
    for bypassed, loaded, plain in zip(*losses, without, strict=True):
        assert abs(bypassed - loaded) < abs(loaded - plain) / 5


def test_a_model_with_another_packs_injections_is_refused_and_not_the_bare_one_from_the_cache(comfy: Server):
    done(comfy.run(graphs.demo(**trained(graphs.MODEL))))
    injected = node("NeighbourInjection", model=graphs.MODEL)
    error = comfy.run(graphs.demo(injected=injected, **trained(["injected", 0]))).error
    assert "puts code of its own into this MODEL" in error and "\n" not in error


def test_attention_patches_are_left_out_of_training_and_named(comfy: Server):
    """FreeU's stand for those of any pack: the LoRA is that of the bare MODEL."""
    bare = done(comfy.run(graphs.demo(**trained(graphs.MODEL))))
    said = "Training uses MODEL without its attention patches and wrappers"
    before = comfy.log().count(said)
    freeu = node("FreeU_V2", model=graphs.MODEL, b1=1.3, b2=1.4, s1=0.9, s2=0.2)
    patched = done(comfy.run(graphs.demo(freeu=freeu, **trained(["freeu", 0]))))
    assert patched.text("seen") == bare.text("seen")
    assert comfy.log().count(said) == before + 1


def odd(kind: str, **nodes: Any) -> dict[str, Any]:
    """The glyph's IMAGE on ["odd", 0] and MASK on ["odd", 1], as another pack hands them on."""
    return graphs.demo(odd=node("NeighbourOdd", image=["glyph", 0], mask=["glyph", 1], kind=kind), **nodes)


USES = {
    "Element Prompt": {"used": elements(graphs.CLIP, region=["odd", 1]), **drawn("seen", ["used", 0])},
    "Train": {**trained(graphs.MODEL)},
    "Structure Map": {
        "used": node("ReCharStructureMap", kind="skeleton", image=["odd", 0]),
        "seen": node("PreviewImage", images=["used", 0]),
    },
    "Prepare": {
        "used": node(
            "SoulstylerPrepare", model=graphs.MODEL, vae=graphs.VAE, image=["odd", 0], mask=["odd", 1]
        ),
        "decoded": node("VAEDecode", samples=["used", 1], vae=graphs.VAE),
        "seen": node("PreviewImage", images=["decoded", 0]),
    },
}
USES["Train"].pop("glyph")
USES["Train"]["train"]["inputs"]["image"] = ["odd", 0]


@pytest.mark.parametrize("use", USES)
def test_every_layout_is_the_same_picture_and_what_is_none_is_one_sentence(comfy: Server, use: str):
    def result(kind: str) -> Any:
        made = comfy.run(odd(kind, **USES[use]))
        return made.error or (made.text("seen") if use == "Train" else made.images["seen"].tobytes())

    plain = result("plain")
    of_masks = ("last", "bool") if "['odd', 1]" in str(USES[use]) else ()
    assert [kind for kind in ("255", "channels", "single", *of_masks) if result(kind) != plain] == []
    for kind, words in (("nan", "NaN"), ("negative", "values from -"), ("empty", "is empty")):
        error = result(kind)
        assert words in error and "\n" not in error and "Connect" in error


def test_a_patch_behind_apply_references_stays_out_of_the_hosts_cache(comfy: Server):
    """Run, change, run again: each picture is that of a weight that came first."""
    nodes = {
        "adapters": node("ReCharDemoReferences"),
        "reference": node(
            "ReCharEncodeReference", adapters=["adapters", 0], image=["glyph", 0], role="style", uncond="diffusers",
            weight=1.0,
        ),
        "applied": node(
            "ReCharApplyReferences", model=graphs.MODEL, references=["reference", 0], structure_scale=0.0,
            style_scale=0.6, start=0.0, end=1.0, block_weights="",
        ),
    }  # fmt: skip
    without = done(comfy.run(graphs.demo(**nodes, **graphs.draw(["applied", 0], "bare"))))
    seen = {}
    for weight in (0.0, 0.5, 0.0, 1.0, 0.5, 0.0):
        patch = node("NeighbourPatch", model=["applied", 0], weight=weight)
        made = done(comfy.run(graphs.demo(**nodes, patch=patch, **graphs.draw(["patch", 0], "more"))))
        picture = made.images["more"]
        assert np.array_equal(seen.setdefault(weight, picture), picture)
    assert np.array_equal(seen[0.0], without.images["bare"])
    assert not np.array_equal(seen[0.0], seen[0.5])
    again = done(comfy.run(graphs.demo(**nodes, **graphs.draw(["applied", 0], "bare"))))
    assert np.array_equal(again.images["bare"], without.images["bare"])


def test_a_drawing_on_transparent_ground_is_not_trained_on_as_solid_black(comfy: Server):
    """Load Image leaves the transparency out of IMAGE; Join Image with Alpha puts it back."""
    pixels = np.zeros((96, 96, 4), np.uint8)
    pixels[24:72, 40:56, 3] = 255
    load = node("LoadImage", image=comfy.upload("transparent.png", pixels))
    train = {**trained(graphs.MODEL), "loaded": load}
    train["train"]["inputs"]["image"] = ["loaded", 0]
    error = comfy.run(graphs.demo(**train)).error
    assert "Picture 1 is of one colour" in error and "Join Image with Alpha" in error
    joined = node("JoinImageWithAlpha", image=["loaded", 0], alpha=["loaded", 1])
    train["train"]["inputs"]["image"] = ["joined", 0]
    done(comfy.run(graphs.demo(**train, joined=joined)))
