"""What ComfyUI changed after the newest version that the tests can run (newer_host.py imitates it), and what it may."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
import test_server_references as refs
from graphs import demo, draw, fuse, node, show, train
from safetensors.torch import load_file, save_file
from server import PACK, ROOT, Run, Server, base_directory, find_host, host_environment

from rechar_core.glyph.library import SHIPPED
from rechar_core.lora import files

IMITATION = Path(__file__).with_name("newer_host.py")
CHOICE = "diffusion_model.output_blocks.0.1.transformer_blocks.0.attn2.comfy_attention.config"

# Run by the host's Python in the host's folder: the pack loaded once for each module, as if the host had it not.
WITHOUT = """
import asyncio, json, logging, sys
sys.path.insert(0, ".")
pack, modules, sys.argv = sys.argv[1], sys.argv[2].split(), ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import importlib, nodes

lines = []
class Kept(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
logging.getLogger().addHandler(Kept())

def load():
    for name in [name for name in sys.modules if name.startswith(pack)]:
        del sys.modules[name]
    before = set(nodes.NODE_CLASS_MAPPINGS)
    loaded = asyncio.run(nodes.load_custom_node(pack))
    found = [name for name in nodes.NODE_CLASS_MAPPINGS if name not in before]
    for name in found:
        del nodes.NODE_CLASS_MAPPINGS[name]
    return loaded, sorted(found)

found = {"": [*load(), []]}
for module in modules:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError:  # an older host really has it not: that was the first load
        continue
    parent, _, name = module.rpartition(".")
    kept = sys.modules[module]
    sys.modules[module] = None
    had = parent and sys.modules[parent].__dict__.pop(name, None)
    lines.clear()
    found[module] = [*load(), [line for line in lines if line.startswith("ReChar")]]
    sys.modules[module] = kept
    if had is not None:
        setattr(sys.modules[parent], name, had)
print("FOUND" + json.dumps(found))
"""


def host_modules() -> list[str]:
    """Every module of the host's package comfy that the pack imports anywhere."""
    found = set()
    for file in (ROOT / "nodes").rglob("*.py"):
        for item in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in item.names] if isinstance(item, ast.Import) else []
            if isinstance(item, ast.ImportFrom) and not item.level:
                inner = [f"{item.module}.{alias.name}" for alias in item.names]
                names = inner if item.module == "comfy" else [item.module or ""]
            found |= {name for name in names if name.startswith("comfy.")}
    return sorted(found)


@pytest.mark.host
def test_the_pack_loads_without_any_one_module_of_the_host(tmp_path: Path):
    """A failure means that one module that ComfyUI renames takes all nodes down, or some without a word."""
    host, pack = find_host(), base_directory(tmp_path / "base") / "custom_nodes" / PACK
    assert len(host_modules()) > 10
    command = [str(host.python), "-s", "-c", WITHOUT, str(pack), " ".join(host_modules())]
    options: dict[str, Any] = {"cwd": host.folder, "env": host_environment()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.rpartition("FOUND")[2])
    _, every, _ = found.pop("")
    assert len(every) == 30 and len(found) > 10
    for module, (loaded, names, lines) in found.items():
        assert loaded and len(names) > 20, module
        assert (names == every) == (lines == []), (module, lines)
        assert all(f"this ComfyUI has no {module}" in line for line in lines)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the imitation in it, and fonts of all kinds, in a folder of the user's too."""
    base = base_directory(tmp_path_factory.mktemp("newer"))
    shutil.copy(IMITATION, base / "custom_nodes" / "a_newer_host.py")
    for name in ("one.ttf", "many.ttc", "mine/many.otc"):
        path = base / "models" / "fonts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(SHIPPED["ReChar CJK"], path)
    with Server(find_host(), base) as running:
        yield running


def done(made: Run) -> Run:
    assert not made.error, made.error
    return made


@pytest.mark.host
def test_collections_are_fonts_whatever_the_hosts_category_holds(host: Server):
    """A failure means that .ttc files, most CJK fonts, cannot be chosen any more."""
    offered = host.object_info()["ReCharGlyph"]["input"]["required"]["font"][1]["options"]
    own = [name for name in offered if not name.startswith(("system/", "ReChar"))]
    assert own == ["many.ttc", "mine/many.otc", "one.ttf"]
    glyph = graphs.glyph()
    glyph["inputs"]["font"] = "mine/many.otc"
    drawn = node("SaveImage", images=["glyph", 0], filename_prefix="glyph")
    other = node("SaveImage", images=["shipped", 0], filename_prefix="glyph")
    made = done(host.run({"glyph": glyph, "shipped": graphs.glyph(), "drawn": drawn, "other": other}))
    assert np.array_equal(made.images["drawn"], made.images["other"])


@pytest.mark.host
def test_a_models_own_choice_of_attention_is_passed_over(host: Server):
    """Trained and fused with it as without it. A failure means that the new module or its key is taken for a weight."""
    chosen = node("ChooseAttention", model=graphs.MODEL)
    nodes = {"train": train(), "loss": show(["train", 3]), "fuse": fuse(["train", 0], ["train", 1])}
    plain = done(host.run(demo(**nodes, **draw(["fuse", 0]))))
    shutil.rmtree(host.base / "user" / "rechar")  # or the result would come from there
    for name in ("train", "fuse"):
        nodes[name]["inputs"]["model"] = ["chosen", 0]
    again = done(host.run(demo(chosen=chosen, count=show(["chosen", 1]), **nodes, **draw(["fuse", 0]))))
    assert int(again.text("count")) > 20
    assert "train" in again.executed() and again.text("loss") == plain.text("loss")
    assert np.array_equal(again.images["save"], plain.images["save"])
    assert again.images["save"].std() > 1


@pytest.mark.host
def test_references_say_once_that_they_do_not_use_that_choice(host: Server):
    refs.write_adapters(host.base / "models" / "ipadapter")
    nodes = {
        "adapters": node("ReCharDemoReferences"),
        "chosen": node("ChooseAttention", model=graphs.MODEL),
        "style": refs.encoded("style"),
        "apply": refs.applied(),
        "more": refs.applied(style=0.5),
    }
    for name in ("apply", "more"):
        nodes[name]["inputs"]["model"] = ["chosen", 0]
    made = done(host.run(demo(**nodes, **draw(["apply", 0]), **draw(["more", 0], "second"))))
    assert not np.array_equal(made.images["save"], made.images["second"])
    lines = [line for line in host.log().splitlines() if "do not use that choice" in line]
    assert len(lines) == 1 and "chooses the attention of" in lines[0]


def test_the_key_of_a_choice_in_a_lora_file_is_reported_and_not_used(tmp_path: Path, reference: Path):
    """The newest ComfyUI takes such keys from LoRA files. A failure means that one makes our reader refuse the file."""
    import torch

    state = load_file(reference / "structure_lora.safetensors")
    state[CHOICE] = torch.tensor(list(b'{"attention": "comfy_kitchen_int8"}'), dtype=torch.uint8)
    save_file(state, tmp_path / "with.safetensors")
    with_choice = files.read(tmp_path / "with.safetensors")
    without = files.read(reference / "structure_lora.safetensors")
    assert with_choice.pairs.keys() == without.pairs.keys()
    assert set(with_choice.outside) == {CHOICE, *without.outside}
