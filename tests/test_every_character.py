"""The benchmark's set and the demo model's held-out lists are what was frozen before the demo model's training."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

import benchmarks.every_character as frozen
from benchmarks.every_character import candidates, items, lists
from benchmarks.every_character.logos import logo
from demo.frozen import fingerprint, held_out, never_drawn

DEMO = "b5c13c5859fffc3ac0c06a90be7df21606eedda430d2947f010bc0c6bc685969"
LOGOS = "601671642b6cfbc751e1ae538c9820381848f44cf21248d0902be46ed5364524"


def test_the_file_is_the_frozen_one_and_its_rule_gives_it_again():
    """A failure means that figures of different runs no longer speak of the same glyphs."""
    pytest.importorskip("regex")
    from benchmarks.every_character import make

    stored = frozen.FILE.read_bytes()
    assert hashlib.sha256(stored).hexdigest() == frozen.SHA256
    assert make.content(json.loads(stored)["lists"]) == stored


def test_the_counts_and_names_are_those_of_the_issue():
    found = items()
    assert Counter(item.kind for item in found) == {
        "han": 200, "hangul": 60, "arabic": 60, "devanagari": 40, "thai": 20, "kana": 20, "latin": 20, "logo": 20,
    }  # fmt: skip
    assert len({item.id for item in found}) == len(found) == 440
    assert all(re.fullmatch(r"[a-z]+_[0-9a-f-]+", item.id) for item in found)


def test_every_item_is_among_the_candidates_of_its_kind():
    sizes = {
        kind: len(candidates(kind)) for kind in ("han", "hangul", "arabic", "devanagari", "thai", "logo")
    }
    assert sizes == {"han": 6763, "hangul": 2350, "arabic": 500, "devanagari": 500, "thai": 500, "logo": 500}
    assert all(item.text in candidates(item.kind) for item in items())
    assert {i.text for i in items() if i.kind == "han"} <= set(lists.han_level_two())


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "items.json"
    changed.write_bytes(frozen.FILE.read_bytes().replace("眍".encode(), "一".encode()))
    monkeypatch.setattr(frozen, "FILE", changed)
    frozen._content.cache_clear()
    try:
        with pytest.raises(ValueError, match="not the frozen set"):
            items()
    finally:
        frozen._content.cache_clear()


def test_logos_are_drawn_as_when_they_were_frozen():
    shapes = [
        [[[round(x, 4), round(y, 4)] for x, y in outline] + [painted] for outline, painted in logo(number)]
        for number in range(520)
    ]
    assert hashlib.sha256(json.dumps(shapes).encode()).hexdigest() == LOGOS
    assert len({json.dumps(shape) for shape in shapes}) == 520


def test_the_demo_models_held_out_lists_are_frozen_and_apart_from_the_benchmark():
    found = held_out()
    assert fingerprint() == DEMO
    assert {kind: len(texts) for kind, texts in found.items()} == {
        "han": 3008 - 200, "hangul": 40, "arabic": 20, "devanagari": 20, "logo": 20,
    }  # fmt: skip
    benchmark = {(item.kind, item.text) for item in items()}
    assert not benchmark & {(kind, text) for kind, texts in found.items() for text in texts}
    assert {text for kind, text in benchmark if kind != "logo"} <= never_drawn()
