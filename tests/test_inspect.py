"""The report of a B-LoRA: its numbers against the deltas themselves, its table in any console."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from loras import STRUCTURE, STYLE, TO_Q, blora, pair, random

from rechar_core.lora import files
from rechar_core.lora.blora import BLora
from rechar_core.lora.inspect import energy, inspect


def test_energy_is_the_norm_of_the_delta():
    for one in (pair(network_alpha=3.0), pair(1, rank=1), pair(2, network_alpha=-2.0), pair(3, rank=16)):
        assert energy(one) == pytest.approx(one.delta().norm().item(), rel=1e-6)
    nothing = replace(pair(), up=torch.zeros(12, 4))
    assert energy(nothing) == 0.0


def test_the_reference_runs_report(reference):
    made = files.read(reference / "style_lora.safetensors")
    report = inspect(made)
    assert (report.format, report.blocks, report.ranks, report.network_alphas) == (
        "diffusers",
        ("structure", "style"),
        (8,),
        (8.0,),
    )
    assert report.dtypes == {"float32": 32} and report.outside == 0 and not report.kinds
    for name, path in (("structure", STRUCTURE), ("style", STYLE)):
        stacked = torch.cat([p.delta().flatten() for m, p in made.pairs.items() if m.startswith(path + ".")])
        assert report.energies[name] == pytest.approx(stacked.norm().item(), rel=1e-5)
    assert sum(report.shares.values()) == pytest.approx(1.0)
    assert set(report.layers) == set(made.pairs)


def test_the_report_is_json():
    made = blora(
        outside=tuple(f"lora_te1_{i}" for i in range(12)),
        passthrough={
            TO_Q: {"hada_w1_a": random(2, 2), "hada_w1_b": random(2, 2), "alpha": torch.tensor(1.0)}
        },
    )
    found = json.loads(json.dumps(inspect(made).as_dict()))
    assert found["blocks"] == ["structure", "style"] and found["trigger"] == "A [v]"
    assert found["recipe"] == {"seed": 5, "steps": 9} and found["kinds"] == {"LoHa": 1}
    assert found["outside"] == 12 and len(found["outside_first"]) == 10


def test_a_lora_that_learnt_nothing_has_no_shares():
    made = BLora({TO_Q: replace(pair(), up=torch.zeros(12, 4), dora_scale=random(12, 1))})
    report = inspect(made)
    assert report.shares == {"structure": 0.0} and report.dora == 1


def test_the_table_is_readable_anywhere():
    text = str(inspect(blora(trigger="\u5b57 [v]", outside=("lora_te1_x",))))
    assert text.isascii() and "\\u5b57 [v]" in text
    assert "structure, style" in text and "lora_te1_x" in text and "1 keys, not used" in text
    assert all(f"{module} " in text for module in blora().pairs)


def test_a_file_for_comfyui_only_still_reports():
    text = str(inspect(BLora({}, passthrough={TO_Q: {"lokr_w1": random(2, 2)}})))
    assert "1 x LoKr" in text
