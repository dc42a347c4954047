"""Makes workflows/*.json (what people open) from workflows/api/*.json (what programs queue), in a real browser.

    python tests/build_workflows.py [--thumbnails] [NAME ...]

--thumbnails also runs each workflow on the demo model, with its own settings, and keeps its picture as NAME.jpg.
Run it after a change of a node's inputs or of an API workflow; tests/test_browser.py fails until then.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import browser
import numpy as np
from PIL import Image
from server import ROOT, Server, base_directory, find_host

WORKFLOWS = ROOT / "workflows"
MODELS = {
    "sd_xl_base_1.0.safetensors": {
        "name": "sd_xl_base_1.0.safetensors",
        "url": "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
        "directory": "checkpoints",
    }
}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--thumbnails", action="store_true")
    options.add_argument("names", nargs="*")
    chosen = options.parse_args()
    files = [
        p for p in sorted((WORKFLOWS / "api").glob("*.json")) if not chosen.names or p.stem in chosen.names
    ]
    with tempfile.TemporaryDirectory() as folder:
        comfy = Server(find_host(), base_directory(Path(folder) / "base")).wait()
        try:
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
    for file in files if thumbnails else []:
        thumbnail(comfy, file)


def tidy(graph: dict[str, Any], workflow: dict[str, Any]) -> dict[str, Any]:
    """Seeds stay as they are from run to run, and a missing model comes with where to get it."""
    for node in graph["nodes"]:
        values = node.get("widgets_values") or []
        node["widgets_values"] = ["fixed" if v in ("randomize", "increment") else v for v in values]
        own = node["type"].startswith(("ReChar", "Soulstyler"))
        node["properties"] |= {"cnr_id": "rechar", "ver": "0.1.0"} if own else {}
        models = [MODELS[v] for v in values if isinstance(v, str) and v in MODELS]
        node["properties"] |= {"models": models} if models else {}
    return graph


def thumbnail(comfy: Server, file: Path) -> None:
    """The workflow's own picture, 512 x 512; an SDXL workflow shows that of its demo twin."""
    twin = file.with_name(f"demo_{file.name.removeprefix('demo_')}")
    made = comfy.run(json.loads(twin.read_text(encoding="utf-8")))
    assert not made.error, made.error
    saves = [
        k for k, n in json.loads(twin.read_text(encoding="utf-8")).items() if n["class_type"] == "SaveImage"
    ]
    pictures = made.images[saves[-1]]
    tiles = np.concatenate(list(pictures[:4]), axis=1) if len(pictures) > 1 else pictures[0]
    picture = Image.fromarray(tiles)
    picture.thumbnail((1024, 1024), Image.Resampling.LANCZOS)
    picture.save(WORKFLOWS / f"{file.stem}.jpg", quality=90)


if __name__ == "__main__":
    main()
