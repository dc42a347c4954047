"""Soulstyler inside a real ComfyUI server: instruction, mask, both engines, sweep; outside the mask bit-equal."""

from __future__ import annotations

import json
from typing import Any

import graphs
import numpy as np
import pytest
import soulstyler_tiny as tiny
from graphs import demo, node, show, train
from server import Server

pytestmark = pytest.mark.host

RED = 0xDC2814


def done(made: Any) -> Any:
    assert not made.error, made.error
    return made


def scene(height: int = 120, width: int = 148) -> np.ndarray:
    """A red disc before a blue and green ground; a size that no VAE likes."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([40 + 0 * x, 60 + 100 * y // height, 80 + 120 * x // width], -1)
    picture[(y - height // 2) ** 2 + (x - width // 2) ** 2 < 36**2] = (0xDC, 0x28, 0x14)
    return picture.astype(np.uint8)


def disc() -> np.ndarray:
    """Where the scene's object is, (height, width) bool."""
    return (scene() == (0xDC, 0x28, 0x14)).all(-1)


@pytest.fixture(scope="module")
def weights(comfy: Server) -> None:
    """Tiny random models in models/soulstyler."""
    folder = comfy.base / "models" / "soulstyler"
    tiny.clip_folder(folder / "clip-vit-base-patch32")
    tiny.clipseg_folder(folder / "clipseg-rd64-refined")
    tiny.vgg_file(folder / "vgg19.safetensors")


@pytest.fixture(scope="module")
def picture(comfy: Server) -> dict[str, Any]:
    """The scene, and its object's mask by colour from the host's own node."""
    name = comfy.upload("soulstyler_scene.png", scene())
    return {
        "scene": node("LoadImage", image=name),
        "mask": node("ImageColorToMask", image=["scene", 0], color=RED),
    }


def guide() -> dict[str, Any]:
    return node("SoulstylerLoadGuide", clip_folder="clip-vit-base-patch32", vgg_file="vgg19.safetensors")


def optimise(**changes: Any) -> dict[str, Any]:
    settings = {
        "style_text": "cubism",
        "t": 0.7,
        "steps": 4,
        "learning_rate": 5e-4,
        "crops": 4,
        "crop_size": 16,
    }
    settings |= {"resolution": 64, "seed": 0, "keep_outside": True, **changes}
    wires = {"guide": ["guide", 0], "image": ["scene", 0], "mask": ["mask", 0]}
    return node("SoulstylerOptimise", **{**wires, **settings})


def save(wire: list[Any]) -> dict[str, Any]:
    return node("SaveImage", images=wire, filename_prefix="soulstyler")


def test_missing_weights_are_named_with_folder_and_files(comfy: Server):
    """Runs before the weights are there; the usual names are offered all the same."""
    scene_nodes = {
        "scene": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "mask": node("SolidMask", value=1.0, width=64, height=64),
        "seg": node("SoulstylerLoadSegmenter", segmenter_folder="clipseg-rd64-refined"),
        "guide": guide(),
    }
    folder = comfy.base / "models" / "soulstyler"
    for last in (optimise(), mask_node()):
        output = 0 if last["class_type"] == "SoulstylerOptimise" else 2
        error = comfy.run({**scene_nodes, "x": last, "z": show(["x", output])}).error
        name = "clipseg-rd64-refined" if output else "clip-vit-base-patch32"
        assert (
            str(folder / name) in error
            and "lacks config.json, model.safetensors" in error
            and "\n" not in error
        )


def test_an_instruction_is_split(comfy: Server):
    nodes: dict[str, Any] = {
        "say": node("SoulstylerInstruction", instruction="把图中的红色汽车变成水彩画风格，谢谢", mode="auto"),
        **{f"out{i}": show(["say", i]) for i in range(7)},
    }
    made = done(comfy.run(nodes))
    assert [made.text(f"out{i}") for i in range(4)] == ["水彩画", "红色汽车", "汽车", ""]
    assert json.loads(made.text("out4"))[0]["head"] == "汽车"
    assert (made.text("out5").lower(), made.text("out6")) == ("true", "rules")


def test_the_object_is_restyled_by_a_style_lora_and_all_else_is_bit_equal(comfy: Server, picture: Any):
    """The SDXL path, end to end: mask by colour, style B-LoRA, element prompt, KSampler, composite."""
    sampler = {
        "seed": 1,
        "steps": 4,
        "cfg": 3.0,
        "sampler_name": "euler",
        "scheduler": "normal",
        "denoise": 0.7,
    }
    prompt = {"template": "A disc in [s] style", "structure_trigger": "", "style_trigger": "A [v]"}
    nodes = {
        **picture,
        "train": train(target="style"),
        "prompt": node(
            "ReCharElementPrompt",
            clip=graphs.CLIP,
            **prompt,
            elements="stars",
            keep="all",
            element_weight=1.0,
        ),
        "empty": node("CLIPTextEncode", clip=graphs.CLIP, text=""),
    }
    for name, style in (("styled", ["train", 1]), ("plain", None)):
        nodes |= {
            f"{name}_model": graphs.fuse(style=style) if style else graphs.fuse(),
            f"{name}_ready": node(
                "SoulstylerPrepare",
                model=[f"{name}_model", 0],
                vae=graphs.VAE,
                image=["scene", 0],
                mask=["mask", 0],
            ),
            f"{name}_sampler": node(
                "KSampler",
                model=[f"{name}_ready", 0],
                positive=["prompt", 0],
                negative=["empty", 0],
                latent_image=[f"{name}_ready", 1],
                **sampler,
            ),
            f"{name}_decode": node("VAEDecode", samples=[f"{name}_sampler", 0], vae=graphs.VAE),
            f"{name}_done": node(
                "SoulstylerFinish", image=[f"{name}_decode", 0], restyle_target=[f"{name}_ready", 2]
            ),
            name: save([f"{name}_done", 0]),
        }
    made = done(comfy.run(demo(**nodes)))
    styled, plain = made.images["styled"][0], made.images["plain"][0]
    assert styled.shape == scene().shape and disc().sum() > 3000
    assert np.array_equal(styled[~disc()], scene()[~disc()])
    assert (styled[disc()] != scene()[disc()]).any(-1).mean() > 0.9
    assert not np.array_equal(styled, plain)


def test_the_clip_engine_restyles_inside_alone_with_progress_and_previews(
    comfy: Server, picture: Any, weights: None
):
    nodes = {
        **picture,
        "guide": guide(),
        "work": optimise(),
        "out": save(["work", 0]),
        "loss": show(["work", 1]),
    }
    made = done(comfy.run(nodes))
    out = made.images["out"][0]
    assert np.array_equal(out[~disc()], scene()[~disc()])
    assert (out[disc()] != scene()[disc()]).any(-1).mean() > 0.9
    steps = [e.data["value"] for e in made.events if e.kind == "progress" and e.data["node"] == "work"]
    assert steps == [1, 2, 3, 4] and len(made.previews()) == 4
    again = dict(nodes, work=optimise(keep_outside=False))
    assert not np.array_equal(done(comfy.run(again)).images["out"][0][~disc()], scene()[~disc()])


def test_an_empty_mask_gives_the_picture_back(comfy: Server, picture: Any, weights: None):
    empty = node("SolidMask", value=0.0, width=148, height=120)
    nodes = {**picture, "mask": empty, "guide": guide(), "work": optimise(), "out": save(["work", 0])}
    assert np.array_equal(done(comfy.run(nodes)).images["out"][0], scene())


def test_cancel_stops_it_and_the_server_goes_on(comfy: Server, picture: Any, weights: None):
    def stop(event: Any) -> None:
        if event.kind == "progress" and event.data["node"] == "work" and event.data["value"] == 3:
            comfy.client.stop()

    nodes = {**picture, "guide": guide(), "work": optimise(steps=500), "out": save(["work", 0])}
    assert "stopped by a user" in comfy.run(nodes, stop).error
    done(comfy.run({**nodes, "work": optimise(steps=1)}))


def test_a_sweep_draws_every_style_and_seed(comfy: Server, picture: Any, weights: None):
    settings = {"styles": "cubism\nfire", "seeds": "0, 1", "t": 0.7, "steps": 2, "crops": 4, "resolution": 64}
    wires = {"guide": ["guide", 0], "image": ["scene", 0], "mask": ["mask", 0]}
    nodes = {
        **picture,
        "guide": guide(),
        "sweep": node("SoulstylerSweep", **wires, **settings),
        "all": save(["sweep", 1]),
        "sheet": save(["sweep", 0]),
    }
    made = done(comfy.run(nodes))
    assert made.images["all"].shape == (4, *scene().shape)
    for i, one in enumerate(made.images["all"]):
        assert np.array_equal(one[~disc()], scene()[~disc()])
        assert not any(np.array_equal(one, other) for other in made.images["all"][:i])
    assert made.images["sheet"].shape[2] > 2 * 148


def mask_node(**changes: Any) -> dict[str, Any]:
    settings = {
        "object_name": "disc",
        "threshold": 0.4,
        "grow": 0,
        "feather": 0,
        "on_empty": "error",
        **changes,
    }
    return node("SoulstylerMask", image=["scene", 0], segmenter=["seg", 0], **settings)


def test_clipseg_gives_a_mask_and_an_unfound_object_is_an_error(comfy: Server, picture: Any, weights: None):
    nodes = {
        "scene": picture["scene"],
        "seg": node("SoulstylerLoadSegmenter", segmenter_folder="clipseg-rd64-refined"),
        "find": mask_node(threshold=0.01),
        "score": show(["find", 2]),
        "none": mask_node(threshold=0.99, on_empty="empty"),
        "found": show(["none", 1]),
        "picture": node("MaskToImage", mask=["none", 0]),
        "out": save(["picture", 0]),
    }
    made = done(comfy.run(nodes))
    assert 0 < float(made.text("score")) < 1 and made.text("found").lower() == "false"
    assert made.images["out"].max() == 0 and made.images["out"].shape[1:3] == scene().shape[:2]
    lost = {**nodes, "none": mask_node(threshold=0.99)}
    assert "'disc' is not found in picture 1" in comfy.run(lost).error


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"work": optimise(style_text=" "), "out": save(["work", 0])}, "The style is empty"),
        (
            {"say": node("SoulstylerInstruction", instruction="a", mode="LLM"), "o": show(["say", 0])},
            "none is connected",
        ),
    ],
    ids=["style", "llm"],
)
def test_bad_input_is_one_clear_sentence(comfy: Server, picture: Any, weights: None, nodes: Any, words: str):
    error = comfy.run({**picture, "guide": guide(), **nodes}).error
    assert words in error and "\n" not in error
