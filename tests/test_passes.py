"""What each of the three passes is made of, in every mode, told by a painter that keeps what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import adapters
import loras
import pytest
import torch
from torch import Tensor

from rechar_core.errors import RecipeError
from rechar_core.glyph.structure_map import structure_map
from rechar_core.synthesis.elements import kept_text, prompt
from rechar_core.synthesis.modes import MODES, mode_named
from rechar_core.synthesis.passes import Passes, RenderJob
from rechar_core.synthesis.references.attention import Reference
from rechar_core.synthesis.references.errors import AdapterError
from rechar_core.synthesis.references.projection import ip_adapter_of

SIZE = (64, 48)


@dataclass
class Notebook:
    """A painter that writes down each drawing and gives a picture of its number."""

    ip_adapters: dict[str, Any] = field(default_factory=dict)
    control_net: Any = None
    drawings: list[RenderJob] = field(default_factory=list)
    seen: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)

    def adapter(self, role: str) -> Any:
        return self.ip_adapters.get(role)

    def check(self) -> None:
        for role, adapter in self.ip_adapters.items():
            if adapter.name == "misfit":
                raise AdapterError(f"The {role} adapter does not fit.")

    def encode_reference(self, picture: Tensor, role: str, keep: Tensor | None) -> Reference:
        self.seen[role] = (picture, keep)
        return Reference(self.ip_adapters[role], role, torch.zeros(1, 8), torch.zeros(1, 8))

    def render(self, job: RenderJob) -> Tensor:
        self.drawings.append(job)
        return torch.full((1, *job.size, 3), len(self.drawings) / 10)


def glyph() -> dict[str, Tensor]:
    mask = torch.zeros(1, *SIZE)
    mask[:, 16:48, 12:36] = 1
    return {"glyph": (1 - mask)[..., None].expand(-1, -1, -1, 3), "mask": mask}


def both_adapters() -> dict[str, Any]:
    return {
        "structure": ip_adapter_of(adapters.plus([8], 8), "x"),
        "style": ip_adapter_of(adapters.plain([8], 8), "y"),
    }


def passes(mode: str, renderer: Notebook, **changes: Any) -> Passes:
    given = {
        "structure": loras.blora(trigger="A c1"),
        "style": loras.blora(trigger="A s1"),
        "elements": "a crane, pines",
        **glyph(),
    }
    return Passes(renderer, mode=mode_named(mode), seed=7, **(given | changes))


def test_official_is_the_published_order_of_passes():
    """Which LoRA, prompt, seed, guidance, hint, adapters and masks each pass of inference.py has."""
    renderer = Notebook(both_adapters(), control_net="canny")
    run = passes("official", renderer)
    result, structure, style = run.run()
    first, second, third = renderer.drawings
    assert [d.seed for d in renderer.drawings] == [7, 8, 9]
    assert [d.cfg for d in renderer.drawings] == [5.0, 5.0, 17.5]
    assert [d.control for d in renderer.drawings] == [0.5] * 3
    assert all(torch.equal(d.hint, structure_map("canny-cv2", run.glyph)) for d in renderer.drawings)
    assert [prompt(d.positive) for d in renderer.drawings] == [
        "A c1 content",
        "A s1 style",
        "A c1 in s1 style with a crane , pines",
    ]
    assert all(w.kept for d in renderer.drawings for w in d.positive)
    blocks = [{path.split(".")[3] for path in d.fusion.pairs} for d in renderer.drawings]
    assert blocks == [
        {"0"},
        {"1"},
        {"1"},
    ]  # attentions.0 is structure, .1 is style; the last keeps the style LoRA
    assert first.references == second.references == ()
    assert [r.role for r in third.references] == ["structure", "style"]
    assert third.scales == {"structure": 1.5, "style": 0.8}
    assert (third.layout.operator, third.layout.mask_mode) == ("off", "official")
    edges = structure_map("canny-cv2", structure)[0, ..., 0]
    assert torch.equal(third.layout.masks["structure"], edges) and "style" not in third.layout.masks
    assert renderer.seen["structure"][0] is structure and renderer.seen["structure"][1] is None
    assert renderer.seen["style"][0] is style
    assert [float(p.max()) for p in (structure, style, result)] == pytest.approx([0.1, 0.2, 0.3])


def test_paper_adds_the_layout_map_and_both_drops():
    renderer = Notebook(both_adapters())
    run = passes("paper", renderer)
    run.run()
    third = renderer.drawings[2]
    assert third.layout.operator == "gated_softmax" and torch.equal(
        third.layout.masks["structure"], run.mask[0]
    )
    assert renderer.seen["structure"][1] is run.mask
    assert kept_text(third.positive) == "c1 s1 crane pines" and prompt(third.positive).startswith("A c1 in")
    assert third.hint is None  # no ControlNet is there


def test_tuned_keeps_the_style_picture_free_of_the_glyph():
    renderer = Notebook(both_adapters(), control_net="canny")
    passes("tuned", renderer).run()
    first, second, third = renderer.drawings
    assert second.hint is None and first.hint is not None and third.hint is not None
    assert {path.split(".")[3] for path in third.fusion.pairs} == {"0", "1"}
    assert "text" not in prompt(third.negative)


def test_references_only_draws_once():
    renderer, image = Notebook(both_adapters()), torch.rand(1, 64, 64, 3)
    run = passes("references-only", renderer, style_image=image)
    _, structure, style = run.run()
    assert structure is run.glyph and torch.equal(style, image)
    assert len(renderer.drawings) == 1
    assert {path.split(".")[3] for path in renderer.drawings[0].fusion.pairs} == {"0", "1"}


def test_a_plain_adapter_for_structure_drops_no_tokens():
    ip_adapters = dict.fromkeys(("structure", "style"), both_adapters()["style"])
    renderer = Notebook(ip_adapters)
    passes("tuned", renderer).run()
    assert renderer.seen["structure"][1] is None


@pytest.mark.parametrize(("elements", "kept"), [("a crane", "c1 s1 crane"), ("", None)])
def test_words_are_dropped_only_where_there_are_elements(elements: str, kept: str | None):
    renderer = Notebook(both_adapters())
    passes("paper", renderer, elements=elements).run()
    words = renderer.drawings[2].positive
    assert kept_text(words) == (kept or prompt(words))


def test_templates_are_the_users():
    renderer = Notebook()
    passes("tuned", renderer, template="[c], gold leaf", style_template="A landscape in v101 style").run()
    assert [prompt(d.positive) for d in renderer.drawings[1:]] == [
        "A landscape in v101 style",
        "c1 , gold leaf with a crane , pines",
    ]


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("tuned", {"style": None}, "There is no style"),
        ("references-only", {"style_image": torch.zeros(1, 8, 8, 3)}, "needs adapters"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_drawn(mode: str, changes: dict[str, Any], message: str):
    renderer = Notebook()
    with pytest.raises(RecipeError, match=message):
        passes(mode, renderer, **changes).run()
    assert renderer.drawings == []


PICTURE = torch.zeros(1, 8, 8, 3)
NO_LORAS = {"structure": None, "style": None, "style_image": PICTURE}


@pytest.mark.parametrize(
    ("mode", "ip_adapters", "control", "changes", "message"),
    [
        ("tuned", (), None, NO_LORAS, "Nothing carries the glyph"),
        ("tuned", ("style",), None, NO_LORAS, "Nothing carries the glyph"),
        (
            "official",
            ("style",),
            None,
            {},
            "Nothing carries the glyph",
        ),  # its structure B-LoRA leaves before the end
        ("tuned", ("structure",), None, NO_LORAS, "Nothing carries the style"),
        ("tuned", (), "canny", NO_LORAS, "Nothing carries the style"),
        ("references-only", ("structure",), "canny", NO_LORAS, "Nothing carries the style"),
        ("references-only", ("style",), None, NO_LORAS, "Nothing carries the glyph"),
        ("tuned", ("style",), "canny", NO_LORAS, None),
        ("official", (), "canny", {}, None),
        ("tuned", (), None, {}, None),
        ("references-only", ("structure", "style"), None, NO_LORAS, None),
    ],
)
def test_glyph_and_style_must_be_carried_by_something(
    mode: str, ip_adapters: tuple[str, ...], control: Any, changes: dict[str, Any], message: str | None
):
    """A failure means a drawing without the glyph or without the style, and not a word about it."""
    renderer = Notebook({role: both_adapters()[role] for role in ip_adapters}, control)
    run = passes(mode, renderer, **changes)
    if message is None:
        assert run.run() and renderer.drawings
        return
    with pytest.raises(RecipeError, match=message):
        run.run()
    assert renderer.drawings == []


def test_tuned_halves_style_references_beside_a_style_lora_alone():
    """A failure means overdone colours with a style LoRA, or a faint style without one."""
    for given, scale in (({}, 0.4), (NO_LORAS, 0.8)):
        renderer = Notebook(both_adapters(), "canny")
        passes("tuned", renderer, **given).run()
        assert renderer.drawings[-1].scales["style"] == pytest.approx(scale)


def test_a_scale_or_strength_of_zero_carries_nothing():
    renderer = Notebook(both_adapters(), "canny")
    quiet = replace(mode_named("tuned"), control=(0.7, 0.0, 0.0), structure_scale=0.0)
    with pytest.raises(RecipeError, match="Nothing carries the glyph"):
        replace(passes("tuned", renderer, **NO_LORAS), mode=quiet).check()
    quiet = replace(mode_named("tuned"), style_scale=0.0)
    with pytest.raises(RecipeError, match="Nothing carries the style"):
        replace(passes("tuned", renderer, **NO_LORAS), mode=quiet).check()


def test_a_b_lora_that_is_still_to_be_trained_counts():
    run = passes("tuned", Notebook(), structure=None)
    run.check(learns=True)
    with pytest.raises(RecipeError, match="Nothing carries the glyph"):
        run.check()


def test_bad_input_is_found_before_the_first_pass():
    """An empty mask, an adapter of another model, a setting of the layout. A failure means: after two passes."""
    renderer = Notebook(both_adapters())
    with pytest.raises(RecipeError, match="mask is empty"):
        passes("tuned", renderer, mask=torch.zeros(1, *SIZE)).run()
    with pytest.raises(AdapterError, match="temperature is 0"):
        replace(passes("tuned", renderer), mode=replace(mode_named("tuned"), temperature=0.0)).run()
    renderer.ip_adapters["style"] = ip_adapter_of(adapters.plain([8], 8), "misfit")
    with pytest.raises(AdapterError, match="style adapter does not fit"):
        passes("tuned", renderer).run()
    assert renderer.drawings == []


def test_edges_are_found_once_and_only_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    counted: list[str] = []
    monkeypatch.setattr(
        "rechar_core.synthesis.passes.structure_map",
        lambda kind, image: counted.append(kind) or structure_map(kind, image),
    )
    passes("tuned", Notebook(both_adapters())).run()
    assert counted == []
    passes("official", Notebook(both_adapters(), "canny")).run()
    assert len(counted) == 2  # of the glyph, for all three passes, and of the structure picture


def test_every_mode_says_in_the_table_what_it_is():
    assert [name for name, mode in MODES.items() if mode.structure_stays] == ["tuned", "references-only"]
