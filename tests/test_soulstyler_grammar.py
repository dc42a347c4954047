"""What an instruction asks for, against the 100 published ones and by the properties that all answers have."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from rechar_core.soulstyler.grammar import Pair, language_of, parse
from rechar_core.soulstyler.spans import Text

ROOT = Path(__file__).parents[1]


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (ROOT / "data" / name).read_text("utf-8").splitlines()]


ROWS, LATE = rows("instructions.jsonl"), rows("instructions_late.jsonl")


def test_the_table_is_what_it_says():
    assert Counter(row["language"] for row in ROWS) == {"en": 50, "zh": 25, "ja": 25}
    assert Counter(row["language"] for row in ROWS if row["unseen"]) == {"en": 20, "zh": 10, "ja": 10}
    assert Counter(row["language"] for row in LATE) == {"en": 20, "zh": 10, "ja": 10}
    assert len({row["instruction"] for row in [*ROWS, *LATE]}) == 140
    for row in [*ROWS, *LATE]:
        values = [row["style"], *(value for pair in row["pairs"] for value in pair.values())]
        assert all(value in row["instruction"] for value in values), row["id"]


def test_at_least_nine_of_ten_are_read_exactly_right():
    spec = importlib.util.spec_from_file_location("instructions", ROOT / "benchmarks" / "instructions.py")
    benchmark = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["instructions"] = benchmark
    spec.loader.exec_module(benchmark)
    result = benchmark.score(benchmark.cases(), parse)
    assert result["right_of"]["all"][1] == 100
    assert result["right_of"]["all"][0] >= 90, result["misses"]
    late = benchmark.score(benchmark.cases(ROOT / "data" / "instructions_late.jsonl"), parse)
    assert late["right_of"]["all"][1] == 40 and late["right_of"]["all"][0] >= 36, late["misses"]
    broken = benchmark.score(benchmark.cases(), lambda _: parse(""))
    assert broken["right_of"]["all"][0] == 3  # those that ask for nothing


TRICKY = [
    "make the anime girl a sketch",
    "Give the cat on the sofa a stained glass look",
    "  Turn   the “old” car into ‘pop art’!! ",
    "把图中的猫变成油画风格，谢谢！",
    "この写真の猫を油絵風にしてください。",
    "Please, please only make it",
    "turn into",
    "、、、",
    "の",
    "的",
    "style",
    "with and to",
    "apply to on",
    "给",
    "\n",
    "🐱 in 🎨 style",
    "make " * 60,
]


@pytest.mark.parametrize("text", [*TRICKY, *(row["instruction"] for row in [*ROWS, *LATE])])
def test_every_value_is_a_span_of_the_instruction(text: str):
    request = parse(text)
    values = [request.style, *(v for p in request.pairs for v in (p.style, p.object, p.head, p.part))]
    assert all(value in text for value in values)
    for pair in request.pairs:
        assert pair.style and pair.object and pair.head and pair.head in pair.object
    assert request.found == bool(request.pairs)
    assert json.loads(request.pairs_json()) == [vars(pair) for pair in request.pairs]


@pytest.mark.parametrize("row", [r for r in ROWS if len(r["pairs"]) == 1], ids=lambda r: r["id"])
def test_politeness_and_punctuation_change_nothing(row: dict):
    before, after = {"en": ("Please ", "!"), "zh": ("请", "！"), "ja": ("", "。")}[row["language"]]
    plain, polite = parse(row["instruction"]), parse(before + row["instruction"].rstrip("?？") + after)
    assert polite.pairs == plain.pairs


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("make the anime girl a sketch", [Pair("sketch", "anime girl", "girl")]),
        ("Change the bumper from red to chrome", [Pair("chrome", "bumper", "bumper")]),
        ("Turn everything into lace", []),
        ("make the cat a robot, the dog a statue and the bird a kite", ["robot", "statue", "kite"]),
        ("Give the cat on the sofa a stained glass look", [Pair("stained glass", "cat on the sofa", "cat")]),
        ("The castle keep in gothic style", [Pair("gothic", "castle keep", "keep")]),
        ("将那两只狗改成卡通风格", [Pair("卡通", "狗", "狗")]),
        ("把這輛車變成水彩畫風格", [Pair("水彩畫", "車", "車")]),
        ("女の子を油絵風に", [Pair("油絵", "女の子", "女の子")]),
        ("", []),
    ],
)
def test_known_traps(text: str, pairs: list):
    found = parse(text).pairs
    assert [p.style for p in found] == pairs if pairs and isinstance(pairs[0], str) else list(found) == pairs


def test_a_style_without_an_object_is_not_found_but_said():
    request = parse("Make everything look like lace")
    assert (request.style, request.found, request.pairs_json()) == ("lace", False, "[]")


def test_a_part_is_the_target():
    assert Pair("cubism", "boat", "boat", "sails").target == "sails of boat"
    assert Pair("cubism", "boat", "boat").target == "boat"


def test_language_is_seen_by_the_script():
    texts = (
        "a cat",
        "一只猫",
        "猫を",
        "",
        "Turn the character 羅 into red ink",
        "把车变成 Studio Ghibli 风格",
    )
    assert [language_of(text) for text in texts] == ["en", "zh", "ja", "en", "en", "zh"]


def test_text_remembers_its_source_through_cuts():
    import re

    text = Text.of("ab “cd” ef").without(re.compile("b |d"))
    assert (text.text, text[1:].span(), (text[0:1] + text[2:3]).span()) == ('a"c" ef', "“cd” ef", "ab “c")


def test_a_long_instruction_is_read_in_no_time():
    import time

    start = time.perf_counter()
    parse("make the cat on the mat in the hat and the dog " * 40)
    parse("把猫的狗的" * 100)
    assert time.perf_counter() - start < 5
