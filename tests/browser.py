"""A real browser on a real ComfyUI page, for the tests and for build_workflows.py."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
OPTIONS += ["--disable-background-networking", "--disable-component-update"]

PICTURED = ["SaveImage", "PreviewImage", "LoadImage", "KSampler"]  # nodes that show a picture
PICTURED += ["ReCharTrainBLoRA", "ReCharPipeline", "ReCharWord", "ReCharAlphaGrid"]

COARSE_BELOW = (
    "LiteGraph.Canvas.LowQualityRenderingZoomThreshold"  # setting: no text on nodes below this zoom
)


def find_browser() -> str:
    """The path of an installed Chromium; skips the test, saying why, if there is none."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(
            "no Chromium is installed: 'apt install chromium' (or Google Chrome) for the browser tests"
        )
    pytest.importorskip("playwright", reason="the package playwright is not installed")
    return found


@contextmanager
def page_on(address: str, size: tuple[int, int] = (1800, 1000)) -> Iterator[Any]:
    """A page with ComfyUI's graph editor at `address`, loaded and ready, without its first-run tour."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=find_browser(), args=OPTIONS)
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.goto(address)
        page.wait_for_function(
            "window.app && window.app.graph && window.app.extensionManager", timeout=120_000
        )
        page.wait_for_timeout(1000)
        try:
            yield page
        finally:
            browser.close()


def load_api(page: Any, name: str, workflow: dict[str, Any]) -> None:
    """Opens an API workflow as a graph, laid out from left to right, with room for the pictures to come."""
    page.evaluate(
        """async ([name, workflow, pictured]) => {
            await window.app.loadApiJson(workflow, name);
            for (const n of window.app.graph._nodes)
                if (pictured.includes(n.type)) n.setSize([Math.max(n.size[0], 300), n.size[1] + 280]);
            window.app.graph.arrange(60);
        }""",
        [name, workflow, PICTURED],
    )


def load_graph(page: Any, graph: dict[str, Any]) -> None:
    """Opens a UI workflow, as dropping its file on the page does."""
    page.evaluate("async graph => { await window.app.loadGraphData(graph); }", graph)
    page.wait_for_timeout(500)


def serialize(page: Any) -> dict[str, Any]:
    """The graph as a UI workflow. As text: what is undefined in the page would come over as null."""
    return json.loads(page.evaluate("() => JSON.stringify(window.app.graph.serialize())"))


def to_api(page: Any) -> dict[str, Any]:
    """What the page would queue for the graph."""
    return page.evaluate("async () => (await window.app.graphToPrompt()).output")


def complaints(page: Any) -> list[str]:
    """The messages that the page shows in its corner, such as "Invalid workflow"."""
    return page.locator(".p-toast-message").all_inner_texts()


def missing_nodes(page: Any) -> list[str]:
    """Types in the graph that the page does not know (it shows them as red boxes)."""
    return page.evaluate(
        "() => window.app.graph._nodes.map(n => n.type).filter(t => !(t in window.LiteGraph.registered_node_types))"
    )


def queue(page: Any, seconds: int = 600) -> list[str]:
    """Presses Queue and waits until the server is idle; the titles of the output nodes that then show no picture.

    The page fetches a node's picture when it draws the node, so all of them are brought into view.
    """
    page.evaluate("async () => { await window.app.queuePrompt(0, 1); }")
    idle = """async () => {
        const queue = await (await fetch('/queue')).json();
        return queue.queue_running.length + queue.queue_pending.length === 0;
    }"""
    for _ in range(seconds * 4):
        page.wait_for_timeout(250)
        if page.evaluate(idle):
            break
    fit_view(page)
    empty = """() => window.app.graph._nodes.filter(
        n => ['SaveImage', 'PreviewImage'].includes(n.type) && !(n.imgs || []).some(i => i.naturalWidth > 0)
    ).map(n => n.title)"""
    for _ in range(60):  # a busy machine takes its time
        if not (found := page.evaluate(empty)):
            break
        page.wait_for_timeout(500)
    return found


def fit_view(page: Any) -> dict[str, float]:
    """Brings the whole graph into view and waits until it is drawn so; its box on the page."""
    page.keyboard.press("Escape")
    box = page.evaluate(
        """() => {
            const boxes = [...window.app.graph._nodes, ...window.app.graph._groups].map(n => n.boundingRect
                || [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]);
            const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]));
            const width = Math.max(...boxes.map(b => b[0] + b[2])) - left;
            const height = Math.max(...boxes.map(b => b[1] + b[3])) - top;
            const canvas = window.app.canvas, view = canvas.canvas.getBoundingClientRect();
            const scale = Math.min(1, 0.85 * view.width / width, 0.8 * view.height / height);
            canvas.ds.scale = scale;
            canvas.ds.offset[0] = view.width / 2 / scale - left - width / 2;
            canvas.ds.offset[1] = view.height / 2 / scale - top - height / 2;
            canvas.setDirty(true, true);
            return {
                x: view.x + (view.width - width * scale) / 2 - 20, y: view.y + (view.height - height * scale) / 2 - 20,
                width: width * scale + 40, height: height * scale + 40,
            };
        }"""
    )
    page.wait_for_timeout(500)
    return box


def drawn_graph(page: Any) -> Image.Image:
    """The graph alone, without the page's menus."""
    fit_view(page)
    address = page.evaluate(
        """() => {
            window.app.canvas.show_info = false;
            window.app.canvas.draw(true, true);
            return window.app.canvas.canvas.toDataURL('image/png');
        }"""
    )
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")


def screenshot(page: Any, path: Path) -> Path:
    """The page with the whole graph in view, as a PNG file."""
    fit_view(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(path))
    return path
