"""Soulstyler inside a real ComfyUI server: instruction, mask, both engines, sweep; outside the mask bit-equal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import shrink
import soulstyler_tiny as tiny
from graphs import demo, node, show, train
from server import ROOT, Server, host_environment

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
    tiny.stock(comfy.base / "models" / "soulstyler")


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


@pytest.mark.parametrize("name", ["soulstyler_clip", "soulstyler_sweep"])
def test_a_shipped_workflow_names_what_is_missing_until_all_is_there(comfy: Server, name: str):
    """Folder and file, one after the other. The folder is moved away meanwhile, and the host's memory emptied."""
    workflow = json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8"))
    folder = comfy.base / "models" / "soulstyler"
    if folder.exists():
        folder.rename(folder.with_name(f"soulstyler_before_{name}"))
    comfy.client.request("/free", b'{"unload_models": true, "free_memory": true}')
    comfy.place("example.png", scene())
    named = {v for n in workflow.values() for v in n["inputs"].values() if isinstance(v, str)} & set(
        tiny.FILES
    )
    missing, small = set(named), shrink.small_api(workflow)
    assert len(missing) >= 3
    while error := comfy.run(small).error:
        (lacked,) = [one for one in missing if str(folder / one) in error or f"{one} in {folder}" in error]
        files = "no vgg19.safetensors" if lacked.startswith("vgg") else "lacks config.json, model.safetensors"
        assert files in error and "\n" not in error
        missing.remove(lacked)
        tiny.FILES[lacked](folder / lacked)
    assert not missing


@pytest.mark.parametrize(
    ("instruction", "words"),
    [
        ("把图中的红色汽车变成水彩画风格，谢谢", ["水彩画", "红色汽车", "汽车", ""]),
        ("左の猫を浮世絵風にしてください", ["浮世絵", "左の猫", "猫", ""]),
        (
            "Please turn the red car's wheels into lace, but keep the road",
            ["lace", "red car's wheels", "wheels", ""],
        ),
    ],
    ids=["zh", "ja", "en"],
)
def test_an_instruction_is_split(comfy: Server, instruction: str, words: list[str]):
    nodes: dict[str, Any] = {
        "say": node("SoulstylerInstruction", instruction=instruction, mode="auto"),
        **{f"out{i}": show(["say", i]) for i in range(7)},
    }
    made = done(comfy.run(nodes))
    assert [made.text(f"out{i}") for i in range(4)] == words
    assert all(word in instruction for word in words)
    assert json.loads(made.text("out4"))[0]["head"] == words[2]
    assert (made.text("out5").lower(), made.text("out6")) == ("true", "rules")


def test_any_nodes_text_can_be_the_answer_of_an_llm(comfy: Server):
    """A text node stands for the other pack's; what is no span of the instruction is left to the rules."""
    good = {"style": "lace", "object": "car", "head": "car", "part": ""}
    for pair, by in (
        (good, "LLM"),
        ({**good, "object": "cat"}, "rules (the LLM's answer could not be used)"),
    ):
        nodes = {
            "text": node("PrimitiveString", value=json.dumps({"pairs": [pair]})),
            "say": node(
                "SoulstylerInstruction", instruction="make my car lace", mode="LLM", answer=["text", 0]
            ),
            "by": show(["say", 6]),
        }
        assert done(comfy.run(nodes)).text("by") == by


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


def test_the_shipped_demo_restyles_the_glyph_and_nothing_else(comfy: Server):
    """Its own settings but for the steps; where the glyph's mask is exactly 0 every pixel is the source's."""
    demo_nodes = json.loads((ROOT / "workflows" / "api" / "demo_soulstyler.json").read_text(encoding="utf-8"))
    kinds = {n["class_type"]: key for key, n in demo_nodes.items()}
    picture = [kinds["ReCharGlyph"], 0]
    watched = {
        "source": save(picture),
        "any": node("ThresholdMask", mask=[picture[0], 1], value=0.0),
        "picture": node("MaskToImage", mask=["any", 0]),
        "where": save(["picture", 0]),
    }
    made = done(comfy.run({**shrink.small_api(demo_nodes), **watched}))
    out, source, where = (made.images[key][0] for key in (kinds["SaveImage"], "source", "where"))
    inside = where.max(-1) > 0
    assert 0.05 < inside.mean() < 0.5
    assert (
        np.array_equal(out[~inside], source[~inside]) and (out[inside] != source[inside]).any(-1).mean() > 0.9
    )


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


def test_the_invariants_of_the_clip_engine(comfy: Server, picture: Any, weights: None):
    """In the host as in the core: what is outside falls with t, the loss falls, a seed is a picture, batches work."""
    base = {**picture, "guide": guide()}
    small = {"steps": 30, "resolution": 32, "crop_size": 12, "keep_outside": False}
    at = {f"t{t}": optimise(t=t, **small) for t in (0.0, 0.3, 0.7, 1.5)}
    made = done(
        comfy.run({**base, **at, **{f"{n}_out": save([n, 0]) for n in at}, "loss": show(["t0.7", 1])})
    )
    outside = [
        float(((made.images[f"{name}_out"][0].astype(float) - scene())[~disc()] ** 2).mean()) for name in at
    ]
    assert outside == sorted(outside, reverse=True) and len(set(outside)) == 4
    losses = json.loads(made.text("loss"))["loss"]
    assert len(losses) == 30 and losses[-1] < 0.9 * losses[0]


def test_a_seed_is_a_picture_and_one_mask_serves_a_batch(comfy: Server, picture: Any, weights: None):
    """An empty mask in between makes the host forget the first result."""
    nodes = {**picture, "guide": guide(), "work": optimise(), "out": save(["work", 0])}
    first = done(comfy.run(nodes)).images["out"][0]
    kept = {**nodes, "mask": EMPTY, "work": optimise(on_empty="keep the picture")}
    assert np.array_equal(done(comfy.run(kept)).images["out"][0], scene())
    comfy.client.request("/free", b'{"unload_models": true, "free_memory": true}')
    again = comfy.run(nodes)
    assert "work" in again.executed() and np.array_equal(done(again).images["out"][0], first)
    other = done(comfy.run({**nodes, "work": optimise(seed=1)})).images["out"][0]
    assert not np.array_equal(other, first)
    two = node("RepeatImageBatch", image=["scene", 0], amount=2)
    work = node("SoulstylerOptimise", **{**optimise()["inputs"], "image": ["two", 0]})
    both = done(comfy.run({**nodes, "two": two, "work": work})).images["out"]
    assert len(both) == 2 and np.array_equal(both[0], first) and np.array_equal(both[1], first)


def test_nothing_heavy_is_imported_until_used_and_the_generators_are_left_alone(comfy: Server, weights: None):
    """In a process of its own: loading the pack, reading an instruction, then finding and restyling."""
    script = Path(__file__).parent / "host_soulstyler.py"
    command = [str(comfy.host.python), str(script), str(ROOT), str(comfy.base)]
    run = subprocess.run(
        command, cwd=comfy.host.folder, env=host_environment(), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    about = json.loads(run.stdout.splitlines()[-1])
    assert about == {
        "loading": [],
        "instruction": [],
        "segmenter": ["clipseg"],
        "found": True,
        "generators": True,
    }


def test_cancel_stops_it_and_the_server_goes_on(comfy: Server, picture: Any, weights: None):
    def stop(event: Any) -> None:
        if event.kind == "progress" and event.data["node"] == "work" and event.data["value"] >= 3:
            comfy.client.stop()  # the server sends no more than some of the steps

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


@pytest.mark.parametrize("folder", ["clipseg-rd64-refined", "grounding-dino-tiny"])
def test_a_segmenter_gives_a_mask_and_an_unfound_object_is_an_error(
    comfy: Server, picture: Any, weights: None, folder: str
):
    """GroundingDINO takes SAM 2 from its usual folder, though the graph does not name it."""
    nodes = {
        "scene": picture["scene"],
        "seg": node("SoulstylerLoadSegmenter", segmenter_folder=folder),
        "find": mask_node(threshold=0.01),
        "score": show(["find", 2]),
    }
    for how in ("empty", "full"):
        nodes |= {
            how: mask_node(threshold=0.99, on_empty=how),
            f"{how}_found": show([how, 1]),
            f"{how}_picture": node("MaskToImage", mask=[how, 0]),
            f"{how}_out": save([f"{how}_picture", 0]),
        }
    made = done(comfy.run(nodes))
    assert 0 < float(made.text("score")) < 1
    for how, value in (("empty", 0), ("full", 255)):
        assert made.text(f"{how}_found").lower() == "false" and (made.images[f"{how}_out"] == value).all()
        assert made.images[f"{how}_out"].shape[1:3] == scene().shape[:2]
    lost = {**nodes, "lost": mask_node(threshold=0.99), "lost_found": show(["lost", 1])}
    error = comfy.run(lost).error
    assert "'disc' is not found in picture 1" in error and "\n" not in error


EMPTY = node("SolidMask", value=0.0, width=148, height=120)
TURNED = node("SolidMask", value=1.0, width=120, height=148)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ({"work": optimise(style_text=" "), "out": save(["work", 0])}, "The style is empty"),
        ({"mask": EMPTY, "work": optimise(), "out": save(["work", 0])}, "The mask is empty"),
        (
            {"mask": TURNED, "work": optimise(), "out": save(["work", 0])},
            "The mask is 120 x 148 and the picture 148 x",
        ),
        (
            {"say": node("SoulstylerInstruction", instruction="a", mode="LLM"), "o": show(["say", 0])},
            "none is connected",
        ),
    ],
    ids=["style", "empty", "turned", "llm"],
)
def test_bad_input_is_one_clear_sentence(comfy: Server, picture: Any, weights: None, nodes: Any, words: str):
    error = comfy.run({**picture, "guide": guide(), **nodes}).error
    assert words in error and "\n" not in error
