"""Finding the object and reading the instruction with models from local folders: tiny random ones and stand-ins."""

from __future__ import annotations

import pytest
import soulstyler_tiny as tiny
import torch

from rechar_core.errors import FileError, ImageError, ModelError, RecipeError
from rechar_core.soulstyler.compose import Target
from rechar_core.soulstyler.folders import folders_of, model_type
from rechar_core.soulstyler.grammar import parse
from rechar_core.soulstyler.llm import Llm, checked, read_in_mode
from rechar_core.soulstyler.segment import Search, find, load_clipseg
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
     ({"text": "a", "on_empty": "x"}, "no 'x'")],
)  # fmt: skip
def test_a_bad_search_is_refused(given: dict, words: str):
    with pytest.raises(RecipeError, match=words):
        Search(**given)


def test_clipseg_from_a_folder_answers_for_every_pixel(tmp_path):
    segmenter = load_clipseg(tiny.clipseg_folder(tmp_path / "seg"))
    sure = segmenter.look(IMAGES[0].movedim(-1, 0), "car")
    assert sure.shape == (30, 40) and sure.min() >= 0 and sure.max() <= 1
    assert not torch.equal(sure, segmenter.look(IMAGES[0].movedim(-1, 0), "a very different thing"))
    assert (model_type(tmp_path / "seg"), folders_of(tmp_path, ["clipseg"])) == ("clipseg", ["seg"])


def test_missing_and_wrong_folders_are_explained(tmp_path):
    with pytest.raises(FileError, match=r"lacks config.json, .*CIDAS/clipseg-rd64-refined"):
        load_clipseg(tmp_path / "none")
    with pytest.raises(FileError, match=r"lacks config.json, tokenizer_config.json: put an instruct model"):
        Llm.load(tmp_path / "none")
    (tmp_path / "config.json").write_text('{"model_type": "nonsense"}', encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for load in (load_clipseg, Llm.load):
        with pytest.raises(ModelError, match="that transformers can read"):
            load(tmp_path)


def test_an_llms_answer_is_used_only_if_it_is_made_of_spans():
    assert checked(SENTENCE, f"Sure! Here you are: {GOOD} Anything else?").pairs == parse(SENTENCE).pairs
    for answer in ("", "no", "{}", '{"pairs": []}', GOOD.replace("red car", "blue car"), GOOD.replace('"car"', "3"),
                   GOOD.replace('"car"', '"watercolor"'), GOOD[:-9], '{"pairs": [1]}'):  # fmt: skip
        assert checked(SENTENCE, answer) is None, answer


class Says:
    def __init__(self, answer: str):
        self.answer = answer

    def write(self, prompt: str) -> str:
        assert SENTENCE in prompt
        return self.answer


def test_who_read_it_is_said():
    assert read_in_mode(SENTENCE, "auto", None).by == "rules"
    assert read_in_mode(SENTENCE, "rules", Says(GOOD)).by == "rules"
    assert read_in_mode(SENTENCE, "LLM", Says(GOOD)).by == "LLM"
    fallen = read_in_mode(SENTENCE, "auto", Says("I am a model"))
    assert fallen.by == "rules (the LLM's answer could not be used)" and fallen.pairs == parse(SENTENCE).pairs
    with pytest.raises(RecipeError, match="none is connected"):
        read_in_mode(SENTENCE, "LLM", None)
    with pytest.raises(RecipeError, match="no mode 'x'"):
        read_in_mode(SENTENCE, "x", None)


def test_a_tiny_llm_from_a_folder_falls_back_to_the_rules(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=600, max_position_embeddings=4096, **sizes)).save_pretrained(
        tmp_path
    )
    tiny.tokenizer_files(tmp_path)
    assert read_in_mode(SENTENCE, "LLM", Llm.load(tmp_path)).by.startswith("rules (")


def test_sweeps_are_rows_of_styles():
    recipes = sweep_recipes("cubism\n\n fire ", "3, 4", steps=2)
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
    target = Target.of(IMAGES[:1], mask)
    out = target.finish(torch.zeros(3, 32, 40, 3))
    assert out.shape == (3, 30, 40, 3) and out[:, 5:9, 5:9].sum() == 0
    assert torch.equal(out[1][mask[0] == 0], IMAGES[0][mask[0] == 0])
    with pytest.raises(ImageError, match="64 x 64"):
        target.finish(torch.zeros(1, 64, 64, 3))
