"""The rules of the house, read from the source: who imports whom, what is never used, how long things may be.

Each rule is a function from source text to its breaches, so that every rule is also shown to fail on bad code.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "rechar_core").rglob("*.py"))
NODES = sorted((ROOT / "nodes").rglob("*.py"))
SHIPPED = [*CORE, *NODES, *(file for file in [ROOT / "__init__.py"] if file.is_file())]

HOST = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "latent_preview",
    "node_helpers",
    "nodes",
    "server",
}
NODE_API = {"comfy_api"}  # what every node file may import: the schema classes
HEAVY = ("torch", "diffusers", "transformers", "accelerate")

# The rooms of the core, from the ground up: each may import of itself and of those on the floors below.
FLOORS = (
    {"errors"},
    {"charts", "device", "images", "storage"},
    {"glyph", "lora"},
    {"metrics"},
    {"soulstyler", "synthesis", "training"},
    {"demo"},
    {"backend"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MAX_FILE, MAX_FUNCTION = 300, 40
HOST_CLASSES = {"ModelPatcher", "CoreModelPatcher", "CLIP", "VAE", "ClipVisionModel", "ControlNet"}
TEXT_METHODS = {"read_text", "write_text"}
OTHER_OPEN = {"Image", "os", "tarfile", "zipfile", "webbrowser", "wave"}  # their open() is not a text file's


# Reading imports


def module_name(file: Path) -> str:
    """rechar_core/training/loop.py -> training.loop; a package's __init__ -> the package, the core's own -> ""."""
    parts = file.relative_to(ROOT / "rechar_core").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def absolute_imports(tree: ast.AST) -> set[str]:
    """Top-level names of all absolute imports, wherever they stand."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def core_imports(source: str, file: Path, modules: set[str]) -> set[str]:
    """The core modules that a core file imports, relatively, in whatever scope."""
    package = list(file.relative_to(ROOT / "rechar_core").parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        assert node.level - 1 <= len(package), f"{file}:{node.lineno} leaves rechar_core"
        base = package[: len(package) - (node.level - 1)] + (node.module.split(".") if node.module else [])
        names = [".".join([*base, alias.name]) for alias in node.names]
        found |= {name if name in modules else ".".join(base) for name in names}
    return found - {""}


def breaches_of_order(source: str, file: Path, modules: set[str]) -> set[str]:
    """Imports of another room that is not on a floor below."""
    room = module_name(file).split(".")[0]
    others = {name for name in core_imports(source, file, modules) if name.split(".")[0] != room}
    return {name for name in others if FLOOR_OF[name.split(".")[0]] >= FLOOR_OF[room]}


def circles(imports: dict[str, set[str]]) -> set[str]:
    """Modules from which imports lead back to themselves."""

    def reached(name: str) -> set[str]:
        found, new = set(), {name}
        while new:
            new = {other for one in new for other in imports.get(one, set()) if other != one} - found
            found |= new
        return found

    return {name for name in imports if name in reached(name)}


MODULES = {module_name(file) for file in CORE}


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_core_imports_point_downwards(file: Path) -> None:
    assert breaches_of_order(file.read_text(encoding="utf-8"), file, MODULES) == set()


def test_no_core_module_imports_itself_by_way_of_others() -> None:
    read = {module_name(file): core_imports(file.read_text(encoding="utf-8"), file, MODULES) for file in CORE}
    assert circles(read) == set()


@pytest.mark.parametrize(
    ("name", "source", "breach"),
    [
        ("errors.py", "from .images import read", {"images"}),
        ("storage.py", "def f():\n    from . import lora", {"lora"}),
        ("lora/files.py", "from ..training.loop import Training", {"training.loop"}),
        ("lora/files.py", "from ..storage import header\nfrom .blora import BLora", set()),
        ("training/loop.py", "from ..backend.pipeline import load", {"backend.pipeline"}),
        ("synthesis/passes.py", "from ..training.loop import Training", {"training.loop"}),
        ("metrics/score.py", "from ..demo.build import load_demo", {"demo.build"}),
        ("cli/train.py", "from ..training.loop import Training", set()),
        ("__main__.py", "from .cli.main import main", set()),
    ],
)
def test_an_upward_import_is_seen(name: str, source: str, breach: set[str]) -> None:
    assert breaches_of_order(source, ROOT / "rechar_core" / name, MODULES) == breach


def test_a_circle_is_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == {"b", "c"}


def test_the_core_has_fourteen_rooms() -> None:
    """A failure means that a new one was added at the top, or that one lacks its floor."""
    rooms = {name.split(".")[0] for name in MODULES} - {""}
    assert rooms == set(FLOOR_OF) and len(rooms - {"__main__"}) == 14


# The host


def host_imports(source: str) -> set[str]:
    """What a file imports of ComfyUI."""
    return absolute_imports(ast.parse(source)) & HOST


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_the_core_does_not_know_the_host(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert host_imports(source) == set()
    assert "rechar_core" not in absolute_imports(ast.parse(source)), (
        "relative imports only: see architecture.md"
    )


def test_only_nodes_host_touches_the_host() -> None:
    ordinary = [f for f in NODES if not f.relative_to(ROOT / "nodes").parts[0].startswith("host")]
    found = {file.name: host_imports(file.read_text(encoding="utf-8")) - NODE_API for file in ordinary}
    assert {name: imports for name, imports in found.items() if imports} == {}


def test_a_host_import_is_seen() -> None:
    source = "import torch\ndef f():\n    import comfy.sd\n    from folder_paths import base_path"
    assert host_imports(source) == {"comfy", "folder_paths"}


# What is never used


def forbidden(source: str) -> Iterator[str]:
    """Pickle in any guise, the node table that hides our entrypoint, the host's trainer, text without encoding.

    And what breaks in newer hosts: torchaudio, which they lack, and arguments of the host's classes by place.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from (m for m in modules if m.split(".")[0] in ("pickle", "dill", "joblib", "cloudpickle"))
            yield from (m for m in modules if "nodes_train" in m or m.split(".")[0] == "torchaudio")
        elif isinstance(node, ast.Name) and node.id == "NODE_CLASS_MAPPINGS":
            yield node.id
        elif isinstance(node, ast.Call):
            yield from forbidden_calls(node)


def forbidden_calls(call: ast.Call) -> Iterator[str]:
    """torch.load, weights_only=..., and text files opened in the system's encoding."""
    given = {keyword.arg for keyword in call.keywords}
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    owner_name = owner.id if isinstance(owner, ast.Name) else ""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if (owner_name, name) in (("torch", "load"), ("numpy", "load"), ("np", "load")):
        yield f"{owner_name}.load"
    if "weights_only" in given:
        yield "weights_only"
    if name in HOST_CLASSES and len(call.args) > 1:
        yield f"{name} with arguments by place"
    if name in TEXT_METHODS and "encoding" not in given:
        yield f"{name} without encoding"
    if name == "open" and owner_name not in OTHER_OPEN and "encoding" not in given:
        position = 0 if owner else 1
        mode = call.args[position] if len(call.args) > position else None
        mode = next((keyword.value for keyword in call.keywords if keyword.arg == "mode"), mode)
        if not (isinstance(mode, ast.Constant) and "b" in str(mode.value)):
            yield "open without encoding"


@pytest.mark.parametrize("file", [*SHIPPED, ROOT / "run.py"], ids=lambda f: f.relative_to(ROOT).as_posix())
def test_nothing_forbidden_is_used(file: Path) -> None:
    assert list(forbidden(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from pickle import loads", ["pickle"]),
        ("import torch\ntorch.load('x')", ["torch.load"]),
        ("load(x, weights_only=True)", ["weights_only"]),
        ("NODE_CLASS_MAPPINGS = {}", ["NODE_CLASS_MAPPINGS"]),
        ("import comfy_extras.nodes_train", ["comfy_extras.nodes_train"]),
        ("def f():\n    import torchaudio.functional", ["torchaudio.functional"]),
        ("comfy.model_patcher.ModelPatcher(m, a, b)", ["ModelPatcher with arguments by place"]),
        ("comfy.sd.CLIP(target, model_options=o)", []),
        ("open('x')", ["open without encoding"]),
        ("open('x', 'w')", ["open without encoding"]),
        ("path.open()", ["open without encoding"]),
        ("path.read_text()", ["read_text without encoding"]),
        ("path.write_text('x')", ["write_text without encoding"]),
        ("open('x', 'rb'); path.open('wb'); Image.open('x'); open('x', encoding='utf-8')", []),
    ],
)
def test_what_is_forbidden_is_seen(source: str, found: list[str]) -> None:
    assert list(forbidden(source)) == found


# How long things are


def too_long(source: str) -> list[str]:
    """Files over 300 lines and functions over 40; a node's schema is data and may be longer."""
    lines = len(source.splitlines())
    found = [f"{lines} lines"] if lines > MAX_FILE else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "define_schema":
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                found.append(f"{node.name}: {length} lines")
    return found


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_files_and_functions_are_short(file: Path) -> None:
    assert too_long(file.read_text(encoding="utf-8")) == []


def test_what_is_too_long_is_seen() -> None:
    assert too_long("x = 1\n" * 301) == ["301 lines"]
    assert too_long("def f():\n" + "    x = 1\n" * 40) == ["f: 41 lines"]
    assert too_long("def define_schema():\n" + "    x = 1\n" * 40) == []


# What starts quickly


@pytest.mark.parametrize(
    "statement",
    [
        "import rechar_core",
        "import sys, runpy; sys.argv = ['rechar_core', '--help']; runpy.run_module('rechar_core', run_name='__main__')",
    ],
    ids=["import", "help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(statement: str) -> None:
    program = (
        f"import sys\ntry:\n    exec({statement!r})\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "HEAVY []"


# What is shipped


def test_no_symbolic_link_is_shipped() -> None:
    """A failure means that a build of the host that checks a pack's digest refuses ours."""
    tracked = subprocess.run(["git", "ls-files", "-s"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("this copy of the repository is no git checkout")
    assert [line for line in tracked.stdout.splitlines() if line.startswith("120000")] == []
    assert ".pyc" not in tracked.stdout
