"""Every node once, in a ComfyUI of any supported version: quick, and each graph shows that its nodes did something.

The older hosts run these alone (`-m smoke`); what a node computes is tested in the newest one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import adapters
import graphs
import numpy as np
import pytest
import soulstyler_tiny
import test_server_references as refs
import test_server_soulstyler as soul
from graphs import SIDE, demo, draw, fuse, node, show, train
from server import PACK, Run, Server, base_directory, find_host

pytestmark = [pytest.mark.host, pytest.mark.smoke]

NAME = "smoke/luo"


def save(wire: list[Any]) -> dict[str, Any]:
    return node("SaveImage", images=wire, filename_prefix="smoke")


def loras() -> dict[str, Any]:
    """From a picture to the file of a LoRA."""
    wires = {"structure": ["train", 0], "style": ["train", 1]}
    nodes = {"train": train(), "save": node("ReCharSaveBLoRA", name=NAME, **wires)}
    return demo(**nodes, plain=save(["glyph", 0]))


def loaded() -> dict[str, Any]:
    """From those files to a decorated picture and a grid."""
    words = {"template": "A [c] in [s] style", "structure_trigger": "A [v]", "style_trigger": "A [v]"}
    words |= {"elements": "flowers", "keep": "auto", "element_weight": 1.0}
    part = {"structure": ["a", 0], "style": ["b", 0]}
    drawn = {"positive": ["words", 0], "negative": ["picture_empty", 0], "latent_image": ["picture_size", 0]}
    sampler = {"seed": 1, "steps": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    alphas = {"structure_alphas": "0, 1", "style_alphas": "1"}
    grid = node("ReCharAlphaGrid", model=graphs.MODEL, vae=graphs.VAE, **drawn, **part, **alphas, **sampler)
    nodes = {
        "a": node("ReCharLoadStructureLoRA", file=f"{NAME}_structure.safetensors"),
        "b": node("ReCharLoadStyleLoRA", file=f"{NAME}_style.safetensors"),
        "about": node("ReCharInspectBLoRA", blora=["a", 0]),
        "report": show(["about", 0]),
        "words": node("ReCharElementPrompt", clip=graphs.CLIP, **words),
        "fuse": fuse(["a", 0], ["b", 0]),
        "grid": grid,
        "sheet": save(["grid", 0]),
    }
    return demo(**nodes, **draw(["fuse", 0], "picture", ["words", 0]), **draw(graphs.MODEL, "without"))


def references() -> dict[str, Any]:
    """From pictures to a picture, a map and scores."""
    cut = {"threshold_mode": "auto", "threshold": 0.5, "invert": "auto", "margin": 0.1}
    judged = {"images": ["glyph", 0], "glyph_mask": ["glyph", 1]}
    nodes = refs.references() | {
        "cut": node("ReCharGlyphFromImage", image=["glyph", 0], width=SIDE, height=SIDE, **cut),
        "cut_image": save(["cut", 0]),
        "layout": refs.layout("gated_softmax"),
        "apply": refs.applied(layout=["layout", 0]),
        "map": refs.mapped("canny-cv2", glyph_mask=["glyph", 1]),
        "map_image": save(["map", 0]),
        "score": node("ReCharScore", **judged),
        "scores": show(["score", 0]),
        "best": node("ReCharBestOf", **judged, rank_by="structure", count=1),
        "best_image": save(["best", 0]),
    }
    return demo(**nodes, **draw(["apply", 0], "picture"), **draw(graphs.MODEL, "without"))


def passes() -> dict[str, Any]:
    """The pipeline and a word, led by what ships beside the demo model."""
    wires = {"adapters": ["own", 0], "control_net": ["own", 1], "style_image": ["other", 0]}
    word = graphs.word(pipeline_mode="references-only", structure_steps=0, steps=1, **wires)
    nodes = {
        "own": node("ReCharDemoReferences"),
        "other": graphs.glyph("S"),
        "whole": refs.pipeline("tuned", **wires),
        "whole_image": save(["whole", 0]),
        "letters": save(["word", 0]),
    }
    return demo(**nodes, **word)


def clip_engine(scene: str) -> dict[str, Any]:
    """An instruction, a found object, and one style and two by CLIP."""
    settings = {"styles": "fire\nice", "seeds": "0", "t": 0.7, "steps": 1, "crops": 4, "resolution": 64}
    wires = {"guide": ["guide", 0], "image": ["scene", 0], "mask": ["mask", 0]}
    say = {"instruction": "make my car lace", "mode": "LLM", "llm": ["llm", 0]}
    return {
        "scene": node("LoadImage", image=scene),
        "mask": node("ImageColorToMask", image=["scene", 0], color=soul.RED),
        "llm": node("SoulstylerLoadLLM", llm_folder="tiny"),
        "say": node("SoulstylerInstruction", **say),
        "said": show(["say", 6]),
        "seg": node("SoulstylerLoadSegmenter", segmenter_folder="clipseg-rd64-refined"),
        "find": soul.mask_node(threshold=0.01),
        "found": show(["find", 2]),
        "guide": soul.guide(),
        "work": soul.optimise(steps=1),
        "one": save(["work", 0]),
        "sweep": node("SoulstylerSweep", **wires, **settings),
        "all": save(["sweep", 1]),
    }


def sdxl_engine(scene: str) -> dict[str, Any]:
    """The object redrawn between Prepare and Finish."""
    given = {"image": ["scene", 0], "mask": ["mask", 0], "vae": graphs.VAE}
    nodes = {
        "scene": node("LoadImage", image=scene),
        "mask": node("ImageColorToMask", image=["scene", 0], color=soul.RED),
        "ready": node("SoulstylerPrepare", model=graphs.MODEL, **given),
        "done": node("SoulstylerFinish", image=["picture_decode", 0], restyle_target=["ready", 2]),
        "one": save(["done", 0]),
        **draw(["ready", 0], "picture"),
    }
    nodes["picture_sampler"]["inputs"]["latent_image"] = ["ready", 1]
    return demo(**nodes)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with small random files for all loaders."""
    base = base_directory(tmp_path_factory.mktemp("smoke"))
    (base / "custom_nodes" / "tiny_vision.py").write_text(refs.TINY_VISION, encoding="utf-8")
    (base / "custom_nodes" / "tiny_vision.json").write_text(json.dumps(refs.VISION), encoding="utf-8")
    refs.write_adapters(base / "models" / "ipadapter")
    adapters.stock(base / "custom_nodes" / PACK, base / "models")
    soulstyler_tiny.stock(base / "models" / "soulstyler")
    soulstyler_tiny.llm_folder(base / "models" / "LLM" / "tiny")
    with Server(find_host(), base) as running:
        yield running


@pytest.fixture(scope="module")
def scene(host: Server) -> str:
    return host.upload("scene.png", soul.scene())


def done(made: Run) -> Run:
    assert not made.error, made.error
    return made


def test_loras_are_trained_saved_read_and_drawn_with(host: Server):
    glyph = done(host.run(loras())).images["plain"]
    assert glyph.min() < 20 and glyph.max() > 235
    made = done(host.run(loaded()))
    assert not np.array_equal(made.images["picture"], made.images["without"])
    assert "structure block" in made.text("report") and made.images["sheet"].std() > 5


def test_references_lead_and_scores_are_given(host: Server):
    made = done(host.run(references()))
    assert not np.array_equal(made.images["picture"], made.images["without"])
    assert made.images["cut_image"].min() == 0 and made.images["map_image"].max() == 255
    assert json.loads(made.text("scores"))["pictures"][0]["iou"] > 0.95
    assert made.images["best_image"].shape == (1, SIDE, SIDE, 3)


def test_the_pipeline_and_a_word_are_drawn(host: Server):
    made = done(host.run(passes()))
    assert made.images["whole_image"].std() > 1
    assert made.images["letters"].shape == (2, SIDE, SIDE, 3)
    assert "ERROR" not in host.log() and "Traceback" not in host.log()  # no line of ours looks like a fault


def test_both_engines_of_soulstyler_change_the_object_alone(host: Server, scene: str):
    clip, sdxl = done(host.run(clip_engine(scene))), done(host.run(sdxl_engine(scene)))
    assert clip.text("said").startswith("rules (") and float(clip.text("found")) > 0
    assert clip.images["all"].shape == (2, *soul.scene().shape)
    for picture in (clip.images["one"][0], *clip.images["all"], sdxl.images["one"][0]):
        assert np.array_equal(picture[~soul.disc()], soul.scene()[~soul.disc()])
        assert not np.array_equal(picture[soul.disc()], soul.scene()[soul.disc()])


def test_no_node_is_left_out(host: Server):
    """A failure means that a node was added and no older host runs it: put it into a graph above."""
    graphs_ = (loras(), loaded(), references(), passes(), clip_engine(""), sdxl_engine(""))
    run = {n["class_type"] for graph in graphs_ for n in graph.values()}
    ours = {name for name, about in host.object_info().items() if PACK in about["python_module"]}
    assert ours - run == set()
