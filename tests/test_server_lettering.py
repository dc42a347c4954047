"""ReChar Word inside a real ComfyUI server: characters with one look, put together with alpha."""

from __future__ import annotations

import json
from typing import Any

import graphs
import numpy as np
import pytest
from graphs import SIDE, demo, node, show, train
from server import Server

pytestmark = pytest.mark.host
STYLE = {"style": ["train", 1]}


def words(**kinds: dict[str, Any]) -> dict[str, Any]:
    """One ReChar Word a kind, all of one text and one style, with their outputs saved."""
    nodes: dict[str, Any] = {"train": train("other", target="style", steps=12), "other": graphs.glyph("S")}
    nodes["other"]["inputs"] |= {"ink": "#c01020", "paper": "#204080"}
    for kind, changes in kinds.items():
        made = graphs.word(**STYLE, **changes)
        nodes |= {"text": made["text"], kind: made["word"]}
        for number, name in enumerate(("letters", "page")):
            nodes[f"{kind}_{name}"] = node("SaveImage", images=[kind, number], filename_prefix="word")
        nodes[f"{kind}_alpha"] = node("MaskToImage", mask=[kind, 2])
        nodes[f"{kind}_alpha_saved"] = node("SaveImage", images=[f"{kind}_alpha", 0], filename_prefix="word")
        nodes[f"{kind}_text"] = show([kind, 3])
    return demo(**nodes)


def done(made: Any) -> Any:
    assert not made.error, made.error
    return made


def spread(letters: np.ndarray, masks: np.ndarray) -> float:
    """How far the characters' mean colours lie apart, ink and ground each, in levels of 255."""
    means = [
        [picture[mask > 0.9].mean(0), picture[mask < 0.1].mean(0)]
        for picture, mask in zip(letters.astype(float), masks, strict=True)
    ]
    return float(np.ptp(np.array(means), axis=0).mean())


@pytest.fixture(scope="module")
def drawn(comfy: Server) -> Any:
    """The same word with everything shared, with the noise alone, with nothing; and in other mattes."""
    kinds = {
        "shared": {},
        "noise": {"shared_style": "noise"},
        "off": {"shared_style": "off"},
        "square": {"matte": "square"},
    }
    return done(comfy.run(words(**kinds)))


def test_a_word_is_a_batch_and_a_page(drawn: Any):
    """Two squares, and a page of the canvas' size whose alpha is the text."""
    assert drawn.images["shared_letters"].shape == (2, SIDE, SIDE, 3)
    assert drawn.images["shared_page"].shape == (1, SIDE // 2, SIDE, 3)
    alpha = drawn.images["shared_alpha_saved"][0, ..., 0]
    assert (alpha > 250).mean() > 0.05 and (alpha[:3] == 0).all()
    assert (drawn.images["square_alpha_saved"] > 250).mean() > 0.8
    settings = json.loads(drawn.text("shared_text"))
    assert (settings["shared_style"], settings["structure_steps"], settings["steps"]) == (
        "noise and statistics",
        3,
        2,
    )


def test_sharing_brings_the_characters_together(comfy: Server, drawn: Any):
    """The first character is the same as with shared noise alone; the second is nearer to it in colour."""
    from rechar_core.glyph import find, known, open_face, render
    from rechar_core.synthesis.lettering import cells

    letters = {kind: drawn.images[f"{kind}_letters"] for kind in ("shared", "noise", "off")}
    assert np.array_equal(letters["shared"][0], letters["noise"][0])
    assert np.array_equal(letters["noise"][0], letters["off"][0])
    assert not np.array_equal(letters["shared"][1], letters["noise"][1])
    assert not np.array_equal(letters["noise"][1], letters["off"][1])
    face = open_face(find("ReChar CJK", known()))
    masks, _ = cells(render("永山", [face], (SIDE // 2, SIDE), margin=0.1).parts, SIDE, 0.15)
    apart = {kind: spread(found, masks.numpy()) for kind, found in letters.items()}
    assert apart["shared"] < 0.7 * apart["off"] and apart["shared"] < apart["noise"], apart


def test_the_saved_page_has_the_alpha(comfy: Server, drawn: Any):
    """The file itself, not what the test's client makes of it."""
    import io

    from PIL import Image

    (saved,) = drawn.outputs["shared_page"]["images"]
    page = Image.open(io.BytesIO(comfy.client.download(saved)))
    assert page.mode == "RGBA"
    own = np.asarray(page)[..., 3].astype(int)
    assert np.abs(own - drawn.images["shared_alpha_saved"][0, ..., 0]).max() <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"structure_steps": 0}, "Nothing carries the glyph"),
        ({"structure_steps": 0, "pipeline_mode": "official"}, "Nothing carries the glyph"),
        ({"pipeline_mode": "official"}, "nothing uses the B-LoRAs that structure_steps trains"),
        ({"side": 100}, "The side is 100 pixels; give a multiple of 8"),
        ({"pipeline_mode": "references-only"}, "There is no style"),
    ],
)
def test_what_is_missing_is_said(comfy: Server, changes: dict[str, Any], message: str):
    made = comfy.run(words(one=changes))
    assert message in made.error


def test_what_is_missing_is_said_before_the_training(comfy: Server):
    """Without a style there is nothing to train for. A failure means hours of training before that is said."""
    made = graphs.word(structure_steps=1_000_000)
    answer = comfy.run(demo(text=made["text"], word=made["word"], shown=show(["word", 3])))
    assert "There is no style" in answer.error


def test_a_word_by_references_alone(comfy: Server):
    """With what ships beside the demo model: nothing is trained, each character is another picture, Score reads the
    page, whose paper is transparent."""
    wires = {"adapters": ["refs", 0], "control_net": ["refs", 1], "style_image": ["other", 0]}
    made = graphs.word(pipeline_mode="references-only", structure_steps=0, **wires)
    made["other"] = graphs.glyph("S")
    made["refs"] = node("ReCharDemoReferences")
    made["letters"] = node("SaveImage", images=["word", 0], filename_prefix="word")
    made["score"] = node("ReCharScore", images=["word", 1], glyph_mask=["text", 1])
    made["scores"] = show(["score", 0])
    answer = done(comfy.run(demo(**made)))
    letters = answer.images["letters"]
    assert letters.shape == (2, SIDE, SIDE, 3) and not np.array_equal(letters[0], letters[1])
    assert json.loads(answer.text("scores"))["controls"]["blank"]["iou"] == 0
