"""The names in CONTRIBUTING.md and docs/: what they point to is there.

In these documents, FILE.py::NAME in backticks is a function, class or test of a file, ::NAME one more of the same file.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {
    "inference.py",
    "utils.py",
    "BLOCKS",
    "COMFYUI_PATH",
}  # the published code's, and a variable's name
CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
PATH = re.compile(r"[\w.-]+(/[\w.-]+)*(/|\.(py|md|txt|toml|jpg))")
OURS = re.compile(r"_?[A-Z]\w+|test_\w+|_[a-z]\w*")  # constants, classes, tests and private names


@cache
def paths() -> frozenset[str]:
    """Every file and folder of the repository, from its root, with a / in front; a folder also has one behind."""
    tops = [top for top in ROOT.iterdir() if not top.name.startswith(".")]
    found = [*tops, *(path for top in tops if top.is_dir() for path in top.rglob("*"))]
    return frozenset(f"/{path.relative_to(ROOT).as_posix()}{'/' * path.is_dir()}" for path in found)


@cache
def names(file: str) -> frozenset[str]:
    """What is defined in a file of this path: functions, classes, methods and assigned names."""
    found = set()
    for node in ast.walk(ast.parse((ROOT / file.lstrip("/")).read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return frozenset(found)


@cache
def all_names() -> frozenset[str]:
    tops = ("/nodes/", "/rechar_core/", "/tests/", "/benchmarks/")
    return frozenset().union(
        *(names(path) for path in paths() if path.startswith(tops) and path.endswith(".py"))
    )


def missing(text: str) -> Iterator[str]:
    """The files and names that a document mentions and that do not exist."""
    last: list[str] = []
    for code in CODE.findall(text):
        for word in code.split():
            path, _, name = word.partition("::")
            if word in ELSEWHERE:
                continue
            if PATH.fullmatch(path) and not path.startswith("."):
                last = [there for there in paths() if there.endswith("/" + path)]
                if not last:
                    yield word
                    continue
            if name and not any(set(name.split(".")) <= names(file) for file in last):
                yield word
            if OURS.fullmatch(code) and code not in all_names():
                yield word


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document: Path) -> None:
    """A failure means that something was renamed or moved, and the document still has its old name."""
    text = document.read_text(encoding="utf-8")
    assert list(missing(text)) == []
    assert [link for link in LINK.findall(text) if not (document.parent / link).exists()] == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`nodes/host/nothing.py`", ["nodes/host/nothing.py"]),
        ("`python tests/nothing.py --out x`", ["tests/nothing.py"]),
        ("`nothing/`", ["nothing/"]),
        ("`lora/files.py::nothing`", ["lora/files.py::nothing"]),
        ("`test_docs.py::missing`, `::nothing`", ["::nothing"]),
        ("`NOTHING_OF_THIS_NAME`" + " `test_nothing`", ["NOTHING_OF_THIS_NAME", "test_nothing"]),
        ("`lora/files.py::read`, `::write`, `KEY_FORMATS`, `nodes/`, `fast`", []),
    ],
)
def test_a_name_that_does_not_exist_is_seen(text: str, found: list[str]) -> None:
    assert list(missing(text)) == found
