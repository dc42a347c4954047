"""Every shipped workflow, through the API and in a real browser, on a real server.

With EVERY_WORKFLOW=1 in the environment each runs in each of the ways. Without it, those of the demo model run on the
CPU in test_accelerator_workflows.py. In the browser those of the demo model are opened, and every third is run.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import adapters
import browser
import numpy as np
import pytest
import shrink
import soulstyler_tiny
from server import PACK, ROOT, Server, api_client

pytestmark = pytest.mark.host

WORKFLOWS = ROOT / "workflows"
NAMES = sorted(p.stem for p in (WORKFLOWS / "api").glob("*.json"))
SHOTS = Path(__file__).parent / "artefacts"
EVERY = "EVERY_WORKFLOW" in os.environ


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def stocked(comfy: Server) -> Server:
    """A server with the files that the workflows name: two LoRAs of the demo model, a picture, small random models."""
    train = shrink.small_api(read(WORKFLOWS / "api" / "demo_structure_plus_style.json"))
    trained = [key for key, node in train.items() if node["class_type"] == "ReCharTrainBLoRA"]
    for name, part, wire in (
        ("my_glyph", "structure", [trained[0], 0]),
        ("my_style", "style", [trained[1], 1]),
    ):
        train[name] = {"class_type": "ReCharSaveBLoRA", "inputs": {"name": f"rechar/{name}", part: wire}}
    made = comfy.run(train)
    assert not made.error, made.error
    soulstyler_tiny.stock(comfy.base / "models" / "soulstyler")
    adapters.stock(comfy.base / "custom_nodes" / PACK, comfy.base / "models")
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 4), dtype=np.uint8)
    picture[..., 3] = 255
    picture[64:192, 64:192, 3] = 0  # as a mask that is painted in the page
    comfy.place("example.png", picture)
    return comfy


@pytest.mark.parametrize("name", [name for name in NAMES if EVERY or not name.startswith("demo_")])
def test_workflow_runs_through_the_api(stocked: Server, name: str):
    """A failure means that a program which queues the shipped file gets an error or an empty picture."""
    api = shrink.small_api(read(WORKFLOWS / "api" / f"{name}.json"))
    made = stocked.run(api)
    assert not made.error, made.error
    assert len(made.images) == sum(
        node["class_type"] in ("SaveImage", "PreviewImage") for node in api.values()
    )
    saved = [made.images[key] for key, node in api.items() if node["class_type"] == "SaveImage"]
    assert saved and all(p.std() > 1 for p in saved)  # a previewed mask may be full


def test_every_api_workflow_has_its_page_and_picture():
    for name in NAMES:
        assert (WORKFLOWS / f"{name}.json").is_file(), f"run tests/build_workflows.py {name}"
        assert (WORKFLOWS / f"{name}.jpg").stat().st_size > 2000
    assert {p.stem for p in WORKFLOWS.glob("*.json")} == set(NAMES)


def test_no_workflow_trains_again_by_itself():
    """A randomised seed would make every Queue train anew."""
    for name in NAMES:
        assert '"randomize"' not in (WORKFLOWS / f"{name}.json").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(stocked: Server) -> Any:
    with browser.page_on(f"http://127.0.0.1:{stocked.port}") as opened:
        yield opened


def pages(names: list[str]) -> list[Any]:
    """One of them runs behind the host's own frontend as well."""
    both, newest = "demo_structure_plus_style", pytest.mark.newest_frontend
    return [name if name == both else pytest.param(name, marks=newest) for name in names]


# The workflows for SDXL differ from the demo's in their loader alone.
RUN = [name for name in NAMES if name.startswith("demo_") or f"demo_{name}" not in NAMES]


@pytest.mark.parametrize("name", pages(NAMES if EVERY else RUN))
def test_workflow_opens_in_the_browser(page: Any, name: str):
    """Loads with no missing node, and means what its API twin says."""
    browser.load_graph(page, read(WORKFLOWS / f"{name}.json"))
    assert browser.complaints(page) == []
    queued = browser.to_api(page)
    for key, node in read(WORKFLOWS / "api" / f"{name}.json").items():
        assert queued[key]["class_type"] == node["class_type"]
        assert {k: queued[key]["inputs"].get(k) for k in node["inputs"]} == node["inputs"], node["class_type"]


@pytest.mark.parametrize("name", pages(RUN if EVERY else RUN[1:-1:3]))
def test_workflow_runs_in_the_browser(page: Any, name: str):
    """Runs when Run is pressed, and shows its pictures."""
    browser.load_graph(page, shrink.small_graph(read(WORKFLOWS / f"{name}.json")))
    assert browser.missing_nodes(page) == []
    page.evaluate(
        """byKind => window.app.graph._nodes.forEach(n => (n.widgets || []).forEach(w => {
            const small = byKind[n.type] || byKind[''];
            if (w.name in small) w.value = small[w.name];
        }))""",
        {kind: shrink.values(kind) for kind in ("", *shrink.OWN)},
    )
    empty = browser.queue(page)
    browser.screenshot(page, SHOTS / f"{name}.png")
    assert not empty, f"no picture appeared in {empty}"


def test_templates_are_offered_and_open(stocked: Server):
    """The host serves one folder a pack: one named examples or example_workflows would hide workflows/."""
    offered = stocked.client_json("/workflow_templates")
    assert sorted(offered["rechar-pack"]) == sorted(NAMES)
    for name in NAMES:
        address = f"/api/workflow_templates/rechar-pack/{name}"
        assert json.loads(stocked.client.request(f"{address}.json")) == read(WORKFLOWS / f"{name}.json")
        assert stocked.client.request(f"{address}.jpg") == (WORKFLOWS / f"{name}.jpg").read_bytes()


SDXL_LEADS = ("pipeline_official", "pipeline_paper", "pipeline_tuned", "references_only", "word")


@pytest.mark.parametrize("name", SDXL_LEADS)
def test_every_model_file_of_a_workflow_has_a_link_and_a_folder(name: str):
    """In the loader's own properties, which the browser's missing-model dialog reads, and in the note."""
    graph = read(WORKFLOWS / f"{name}.json")
    notes = "".join(v for n in graph["nodes"] if n["type"] == "MarkdownNote" for v in n["widgets_values"])
    asked = 0
    for node in graph["nodes"]:
        files = [v for v in node.get("widgets_values") or [] if str(v).endswith(".safetensors")]
        files = [v for v in files if not v.startswith("rechar/")]  # the user's own B-LoRAs
        linked = {m["name"]: m for m in node["properties"].get("models", [])}
        assert sorted(linked) == sorted(files), node["type"]
        for file, model in linked.items():
            asked += 1
            assert model["url"].startswith("https://huggingface.co/") and model["directory"]
            assert node["type"] == "CheckpointLoaderSimple" or (file in notes and model["url"] in notes)
    assert asked >= 2


@pytest.mark.parametrize("name", SDXL_LEADS)
def test_a_workflow_without_its_files_says_which_one_is_missing(comfy: Server, name: str):
    """As shipped, on a host that has none of them: refused with a loader, its input and its file."""
    api = read(WORKFLOWS / "api" / f"{name}.json")
    with pytest.raises(api_client().ApiError) as refused:
        comfy.client.run(api, lambda event: None)
    loaders = ("CheckpointLoaderSimple", "CLIPVisionLoader", "ControlNetLoader", "ReCharLoad")
    asked = [v for n in api.values() if n["class_type"].startswith(loaders) for v in n["inputs"].values()]
    assert any(f"'{file}'" in str(refused.value) for file in asked), str(refused.value)
