"""The quality benchmark: its measures tell winners from controls, its statistics, and that it goes on where it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soulstyler_tiny
from PIL import Image
from two_processes import run_both

from benchmarks import ocr, quality
from benchmarks.added_measures import Decoration
from benchmarks.metrics import GLYPHS, MEASURES, GlyphMetrics, VggGram, Weights
from benchmarks.quality_report import clusters, interval, paired, summary
from benchmarks.variants import CHANGES, LoadedModels, changed_variants, main_variants
from rechar_core.demo import extras
from rechar_core.errors import FileError
from rechar_core.metrics.pictures import lab
from rechar_core.synthesis.modes import MODES, PipelineConfig

ROOT = Path(__file__).parents[1]
STYLE = np.full((32, 32, 3), (0.8, 0.2, 0.1))
ALWAYS = {"style_image", "mask"}


# Measures


@pytest.fixture(scope="module")
def glyph_metrics() -> GlyphMetrics:
    return GlyphMetrics("devanagari", 128)


@pytest.fixture(scope="module")
def controls(glyph_metrics: GlyphMetrics) -> dict[str, dict[str, float]]:
    return {name: glyph_metrics(picture, STYLE) for name, picture in glyph_metrics.controls().items()}


def test_there_are_all_the_controls(controls: dict[str, Any]):
    assert set(controls) == {"itself", "blank", "turned", "shifted", "wrong glyph"}


@pytest.mark.parametrize("measure", ["structure", "iou", "dice", "edge_f1", "ssim_masks", "top_1"])
def test_the_glyph_itself_wins_and_the_controls_lose(controls: dict[str, Any], measure: str):
    found = {name: row[measure] for name, row in controls.items()}
    assert found.pop("itself") > 0.99
    assert max(found.values()) < 0.9


def test_ssim_of_edges_alone_favours_the_blank(controls: dict[str, Any]):
    """Why the table never shows it alone: nothing at all beats another glyph."""
    assert controls["blank"]["ssim_edges"] > controls["turned"]["ssim_edges"]
    assert controls["blank"]["structure"] == 0 and controls["blank"]["top_1"] == 0


def test_skeleton_recall_alone_favours_a_glyph_that_holds_the_wanted_one(controls: dict[str, Any]):
    """The nearest other glyph here is the same with a dot below; IoU, edges and rank see the dot."""
    assert controls["wrong glyph"]["skeleton_recall"] > 0.95
    assert controls["wrong glyph"]["top_1"] == 0 and controls["wrong glyph"]["structure"] < 0.7


def test_a_perfect_glyph_in_the_right_colours_is_the_best_of_all(glyph_metrics: GlyphMetrics):
    """Both measures at once: the glyph in black on white has the structure and not the colours."""
    flat = np.where(glyph_metrics.target.mask[..., None], (0.8, 0.2, 0.1), (0.5, 0.1, 0.05))
    right, wrong = (glyph_metrics(p, STYLE) for p in (flat, glyph_metrics.controls()["itself"]))
    assert right["structure"] > 0.95 and right["both"] > wrong["both"] + 0.1
    assert right["colour_distance"] < 30 < wrong["colour_distance"]


def test_rivals_are_of_the_same_script_and_not_the_glyph(glyph_metrics: GlyphMetrics):
    assert len(glyph_metrics.rivals) == 20 and "क" not in glyph_metrics.rivals
    assert all("\u0900" <= c <= "\u097f" for c in glyph_metrics.rivals)


def test_there_are_more_scripts_and_styles_than_the_issue_asks_for():
    assert len(GLYPHS) >= 4 and len(quality.style_pictures(ROOT / "benchmarks" / "styles")) >= 5


def test_clip_weights_are_asked_for_by_folder_and_file(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FileError, match=r"lacks model.safetensors, tokenizer_config.json"):
        Weights(tmp_path, "a crane", STYLE)


def test_clip_measures_likeness_and_what_elements_add(tmp_path: Path):
    """With a small random CLIP: a picture is itself, and the undecorated glyph has no elements by definition."""
    soulstyler_tiny.clip_folder(tmp_path)
    other = np.random.default_rng(0).random((64, 64, 3))
    weights = Weights(tmp_path, "a crane", STYLE)
    same, moved = weights(STYLE, STYLE), weights(other, STYLE)
    assert same["clip_style"] == pytest.approx(1, abs=1e-5) and moved["clip_style"] < 0.999
    assert same["clip_elements"] == pytest.approx(0, abs=1e-6) and moved["clip_elements"] != 0


def test_the_gram_distance_is_of_texture_and_blind_to_place(tmp_path: Path):
    """With random weights of VGG19's full size: nothing between a picture and itself, little to itself moved."""
    gram = VggGram(soulstyler_tiny.vgg_file(tmp_path / "vgg19.safetensors"))
    stripes = np.zeros((64, 64, 3))
    stripes[:, (np.arange(64) % 8) < 4] = 1
    dots = np.random.default_rng(0).random((64, 64, 3))
    moved = gram(np.roll(stripes, 4, 1), stripes)["vgg_gram"]
    assert gram(stripes, stripes)["vgg_gram"] == 0
    assert moved < 0.5 * gram(dots, stripes)["vgg_gram"]


# Arms


def test_decoration_is_measured_on_the_background(glyph_metrics: GlyphMetrics):
    """A failure means that a bare glyph, or the glyph's own colours, would count as flowers."""
    measure = Decoration({"devanagari": glyph_metrics})
    bare = Image.fromarray((glyph_metrics.target.drawn * 255).astype("uint8"))
    flowers = bare.copy()
    flowers.paste((255, 0, 0), (0, 0, 20, 20))
    assert measure(bare, "devanagari") < 1e-6
    share = 400 / measure.backgrounds["devanagari"].sum()
    red = np.linalg.norm(lab(np.array([1.0, 0, 0])) - lab(np.ones(3)))
    assert measure(flowers, "devanagari") == pytest.approx(share * red)


def test_a_character_is_read_only_where_it_stands_by_itself():
    """A failure means that OCR would count क़ as क, or miss a letter beside which a speck is read."""
    assert ocr.holds("क", "क") and ocr.holds("اع", "ع") and ocr.holds("क़ क", "क")
    assert not ocr.holds("क़", "क") and not ocr.holds("", "क") and not ocr.holds("8", "&")


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="Tesseract is not installed")
def test_tesseract_reads_the_glyph_and_not_the_controls():
    reader, read = ocr.Reader(["latin"]), {}
    for name, pixels in GlyphMetrics("latin", 128).controls().items():
        read[name] = reader(Image.fromarray((pixels * 255).astype("uint8")), "latin")
    assert read == {"itself": 1, "shifted": 1, "blank": 0, "turned": 0, "wrong glyph": 0}


def test_without_tesseract_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any):
    """A failure means that hours of drawing would end with a complaint."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert quality.main([str(tmp_path / "out"), "--ocr"]) == 1
    assert "apt install tesseract-ocr" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_the_variants_are_those_of_the_issue():
    names = ["plain", "ControlNet only", "references only", "B-LoRA fusion", "official", "paper", "tuned"]
    made = main_variants(0, 0.0)
    assert [a.name for a in made] == names
    by_name = {a.name: a for a in made}
    assert all(by_name[m].mode == MODES[m] for m in ("official", "paper", "tuned"))
    assert all(a.mode.steps == 7 and a.mode.cfg == (2.0,) * 3 for a in main_variants(7, 2.0))


def test_an_arm_says_what_it_lacks():
    models = LoadedModels(None, ("adapters",), (), {})
    lacking = {a.name: a.lacks(models) for a in main_variants(0, 0.0)}
    assert {n for n, what in lacking.items() if what} == {"references only", "official", "paper", "tuned"}
    models = LoadedModels(None, (), ("net",), {})
    assert [a.name for a in main_variants(0, 0.0) if a.lacks(models) == ["net"]] == [
        "ControlNet only",
        "official",
        "paper",
        "tuned",
    ]


def test_each_variant_changes_one_default_of_tuned():
    tuned = main_variants(0, 0.0)[-1]
    made = changed_variants(tuned, alone=False)
    assert len(made) == 1 + len(CHANGES)
    fields = set(PipelineConfig.__dataclass_fields__) - {"name"}
    for variant in made[1:]:
        changed = {f for f in fields if getattr(variant.mode, f) != getattr(tuned.mode, f)}
        assert 1 <= len(changed) <= 2, (variant.name, changed)
    assert all(not a.references and not a.control for a in changed_variants(tuned, alone=True))


# Statistics


def cell(script: str, style: str, seed: int, variant: str, value: float) -> dict[str, Any]:
    where = {"script": script, "style": style, "seed": seed, "name": variant}
    return {"settings": where, "measures": {"iou": value}}


def grid(variant: str, value: Any) -> list[dict[str, Any]]:
    return [cell(a, b, s, variant, value(a, b, s)) for a in "xyz" for b in "mnop" for s in range(3)]


def test_a_bootstrap_interval_holds_the_mean_and_is_the_same_each_time():
    draw = np.random.default_rng(1)
    noise = {key: draw.normal() for key in ((a, b, s) for a in "xyz" for b in "mnop" for s in range(3))}
    cells = grid("one", lambda *key: 0.5 + 0.1 * noise[key])
    mean, low, high = summary(cells)["iou"]
    assert low < mean < high and 0.01 < high - low < 0.2
    assert summary(cells) == summary(list(reversed(cells)))


def test_seeds_of_one_pair_are_not_counted_as_independent():
    """Equal values within a pair: the interval is that of twelve numbers, not of thirty-six."""
    draw = np.random.default_rng(2)
    pair = {(a, b): draw.normal() for a in "xyz" for b in "mnop"}
    grouped = clusters({(a, b, s): v for (a, b), v in pair.items() for s in range(3)})
    single = clusters({(a, b, 0): v for (a, b), v in pair.items()})
    assert interval(grouped) == pytest.approx(interval(single))


def test_paired_differences_see_what_means_hide():
    """Pairs differ much, the variants by a little in each: the interval of the difference leaves out zero."""
    level = {b: i for i, b in enumerate("mnop")}
    cells = grid("one", lambda a, b, s: level[b]) + grid("two", lambda a, b, s: level[b] + 0.05)
    mean, low, high = paired(cells, "two", "one")["iou"]
    assert mean == pytest.approx(0.05) and low > 0.04 and high < 0.06
    both = [summary([c for c in cells if c["settings"]["name"] == n])["iou"] for n in ("one", "two")]
    assert both[0][2] > both[1][1]


# The whole run, very small


def run(out: Path, styles: Path, *options: str) -> list[str]:
    small = ["--styles", str(styles), "--scripts", "devanagari", "--seeds", "1", "--training-steps", "1"]
    return [str(out), *small, "--steps", "1", *options]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Without adapters and ControlNet, whether or not they ship."""
    folder = tmp_path_factory.mktemp("quality")
    (folder / "styles").mkdir()
    Image.fromarray((STYLE * 255).astype(np.uint8)).save(folder / "styles" / "red.png")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ADAPTERS", "CONTROLNET"):
            patch.setattr(extras, name, folder / f"{name.lower()}.safetensors")
        assert quality.main(run(folder / "out", folder / "styles")) == 0
        yield folder / "out", folder / "styles"


def test_a_run_leaves_cells_pictures_and_a_report(made: tuple[Path, Path]):
    out, _ = made
    assert sorted(p.name for p in (out / "cells").iterdir()) == [
        f"devanagari_red_0_{variant}.{kind}"
        for variant in ("B-LoRA_fusion", "plain")
        for kind in ("json", "png")
    ]
    table = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert set(table["variants"]) == {"plain", "B-LoRA fusion"}
    assert set(table["variants"]["plain"]) == set(MEASURES) - {
        *("leak", "ocr", "clip_style", "clip_elements", "vgg_gram")
    }
    assert table["controls"]["itself"]["iou"] == 1 and table["controls"]["blank"]["iou"] == 0
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page and "control: wrong glyph" in page
    assert Image.open(out / "report.png").width > 300


def test_variants_whose_files_are_missing_are_named_and_not_run(made: tuple[Path, Path]):
    table = json.loads((made[0] / "report.json").read_text(encoding="utf-8"))
    assert set(table["not_run"]) == {"ControlNet only", "references only", "official", "paper", "tuned"}
    assert "controlnet.safetensors" in table["not_run"]["ControlNet only"]
    assert "adapters.safetensors" in table["not_run"]["references only"]
    assert table["about"]["image_encoder"] == "demo"
    assert "not run" in (made[0] / "report.md").read_text(encoding="utf-8")


def test_what_is_done_is_not_done_again(made: tuple[Path, Path]):
    """The same command: not a file is touched but the report. Other settings: the cells are drawn anew."""
    out, styles = made
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p.parent != out}
    assert quality.main(run(out, styles)) == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    cells = [p for p in before if p.parent.name == "cells"]
    cells[0].unlink()
    assert quality.main(run(out, styles)) == 0
    now = {p: p.stat().st_mtime_ns for p in cells}
    assert sorted(p.stem for p in cells if now[p] != before[p]) == [cells[0].stem] * 2
    assert quality.main(run(out, styles, "--elements", "stars")) == 0
    assert all(p.stat().st_mtime_ns != now[p] for p in cells)


def test_another_picture_under_the_same_name_is_another_style(made: tuple[Path, Path], tmp_path: Path):
    """A failure means that a table mixes pictures of one style with those of another that replaced it."""
    shutil.copytree(made[0], out := tmp_path / "out")
    (tmp_path / "styles").mkdir()
    Image.new("RGB", (32, 32), "#2080c0").save(tmp_path / "styles" / "red.png")
    cells = {p: p.stat().st_mtime_ns for p in (out / "cells").iterdir()}
    loras = {p.name for p in (out / "loras").iterdir()}
    assert quality.main(run(out, tmp_path / "styles")) == 0
    assert all(p.stat().st_mtime_ns != before for p, before in cells.items())
    new = {p.name for p in (out / "loras").iterdir()} - loras
    assert [name.split("_")[0] for name in new] == ["style"]


def test_reports_tell_paths_from_the_repository():
    """A failure means that published tables name folders of whoever made them."""
    assert quality.shown(ROOT / "demo" / "x.safetensors") == "demo/x.safetensors"
    assert (quality.shown(Path("demo")), quality.shown(None)) == ("demo", "None")
    there = ROOT / "rechar_core" / "demo" / "adapters.safetensors"
    error = FileError(f"There is no file '{there}'; check its name and folder.")
    assert f"'{Path('rechar_core/demo/adapters.safetensors')}'" in quality.told_here(error)


def test_the_weights_are_read_once(monkeypatch: pytest.MonkeyPatch):
    """A failure means that 20 MB are hashed anew for every cell."""
    quality.demo_version.cache_clear()
    counted: list[Path] = []
    monkeypatch.setattr(quality, "content_of", lambda file: counted.append(file) or "0")
    assert [quality.demo_version() for _ in range(3)] == ["demo 0"] * 3 and len(counted) == 1
    quality.demo_version.cache_clear()


def test_two_processes_share_the_cells(made: tuple[Path, Path], tmp_path: Path):
    """As accelerate launches them; together they leave what one leaves."""
    given = run(tmp_path / "two", made[1], "--scripts", "devanagari", "latin", "--side", "128")
    run_both(tmp_path / "said.txt", "benchmarks.quality", *given)
    table = json.loads((tmp_path / "two" / "report.json").read_text(encoding="utf-8"))
    assert table["cells"]["plain"] == table["cells"]["B-LoRA fusion"] == 2
    assert len(list((tmp_path / "two" / "loras").glob("*.safetensors"))) == 3
