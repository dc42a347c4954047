"""The pack in a real ComfyUI server, spoken to through docs/examples/api_client.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shrink
from server import PACK, ROOT, Server, api_client, host_environment

pytestmark = pytest.mark.host

IMPORT_SECONDS = 0.3

# Run by the host's Python in the host's folder: everything that the host loads for any custom node, by way of an empty
# one (from 0.8 on, a third of a second for its reader of pyproject.toml), then the pack.
IMPORT = """
import asyncio, gc, sys, time
sys.path.insert(0, ".")
empty, pack, sys.argv = *sys.argv[1:3], ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes, comfy_api.latest
asyncio.run(nodes.load_custom_node(empty))
gc.freeze()  # a collection of what the host holds takes 0.4 s, and whoever allocates next pays for it
before, start = set(sys.modules), time.process_time()
loaded = asyncio.run(nodes.load_custom_node(pack))
seconds = time.process_time() - start
assert loaded, "the pack did not load"
print("SECONDS", seconds, sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def demo_workflow(prompt: str = "A [c]", seed: int = 1, steps: int = 4) -> dict[str, Any]:
    """Text to a 256 x 256 picture on the demo model."""

    def node(kind: str, title: str = "", **inputs: Any) -> dict[str, Any]:
        return {"class_type": kind, "inputs": inputs, "_meta": {"title": title or kind}}

    sampler = {"seed": seed, "steps": steps, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
    wires = {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0], "latent_image": ["4", 0]}
    return {
        "1": node("ReCharDemoModel"),
        "2": node("CLIPTextEncode", "Prompt", clip=["1", 1], text=prompt),
        "3": node("CLIPTextEncode", "Nothing", clip=["1", 1], text=""),
        "4": node("EmptyLatentImage", width=256, height=256, batch_size=1),
        "5": node("KSampler", "Draw", denoise=1.0, **sampler, **wires),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", "Save", images=["6", 0], filename_prefix="demo"),
    }


def test_the_pack_is_loaded_from_a_folder_with_a_hyphen(comfy: Server):
    assert "IMPORT FAILED" not in comfy.log()
    assert comfy.import_seconds() <= 1.0  # in tenths, of a machine that is busy starting


def test_importing_the_pack_adds_little_to_the_start(comfy: Server, tmp_path: Path):
    """CPU seconds of the host's own loader, after the host's modules, with bytecode there from the server's start.

    The least of up to three: what else runs on the machine can only add to it.
    """
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}", encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", empty)
    folders = [str(empty), str(comfy.base / "custom_nodes" / PACK)]
    command = [str(comfy.host.python), "-s", "-c", IMPORT, *folders]
    options: dict[str, Any] = {"cwd": comfy.host.folder, "env": host_environment()}
    lines = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stderr[-2000:]
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("SECONDS"))
        lines.append(line)
        if float(line.split()[1]) < IMPORT_SECONDS:
            return
    raise AssertionError(lines)


def our_nodes(comfy: Server) -> dict[str, dict[str, Any]]:
    return {name: about for name, about in comfy.object_info().items() if PACK in about["python_module"]}


def test_the_demo_model_is_a_node(comfy: Server):
    about = our_nodes(comfy)["ReCharDemoModel"]
    assert about["output"] == ["MODEL", "CLIP", "VAE"]
    assert about["category"] == "ReChar/Models"


def test_every_node_explains_itself(comfy: Server):
    """A description, a place in our menu, a tooltip on every input and output."""
    mute = []
    for name, about in our_nodes(comfy).items():
        assert name.startswith(("ReChar", "Soulstyler"))
        assert about["category"].startswith("ReChar/"), name
        mute += [] if about["description"] and about["display_name"] != name else [name]
        for kind in ("required", "optional"):
            for key, (_, *options) in about["input"].get(kind, {}).items():
                mute += [] if options and options[0].get("tooltip") else [f"{name}.{key}"]
        tooltips = about.get("output_tooltips") or []
        mute += [f"{name} -> {key}" for key, tip in zip(about["output_name"], tooltips) if not tip]
        mute += [] if len(tooltips) == len(about["output"]) else [f"{name}'s outputs"]
    assert not mute


def test_a_workflow_draws_a_picture(comfy: Server):
    made = comfy.run(demo_workflow())
    assert not made.error
    assert made.images["7"].shape == (1, 256, 256, 3)
    assert made.images["7"].std() > 2


def test_the_installation_is_left_alone(comfy: Server):
    """Results lie below the temporary base directory, not in the host's own folders."""
    name = f"left_alone_{comfy.port}"
    workflow = demo_workflow()
    workflow["7"]["inputs"]["filename_prefix"] = name
    assert not comfy.run(workflow).error
    assert list((comfy.base / "output").glob(f"{name}*"))
    assert not list(comfy.host.folder.rglob(f"{name}*"))


def test_progress_and_previews_arrive_on_the_way(comfy: Server):
    made = comfy.run(demo_workflow(seed=2))
    steps = [event.data["value"] for event in made.events if event.kind == "progress"]
    assert steps[-1] == 4
    assert {"5", "6", "7"} <= made.executed()
    assert len(made.previews()) == 4
    assert all(np.asarray(picture).std() > 1 for picture in made.previews())


def test_the_same_workflow_again_comes_from_the_cache(comfy: Server):
    workflow = demo_workflow(seed=3)
    first, second = comfy.run(workflow), comfy.run(workflow)
    assert "5" in first.executed() and "5" not in second.executed()
    assert np.array_equal(first.images["7"], second.images["7"])


def test_a_run_can_be_stopped(comfy: Server):
    def stop(event: Any) -> None:
        if event.kind == "progress" and event.data["value"] == 2:
            comfy.client.stop()

    made = comfy.run(demo_workflow(seed=6, steps=1000), stop)
    assert made.error == 'Node 5 "Draw": stopped by a user'
    assert not comfy.run(demo_workflow(seed=6)).error


def test_two_demo_models_in_one_workflow_draw_alike(comfy: Server):
    """They share weights; each is whole."""
    one, other = demo_workflow(seed=4), demo_workflow(seed=4)
    other["8"] = deepcopy(other["1"])
    other["5"]["inputs"]["model"] = ["8", 0]
    assert np.array_equal(comfy.run(one).images["7"], comfy.run(other).images["7"])


def test_uploaded_pictures_reach_the_workflow(comfy: Server):
    """Two different ones under one name, which is no ASCII: the server numbers the second."""
    for seed in (0, 1):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)
        load = {"class_type": "LoadImage", "inputs": {"image": comfy.upload("Ä 永.png", pixels)}}
        show = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
        assert np.array_equal(comfy.run({"1": load, "2": show}).images["2"][0], pixels)


def wrong(node: str, **inputs: Any) -> dict[str, Any]:
    workflow = demo_workflow(seed=5)
    workflow[node]["inputs"] |= inputs
    return workflow


@pytest.mark.parametrize(
    ("workflow", "words"),
    [
        (wrong("5", sampler_name="oiler"), ['Node 5 "Draw", input sampler_name', "oiler"]),
        (wrong("5", model=["9", 0]), ["9"]),
        (wrong("7", filename_prefix="../../outside"), ['Node 7 "Save"', "outside the output folder"]),
        ({"1": {"class_type": "NoSuchNode", "inputs": {}}}, ["NoSuchNode"]),
        ({}, ["no"]),
    ],
    ids=["value", "wire", "running", "class", "empty"],
)
def test_an_error_names_node_input_and_reason(comfy: Server, workflow: Any, words: list[str]):
    error = comfy.run(workflow).error
    assert error and "\n" not in error
    assert [word for word in words if word not in error] == []


TWINS = {  # our input -> an input of the host's KSampler that means the same
    "seed": "seed",
    "steps": "steps",
    "cfg": "cfg",
    "guidance": "cfg",
    "denoise": "denoise",
}


def test_numbers_take_what_the_hosts_own_take(comfy: Server):
    """A failure means that a client which fills in the seed of any KSampler is refused."""
    info = comfy.object_info()
    sampler = info["KSampler"]["input"]["required"]
    ours = {name: node for name, node in info.items() if name.startswith(("ReChar", "Soulstyler"))}
    compared = []
    for name, node in ours.items():
        for key, (kind, *more) in (
            node["input"].get("required", {}) | node["input"].get("optional", {})
        ).items():
            if kind in ("INT", "FLOAT") and key in TWINS:
                theirs = sampler[TWINS[key]][1]
                assert more[0]["min"] <= theirs["min"] and more[0]["max"] >= theirs["max"], (name, key)
                compared.append((name, key))
    assert len(compared) >= 12


def test_the_largest_seed_trains_and_draws(comfy: Server):
    """The seeds after it begin again at 0."""
    for name in ("demo_train_from_glyph", "demo_pipeline_tuned"):
        file = ROOT / "workflows" / "api" / f"{name}.json"
        workflow = shrink.smallest(json.loads(file.read_text(encoding="utf-8")))
        for about in workflow.values():
            about["inputs"] |= {"seed": 2**64 - 1} if "seed" in about["inputs"] else {}
        made = comfy.run(workflow)
        assert not made.error and made.images


def test_a_workflow_is_not_run_without_the_nodes_that_are_wrong(comfy: Server):
    """The server would draw the sound picture and leave out the other."""
    workflow = demo_workflow(seed=5)
    for number, about in wrong("5", sampler_name="oiler").items():
        wires = {k: [f"8{v[0]}", v[1]] for k, v in about["inputs"].items() if isinstance(v, list)}
        workflow[f"8{number}"] = {**about, "inputs": about["inputs"] | wires}
    made = comfy.run(workflow)
    assert 'Node 85 "Draw", input sampler_name' in made.error and not made.executed()


def test_the_command_line_saves_the_picture(comfy: Server, tmp_path: Path, capsys: Any):
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(demo_workflow(steps=30)), encoding="utf-8")
    sets = ["--set", "Draw.steps=3", "--set", "2.text=A [c]", "--set", "7.filename_prefix=by_hand"]
    server = ["--server", f"127.0.0.1:{comfy.port}"]
    code = api_client().main([str(file), *server, *sets, "--output", str(tmp_path / "new")])
    shown = capsys.readouterr()
    assert (code, shown.err) == (0, "")
    assert 'Node 5 "Draw"  3/3' in shown.out
    assert [path.name[:7] for path in (tmp_path / "new").iterdir()] == ["by_hand"]


def test_the_command_line_reports_an_error(comfy: Server, tmp_path: Path, capsys: Any):
    file = tmp_path / "workflow.json"
    file.write_text(json.dumps(wrong("5", scheduler="none")), encoding="utf-8")
    code = api_client().main([str(file), "--server", f"127.0.0.1:{comfy.port}", "--output", str(tmp_path)])
    assert code == 1
    assert 'error: Node 5 "Draw", input scheduler: Value not in list' in capsys.readouterr().err


def test_the_client_needs_nothing_but_python():
    source = ROOT / "docs" / "examples" / "api_client.py"
    command = ["-S", "-I", str(source), "--help"]
    done = subprocess.run([api_client().sys.executable, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "NODE.input" in done.stdout
