"""Which words of a prompt stay in the cross-attention."""

from __future__ import annotations

import pytest

from rechar_core.errors import RecipeError
from rechar_core.synthesis.elements import (
    PromptToken,
    build_prompt,
    dropped_text,
    kept_text,
    packed,
    prompt,
    split_elements,
    without_elements,
)

TEMPLATE = "A [c] in [s] style"


def test_auto_keeps_triggers_and_content_words():
    words = build_prompt(TEMPLATE, "A [v]", "the [s1]", "plum blossoms, a crane")
    assert prompt(words) == "A [ v ] in [ s1 ] style with plum blossoms , a crane"
    assert kept_text(words) == "[ v ] [ s1 ] plum blossoms crane"


def test_all_keeps_everything_and_nothing_is_lost():
    words = build_prompt("an old [e] tree", elements="plum, 梅の花", mode="all")
    assert kept_text(words) == prompt(words) == "an old plum , 梅の花 tree"


def test_brackets_keep_what_they_mark():
    words = build_prompt("a [golden] [c] on paper", "A [v]", elements="one [red] crane", mode="brackets")
    assert prompt(words) == "a golden [ v ] on paper with one red crane"
    assert kept_text(words) == "golden [ v ] red"


def test_weight_is_the_elements_alone():
    words = build_prompt(TEMPLATE, "A [v]", "A [s]", "stars", weight=1.5)
    assert {w.text for w in words if w.weight != 1} == {"stars"}


def weights(words) -> list[tuple[str, float]]:
    return [(w.text, round(w.weight, 6)) for w in words]


def test_parentheses_emphasise_as_in_every_prompt_of_comfyui():
    words = build_prompt(
        "a (bold:1.2) sign", elements="(plum, crane:1.4), (moon), \\(x\\)", mode="all", weight=2.0
    )
    assert weights(words) == [
        *(
            ("a", 1),
            ("bold", 1.2),
            ("sign", 1),
            ("with", 1),
            ("plum", 2.8),
            (",", 2.8),
            ("crane", 2.8),
            (",", 1),
        ),
        *(("moon", 2.2), (",", 1), ("(", 2), ("x", 2), (")", 2)),
    ]


def test_emphasis_around_a_slot_holds_for_what_fills_it():
    words = build_prompt("([c]:1.5) of ([e]:0.5)", "A (v)", elements="stars")
    assert weights(words) == [("(", 1.5), ("v", 1.5), (")", 1.5), ("of", 1), ("stars", 0.5)]


def test_an_embedding_stays_whole():
    words = build_prompt("[e]", elements="embedding:my-style/one, (embedding:two:1.3)")
    assert weights(w for w in words if w.kept) == [("embedding:my-style/one", 1), ("embedding:two", 1.3)]


def test_brackets_reach_over_commas_slots_and_emphasis():
    words = build_prompt("[old (gold:1.2) [c]] x", "A [v]", elements="[plum, a crane] moon", mode="brackets")
    assert kept_text(words) == "old gold [ v ] plum , a crane"


def test_rows_of_a_prompts_second_chunk():
    """A failure means that the tokens after the first 75 are dropped or kept in another's place."""
    tokens = [PromptToken(str(i), "normal", 1.0, i == 79) for i in range(80)]
    chunks, rows = packed([[i] for i in range(80)], tokens, 77)
    assert [len(chunk) for chunk in chunks] == [75, 5] and rows == [77 + 5]


def test_region_leaves_the_rest_of_the_prompt_outside():
    words = build_prompt("A [c]", "A [v]", elements="stars")
    assert prompt(without_elements(words)) == "A [ v ]"
    assert without_elements(words)[0] == PromptToken("A", "normal", 1.0, False)


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        ("a, b;c\nd", ("a", "b", "c", "d")),
        ("梅花，鶴、雲；月", ("梅花", "鶴", "雲", "月")),
        (" , ", ()),
        ("(a, b:1.2), c", ("(a, b:1.2)", "c")),
        ("", ()),
    ],
)
def test_element_lists_of_every_script(text, elements):
    assert split_elements(text) == elements


def test_apostrophes_and_hyphens_do_not_tear_words():
    assert (
        prompt(build_prompt("[e]", elements="baby's-breath, art-deco fans", mode="all"))
        == "baby's-breath , art-deco fans"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"template": "a cat", "mode": "auto"}, "Nothing of 'a cat' would be kept"),
        ({"template": "a cat", "mode": "brackets"}, "Nothing of 'a cat'"),
        (
            {"template": "[c]", "mode": "some"},
            "There is no keep mode 'some'; choose one of auto, brackets, all",
        ),
        ({"template": "[c]", "weight": -1.0}, "The element weight is -1.0"),
        ({"template": "", "mode": "all"}, "Nothing of ''"),
    ],
)
def test_bad_input_says_what_is_wrong(arguments, words):
    with pytest.raises(RecipeError, match=words):
        build_prompt(**arguments)


@pytest.mark.parametrize(
    ("template", "triggers", "kept"),
    [
        ("A [v] in [s] style", ("", "ohwx"), "[ v ] ohwx crane"),
        ("A [C] in [S] style", ("A [v]", "a red seal"), "[ v ] red seal crane"),
        ("the ohwx glyph, Red Seal style", ("ohwx", "A red seal"), "ohwx Red Seal crane"),
        ("an ohwxy cat, [E]", ("ohwx", ""), "crane"),  # a longer word is not the trigger
        ("(A [v]:1.3) in [s]", ("A [v]", "A [v]"), "[ v ] [ v ] crane"),
    ],
)
def test_a_typed_trigger_counts(template, triggers, kept):
    """A failure means that writing the trigger by hand, as everywhere else, leaves the LoRA's own word out."""
    words = build_prompt(template, *triggers, "a crane")
    assert kept_text(words) == kept


def test_cjk_marks_are_those_of_weights():
    """A failure means that a weight typed with a Chinese or Japanese keyboard is read as words."""
    asked, typed = "(plum:1.3), (red (crane)), moon", "（plum：1.3）， （red （crane））； moon"
    assert build_prompt("[s]", "", "x", typed) == build_prompt("[s]", "", "x", asked)


def test_emoji_are_kept_whole():
    words = build_prompt("[s]", "", "x", "✨, 👩🏽‍🎨, ❤️ stars!")
    assert kept_text(words) == "x ✨ 👩🏽‍🎨 ❤️ stars"


def test_words_that_are_not_kept_are_named():
    words = build_prompt("[s]", "", "x", "a crane of the North, plum blossoms")
    assert kept_text(words) == "x crane North plum blossoms"
    assert dropped_text(words) == "a of the"
