"""Finding the object and reading the instruction with models from local folders: tiny random ones and stand-ins."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import soulstyler_tiny as tiny
import torch
from safetensors.torch import load_file, save_file
from server import find_host, host_environment

from benchmarks.instructions import llm_reader
from rechar_core.errors import FileError, ImageError, ModelError, RecipeError
from rechar_core.soulstyler.compositing import ObjectRegion
from rechar_core.soulstyler.folders import folders_of, pretrained
from rechar_core.soulstyler.grammar import Request, parse
from rechar_core.soulstyler.llm import Llm, Writer, checked, read_in_mode
from rechar_core.soulstyler.segment import Search, find
from rechar_core.soulstyler.segmenters import LOADERS, SAMS, Grounded, load_segmenter
from rechar_core.soulstyler.stylise import sweep_recipes

SENTENCE = "Turn the red car into a watercolor painting"
GOOD = '{"pairs": [{"style": "watercolor painting", "object": "red car", "head": "car", "part": ""}]}'


class Spot:
    """A segmenter that sees `sure` in a square at the top left."""

    def __init__(self, sure: float):
        self.sure = sure

    def look(self, image: torch.Tensor, text: str) -> torch.Tensor:
        seen = torch.zeros(image.shape[-2:])
        seen[:10, :10] = self.sure
        return seen


IMAGES = torch.rand(2, 30, 40, 3, generator=torch.Generator().manual_seed(0))


def test_what_is_found_is_a_mask():
    found = find(Spot(0.9), IMAGES, Search("car", grow=0, feather=0))
    assert found.mask.shape == (2, 30, 40) and found.mask.sum() == 200
    assert found.found and found.score == pytest.approx(0.9)
    assert find(Spot(0.9), IMAGES, Search("car", grow=2, feather=0)).mask.sum() == 2 * 144


def test_what_is_not_found_is_an_error_unless_told_otherwise():
    with pytest.raises(ImageError, match="'car' is not found in picture 1: the surest pixel has 0.30"):
        find(Spot(0.3), IMAGES, Search("car"))
    for how, total in (("empty", 0), ("full", 2 * 30 * 40)):
        found = find(Spot(0.3), IMAGES, Search("car", on_empty=how))
        assert found.mask.sum() == total and not found.found
    assert find(Spot(float("nan")), IMAGES, Search("car", on_empty="empty")).mask.sum() == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [({"text": " "}, "name the object"), ({"text": "a", "threshold": 1.0}, "threshold is 1.0"),
     ({"text": "a", "on_empty": "x"}, "no on_empty 'x'")],
)  # fmt: skip
def test_a_bad_search_is_refused(given: dict, words: str):
    with pytest.raises(RecipeError, match=words):
        Search(**given)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Tiny random segmenters in transformers' layout."""
    folder = tmp_path_factory.mktemp("segmenters")
    tiny.clipseg_folder(folder / "clipseg")
    tiny.grounding_dino_folder(folder / "dino")
    return folder


@pytest.fixture(scope="module")
def sams(folders: Path) -> Path:
    """The same folder with tiny random SAM 2s, as the published folders are and without the memory for films."""
    tiny.sam_folder(folders / "sam")
    tiny.sam_folder(folders / "sam_image", video=False)
    return folders


@pytest.mark.parametrize("sam", ["sam", "sam_image"])
def test_grounded_things_are_found_for_every_pixel(sams: Path, sam: str):
    answers_for_every_pixel(sams / "dino", sams / sam)


def test_clipseg_answers_for_every_pixel(folders: Path):
    answers_for_every_pixel(folders / "clipseg", None)


def answers_for_every_pixel(folder: Path, sam: Path | None) -> None:
    with torch.inference_mode():  # as in a node
        segmenter = load_segmenter(folder, sam)
        sure = segmenter.look(IMAGES[0].movedim(-1, 0), "car")
        other = segmenter.look(IMAGES[0].movedim(-1, 0), "a very different thing")
    assert sure.shape == (30, 40) and sure.min() >= 0 and 0 < sure.max() <= 1
    assert not torch.equal(sure, other)
    assert not any(p.requires_grad or p.is_inference() for p in segmenter.model.parameters())


def test_only_segmenters_are_offered(sams: Path):
    assert folders_of(sams, LOADERS) == ["clipseg", "dino"] and folders_of(sams, SAMS) == [
        "sam",
        "sam_image",
    ]


class Boxes:
    """Stands for both networks: two boxes of the scores .9 and .3, whose things are their left halves."""

    device = torch.device("cpu")
    config = SimpleNamespace(prompt_encoder_config=SimpleNamespace(image_size=64))

    def __call__(self, input_boxes=None, **given):
        if input_boxes is None:
            assert given["pixel_values"].shape == (1, 3, 800, 1067)
            logits = torch.tensor([[[0.9, 0.1], [0.2, 0.3], [0.0, 0.0]]]).logit()
            middles = torch.tensor([[[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 0.5], [0.5, 0.5, 0.0, 0.0]]])
            return SimpleNamespace(logits=logits, pred_boxes=middles)
        masks = torch.full((1, len(input_boxes[0]), 1, 64, 64), -1.0)
        for mask, (left, top, right, bottom) in zip(masks[0, :, 0], input_boxes[0].round().int().tolist()):
            mask[top:bottom, left : (left + right) // 2] = 1
        return SimpleNamespace(pred_masks=masks)


class Phrases(dict):
    def __call__(self, texts: list[str], **_: Any) -> Phrases:
        assert texts == ["st  john's car."]
        return self

    def to(self, device: Any) -> Phrases:
        return self


def test_things_have_the_scores_of_their_boxes():
    sure = Grounded(Boxes(), Phrases(), Boxes()).look(IMAGES[0].movedim(-1, 0), "St. John's car")
    assert sure[15, 5] == pytest.approx(0.9) and sure[15, 15] == 0
    assert sure[15, 22] == pytest.approx(0.3) and sure[2, 22] == 0 and sure[15, 35] == 0


@pytest.mark.host
def test_boxes_and_things_are_those_of_transformers_own_processors(sams: Path):
    """A failure means that pictures, text or boxes are prepared otherwise than the networks were trained with."""
    host, script = find_host(), Path(__file__).parent / "host_segmenters.py"
    command = [str(host.python), str(script), str(sams)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=host_environment())
    if "No module named 'torchvision'" in run.stderr:
        pytest.skip(f"transformers' own processors need torchvision, which {host.python} has not")
    assert run.returncode == 0, run.stderr[-2000:]
    about = json.loads(run.stdout.splitlines()[-1])
    assert about["pixels"] < 1.01 / 255 / 0.224  # theirs are rounded to bytes once more
    assert about["scores"] < 1e-6 and about["boxes"] < 1e-6 and about["sure"] < 1e-6
    assert 0.1 < about["things"] < 0.9


def test_missing_and_wrong_folders_are_explained(folders: Path, tmp_path: Path):
    with pytest.raises(
        FileError, match=r"lacks config.json, .*CIDAS/clipseg-rd64-refined.*grounding-dino-tiny"
    ):
        load_segmenter(tmp_path / "none")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(
        FileError, match=r"tokenizer_config.json \(pytorch_model.bin is never loaded; save it as"
    ):
        load_segmenter(tmp_path / "old")
    with pytest.raises(FileError, match=r"dino holds GroundingDINO, which only draws boxes"):
        load_segmenter(folders / "dino")
    with pytest.raises(
        FileError, match=r"nosam lacks config.json, model.safetensors: put SAM 2 .*sam2.1-hiera-tiny"
    ):
        load_segmenter(folders / "dino", tmp_path / "nosam")
    with pytest.raises(FileError, match=r"lacks config.json, tokenizer_config.json: put an instruct model"):
        Llm.load(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "clipseg"}', encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for load in (load_segmenter, Llm.load):
        with pytest.raises(ModelError, match="that transformers can read"):
            load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"holds a 't5'; a segmenter is one of clipseg, grounding-dino"):
        load_segmenter(tmp_path)
    with pytest.raises(
        ModelError, match=r"transformers [\d.]+ is too old for a SAM 9 \(it has no Sam9Model\)"
    ):
        pretrained("Sam9Model", folders / "dino", "a SAM 9")


def test_weights_that_transformers_would_draw_at_random_are_missed(folders: Path, tmp_path: Path):
    shutil.copytree(folders / "clipseg", tmp_path / "half")
    state = load_file(tmp_path / "half" / "model.safetensors")
    del state["clip.text_model.final_layer_norm.weight"]
    save_file(state, tmp_path / "half" / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ModelError, match=r"half is not a CLIPSeg .* lack clip.text_model.final_layer_norm.weight"
    ):
        load_segmenter(tmp_path / "half")


def test_an_llms_answer_is_used_only_if_it_is_made_of_spans():
    assert checked(SENTENCE, f"Sure! Here you are: {GOOD} Anything else?").pairs == parse(SENTENCE).pairs
    for answer in ("", "no", "{}", '{"pairs": []}', GOOD.replace("red car", "blue car"), GOOD.replace('"car"', "3"),
                   GOOD.replace('"car"', '"watercolor"'), GOOD[:-9], '{"pairs": [1]}'):  # fmt: skip
        assert checked(SENTENCE, answer) is None, answer


def says(answer: str) -> Writer:
    """A model with this output."""

    def write(prompt: str) -> str:
        assert SENTENCE in prompt
        return answer

    return write


def test_who_read_it_is_said():
    with pytest.raises(RecipeError, match="instruction is empty"):
        read_in_mode(" \n", "auto", None)
    assert read_in_mode(SENTENCE, "auto", None).by == "rules"
    assert read_in_mode(SENTENCE, "rules", says(GOOD)).by == "rules"
    assert read_in_mode(SENTENCE, "LLM", says(GOOD)).by == "LLM"
    assert read_in_mode(SENTENCE, "auto", says(GOOD)).by == "LLM"
    fallen = read_in_mode(SENTENCE, "auto", says("I am a model"))
    assert fallen.by == "rules (the LLM's answer could not be used)" and fallen.pairs == parse(SENTENCE).pairs
    with pytest.raises(RecipeError, match="none is connected"):
        read_in_mode(SENTENCE, "LLM", None)
    with pytest.raises(RecipeError, match="no mode 'x'"):
        read_in_mode(SENTENCE, "x", None)


def test_a_tiny_llm_from_a_folder_falls_back_to_the_rules(tmp_path):
    tiny.llm_folder(tmp_path)
    assert read_in_mode(SENTENCE, "LLM", Llm.load(tmp_path)).by.startswith("rules (")
    assert llm_reader(tmp_path)(SENTENCE) == Request("", ())  # the benchmark scores the LLM alone


def test_sweeps_are_rows_of_styles():
    recipes = sweep_recipes("cubism\n\n fire ", "3，4", steps=2)
    assert [[(r.style, r.seed, r.steps) for r in row] for row in recipes] == [
        [("cubism", 3, 2), ("cubism", 4, 2)],
        [("fire", 3, 2), ("fire", 4, 2)],
    ]
    for styles, seeds, words in (("", "0", "0 styles"), ("a", "x", "no list of seeds"), ("a", "", "0 seeds")):
        with pytest.raises(RecipeError, match=words):
            sweep_recipes(styles, seeds)


def test_finish_puts_back_and_refuses_other_sizes():
    mask = torch.zeros(1, 30, 40)
    mask[:, 5:9, 5:9] = 1
    target = ObjectRegion.of(IMAGES[:1], mask)
    out = target.finish(torch.zeros(3, 32, 40, 3))
    assert out.shape == (3, 30, 40, 3) and out[:, 5:9, 5:9].sum() == 0
    assert torch.equal(out[1][mask[0] == 0], IMAGES[0][mask[0] == 0])
    with pytest.raises(ImageError, match="64 x 64"):
        target.finish(torch.zeros(1, 64, 64, 3))
