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

# What each lower module may import of the core. errors -> blocks -> keys -> lora -> {files, fusion, training.adapter}
LORA = {"errors", "blocks", "keys", "lora"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "blocks": {"errors"},
    "foreign": {"errors"},
    "storage": {"errors"},
    "images": {"errors"},
    "device": {"training.recipe"},
    "keys": {"errors", "blocks"},
    "lora": {"errors", "blocks", "keys"},
    "metadata": LORA,
    "peft_config": LORA | {"metadata"},
    "files": LORA | {"foreign", "metadata", "peft_config", "storage"},
    "fusion": LORA,
    "inspect": LORA,
    "training.recipe": {"errors", "blocks", "training.memory"},
    "training.draws": {"errors"},
    "training.memory": {"errors"},
    "training.denoiser": {"errors", "blocks", "training.memory"},
    "training.objective": {"errors", "training.denoiser", "training.draws", "training.recipe"},
    "training.adapter": LORA | {"training.draws", "training.recipe"},
    "soulstyler.spans": set(),
    "soulstyler.templates": set(),
    "soulstyler.network": set(),
    "soulstyler.crops": set(),
    "soulstyler.losses": set(),
    "soulstyler.language": set(),
    **{f"soulstyler.{name}": {"soulstyler.language"} for name in ("english", "chinese", "japanese")},
    "soulstyler.grammar": {
        f"soulstyler.{name}" for name in ("language", "spans", "english", "chinese", "japanese")
    },
    "soulstyler.pixels": {"images"},
    "soulstyler.folders": {"errors"},
    "soulstyler.compose": {"errors", "images"},
    "soulstyler.guide": {"errors", "soulstyler.folders", "soulstyler.pixels"},
    "soulstyler.segment": {"errors", "soulstyler.compose"},
    "soulstyler.segmenters": {"errors", *(f"soulstyler.{name}" for name in ("folders", "pixels", "segment"))},
    "soulstyler.llm": {"errors", "soulstyler.folders", "soulstyler.grammar"},
}
TOP = ("standalone", "demo")  # may import everything; nothing below imports them
MAY_IMPORT_TOP = ("__main__", *TOP)
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
    """Imports that point upward."""
    name, imported = module_name(file), core_imports(source, file, modules)
    breaches = imported - ALLOWED[name] - {name} if name in ALLOWED else set()
    if name.split(".")[0] not in MAY_IMPORT_TOP:
        breaches |= {other for other in imported if other.split(".")[0] in TOP}
    return breaches


MODULES = {module_name(file) for file in CORE}


@pytest.mark.parametrize("file", CORE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_core_imports_point_one_way(file: Path) -> None:
    assert breaches_of_order(file.read_text(encoding="utf-8"), file, MODULES) == set()


@pytest.mark.parametrize(
    ("name", "source", "breach"),
    [
        ("errors.py", "from .blocks import BLOCKS", {"blocks"}),
        ("blocks.py", "def f():\n    from . import keys", {"keys"}),
        ("keys.py", "from .lora import BLora", {"lora"}),
        ("lora.py", "from .files import read", {"files"}),
        ("files.py", "from .training.loop import Training", {"training.loop"}),
        ("training/adapter.py", "from ..files import read", {"files"}),
        ("training/loop.py", "from ..standalone.base import load", {"standalone.base"}),
        ("metrics.py", "from .demo.build import load_demo", {"demo.build"}),
        ("standalone/train.py", "from ..training.loop import Training", set()),
        ("__main__.py", "from .standalone.cli import main", set()),
    ],
)
def test_an_upward_import_is_seen(name: str, source: str, breach: set[str]) -> None:
    modules = MODULES | {"training.loop", "standalone.base", "demo.build", "keys", "files"}
    assert breaches_of_order(source, ROOT / "rechar_core" / name, modules) == breach


def test_the_table_names_modules_that_exist() -> None:
    assert set(ALLOWED) - MODULES == set()


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
