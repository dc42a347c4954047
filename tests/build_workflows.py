"""Makes workflows/*.json (what people open) from workflows/api/*.json (what programs queue), in a real browser.

    python tests/build_workflows.py [--thumbnails] [NAME ...]
    python tests/build_workflows.py --screenshot     # README's docs/workflow.jpg: a page after its run

--thumbnails also runs each workflow on the demo model, with its own settings, and keeps its picture as NAME.jpg; where
there is no twin for the demo model, NAME.jpg shows the graph.
Run it after a change of a node's inputs or of an API workflow; tests/test_workflows.py fails until then.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import browser
import numpy as np
import workflow_notes
from PIL import Image
from server import ROOT, Server, base_directory, find_host

WORKFLOWS = ROOT / "workflows"
MODELS = {
    "sd_xl_base_1.0.safetensors": {
        "name": "sd_xl_base_1.0.safetensors",
        "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        "directory": "checkpoints",
    },
    "vgg19.safetensors": {
        "name": "vgg19.safetensors",
        "url": "https://huggingface.co/timm/vgg19.tv_in1k/resolve/main/model.safetensors",
        "directory": "soulstyler",
    },
    **workflow_notes.MODELS,
}
_TEXTS = "config.json, model.safetensors, and the tokenizer's files (tokenizer_config.json, vocab, merges)"
FOLDERS = {  # what lies in models/soulstyler: the widget's value -> (its files, where they are from)
    "clipseg-rd64-refined": (_TEXTS, "CIDAS/clipseg-rd64-refined"),
    "clip-vit-base-patch32": (_TEXTS, "openai/clip-vit-base-patch32"),
    "grounding-dino-tiny": (_TEXTS, "IDEA-Research/grounding-dino-tiny"),
    "sam2.1-hiera-tiny": ("config.json, model.safetensors", "facebook/sam2.1-hiera-tiny"),
    "vgg19.safetensors": ("model.safetensors, renamed", "timm/vgg19.tv_in1k"),
}
_NOTE = """## What belongs into models/soulstyler

Nothing is downloaded for you. What is missing is named when you press Run.

| name there | files | from |
|---|---|---|
{rows}

Where a source holds only pytorch_model.bin, transformers writes model.safetensors and the rest, for example:

    python -c "import transformers as t; n='openai/clip-vit-base-patch32'; f='clip-vit-base-patch32';
    t.CLIPModel.from_pretrained(n).save_pretrained(f); t.AutoTokenizer.from_pretrained(n).save_pretrained(f)"
"""


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--thumbnails", action="store_true")
    options.add_argument("--screenshot", action="store_true")
    options.add_argument("names", nargs="*")
    chosen = options.parse_args()
    files = [
        p for p in sorted((WORKFLOWS / "api").glob("*.json")) if not chosen.names or p.stem in chosen.names
    ]
    with tempfile.TemporaryDirectory() as folder:
        comfy = Server(find_host(), base_directory(Path(folder) / "base")).wait()
        try:
            if chosen.screenshot:
                screenshot(
                    comfy, WORKFLOWS / "demo_structure_plus_style.json", ROOT / "docs" / "workflow.jpg"
                )
            else:
                build(comfy, files, chosen.thumbnails)
        finally:
            comfy.stop()


def build(comfy: Server, files: list[Path], thumbnails: bool) -> None:
    with browser.page_on(f"http://127.0.0.1:{comfy.port}") as page:
        for file in files:
            workflow = json.loads(file.read_text(encoding="utf-8"))
            browser.load_api(page, file.stem, workflow)
            graph = tidy(browser.serialize(page), workflow)
            text = json.dumps(graph, ensure_ascii=False, indent=1)
            (WORKFLOWS / file.name).write_text(text + "\n", encoding="utf-8")
            print(file.stem, len(graph["nodes"]), "nodes")
            if thumbnails and not can_draw(file):
                keep(browser.drawn_graph(page), file)
    for file in files if thumbnails else []:
        if can_draw(file):
            thumbnail(comfy, file)


def screenshot(comfy: Server, file: Path, path: Path) -> None:
    """The graph after a run with its own settings."""
    with browser.page_on(f"http://127.0.0.1:{comfy.port}", (3000, 1600)) as page:
        for name, value in (("Comfy.Minimap.Visible", False), (browser.COARSE_BELOW, 0.1)):
            page.evaluate("([n, v]) => window.app.extensionManager.setting.set(n, v)", [name, value])
        browser.load_graph(page, json.loads(file.read_text(encoding="utf-8")))
        empty = browser.queue(page)
        assert not empty, empty
        png = page.screenshot(clip=browser.fit_view(page))
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.thumbnail((2000, 2000), Image.Resampling.LANCZOS)
    picture.save(path, quality=88)


def tidy(graph: dict[str, Any], workflow: dict[str, Any]) -> dict[str, Any]:
    """Seeds stay as they are from run to run, and a missing model comes with where to get it."""
    for node in graph["nodes"]:
        values = node.get("widgets_values") or []
        node["widgets_values"] = ["fixed" if v in ("randomize", "increment") else v for v in values]
        own = node["type"].startswith(("ReChar", "Soulstyler"))
        node["properties"] |= {"cnr_id": "rechar", "ver": "0.1.0"} if own else {}
        models = [MODELS[v] for v in values if isinstance(v, str) and v in MODELS]
        node["properties"] |= {"models": models} if models else {}
    values = [v for node in workflow.values() for v in node["inputs"].values() if isinstance(v, str)]
    if named := [v for v in dict.fromkeys(values) if v in FOLDERS]:
        add_note(graph, "Models", folders_note(named))
    if text := workflow_notes.note_of(workflow):
        add_note(graph, "About", text)
    return graph


def folders_note(names: list[str]) -> str:
    """Which files these models are."""
    site = "https://huggingface.co"
    rows = "\n".join(
        f"| {name} | {files} | [{source}]({site}/{source}) |"
        for name, (files, source) in ((name, FOLDERS[name]) for name in names)
    )
    return _NOTE.format(rows=rows)


def add_note(graph: dict[str, Any], title: str, text: str) -> None:
    """A note left of everything; it is no node for the server."""
    left, top = (min(node["pos"][axis] for node in graph["nodes"]) for axis in (0, 1))
    graph["last_node_id"] += 1
    note = {
        "id": graph["last_node_id"],
        "type": "MarkdownNote",
        "title": title,
        "order": len(graph["nodes"]),
    }
    note |= {
        "pos": [left - 640, top],
        "size": [600, 420],
        "flags": {},
        "mode": 0,
        "inputs": [],
        "outputs": [],
    }
    note |= {
        "properties": {},
        "widgets_values": [text],
        "color": "#432",
        "bgcolor": "#653",
    }
    graph["nodes"].append(note)


def twin_of(file: Path) -> Path:
    """The workflow of the same name on the demo model, where there is one."""
    return file.with_name(f"demo_{file.name.removeprefix('demo_')}")


def can_draw(file: Path) -> bool:
    """Whether there is a twin on the demo model, with all the files that it asks for."""
    from rechar_core.demo import extras

    twin = twin_of(file)
    led = twin.is_file() and "ReCharDemoReferences" in twin.read_text(encoding="utf-8")
    return twin.is_file() and (not led or (extras.ADAPTERS.is_file() and extras.CONTROLNET.is_file()))


def thumbnail(comfy: Server, file: Path) -> None:
    """The picture that the workflow's demo twin draws. Without one, build() keeps a picture of the graph."""
    twin = json.loads(twin_of(file).read_text(encoding="utf-8"))
    made = comfy.run(twin)
    assert not made.error, made.error
    pictures = made.images[[k for k, n in twin.items() if n["class_type"] == "SaveImage"][-1]]
    keep(Image.fromarray(np.concatenate(list(pictures[:4]), axis=1)), file)


def keep(picture: Image.Image, file: Path) -> None:
    """As the workflow's thumbnail, no side over 1024 pixels."""
    picture.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    picture.save(WORKFLOWS / f"{file.stem}.jpg", quality=90)


if __name__ == "__main__":
    main()
