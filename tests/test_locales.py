"""Translations and help pages against the nodes' schemas, which are read from the source: no ComfyUI is needed.

English has no nodeDefs.json: its texts are the schemas' own. The host asks for the help page of a node as
web/docs/ID/LANGUAGE.md and, in any other language, as web/docs/ID.md (frontend, nodeHelpService.ts).

Each rule is a function from what is written to its breaches, so that every rule is also shown to fail on bad work.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCALES, DOCS = ROOT / "locales", ROOT / "web" / "docs"
LANGUAGES = ("ja", "zh", "zh-TW")
TREES = {
    file: ast.parse(file.read_text(encoding="utf-8"))
    for folder in ("nodes", "rechar_core")
    for file in sorted((ROOT / folder).rglob("*.py"))
}
NODE_TREES = [tree for file, tree in TREES.items() if file.parent == ROOT / "nodes"]


# Reading the schemas


@dataclass(frozen=True)
class Node:
    """What a schema says. inputs: their ids; outputs: their English labels, in order, from X.Output(id, label, ...)."""

    id: str
    title: str
    category: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(tree: ast.Module) -> list[Node]:
    """Every io.Schema(...) of a module. One inside a helper function is read once for each call of the helper."""
    functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef)]
    found = []
    for function in functions:
        for schema in calls_of(function, "Schema"):
            if function.name == "define_schema":
                found.append(read_schema(schema, {}))
            else:
                names = [argument.arg for argument in function.args.args]
                for call in calls_of(tree, function.name):
                    given = {**dict(zip(names, call.args, strict=False)), **keywords(call)}
                    texts = {n: v.value for n, v in given.items() if isinstance(v, ast.Constant)}
                    found.append(read_schema(schema, texts))
    return found


def read_schema(schema: ast.Call, known: Mapping[str, Any]) -> Node:
    given = keywords(schema)
    inputs = [(call, keywords(call)) for call in elements(given.get("inputs"), ".Input")]
    outputs = [(call, keywords(call)) for call in elements(given.get("outputs"), ".Output")]
    return Node(
        text(given["node_id"], known),
        text(given["display_name"], known),
        text(given["category"], known),
        tuple(text(input_id(call, named), known) for call, named in inputs),
        tuple(text(call.args[-1], known) for call, _ in outputs),
    )


def input_id(call: ast.Call, named: Mapping[str, ast.expr]) -> ast.expr:
    """The id; that of the inner one where an input with a widget is wrapped to take several types."""
    first = named.get("id") or call.args[0]
    return input_id(first, keywords(first)) if isinstance(first, ast.Call) else first


def elements(listed: ast.expr | None, ending: str) -> list[ast.Call]:
    """The X.Input(...) or X.Output(...) calls of a list. Whatever else stands in it, this reader must be taught."""
    if listed is None:
        return []
    assert isinstance(listed, ast.List), f"line {listed.lineno}: {ast.unparse(listed)} is not a plain list"
    calls = [e for e in listed.elts if isinstance(e, ast.Call) and ast.unparse(e.func).endswith(ending)]
    assert len(calls) == len(listed.elts), f"line {listed.lineno}: not every element is an {ending} call"
    return calls


def text(value: ast.expr, known: Mapping[str, Any]) -> str:
    """A constant, a helper's argument, or an f-string of both."""
    if isinstance(value, ast.JoinedStr):
        return "".join(text(v.value if isinstance(v, ast.FormattedValue) else v, known) for v in value.values)
    return known[value.id] if isinstance(value, ast.Name) else str(ast.literal_eval(value))


def calls_of(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func).split(".")[-1] == name:
            yield call


def keywords(call: ast.Call) -> dict[str, ast.expr]:
    return {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}


NODES = {node.id: node for tree in NODE_TREES for node in read_nodes(tree)}
SOCKETS = {str(ast.literal_eval(c.args[0])) for tree in NODE_TREES for c in calls_of(tree, "Custom")}


def test_every_node_was_read() -> None:
    classes = [
        name.id
        for tree in NODE_TREES
        for line in tree.body
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "NODES"
        for name in line.value.elts
    ]
    assert sorted(NODES) == sorted(classes)


def test_a_schema_made_by_a_helper_is_read() -> None:
    source = (
        "def _schema(word, node_id):\n"
        "    return io.Schema(node_id=node_id, display_name=f'Load {word}', category='A/B',\n"
        "        inputs=[io.Int.Input('n', **_N), T.Input(id='t')], outputs=[io.Int.Output('o'),\n"
        "        io.Mask.Output('m', 'mask')])\n"
        "def f(): return _schema('X', 'LoadX')\n"
        "def g(): return _schema('Y', node_id='LoadY')\n"
    )
    x, y = read_nodes(ast.parse(source))
    assert x == Node("LoadX", "Load X", "A/B", ("n", "t"), ("o", "mask"))
    assert (y.id, y.title) == ("LoadY", "Load Y")


# Translations


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object in UTF-8 without a byte order mark, in which no name stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), f"{file}: a name stands twice in {[name for name, _ in pairs]}"
        return dict(pairs)

    found: dict[str, Any] = json.loads(file.read_bytes().decode("utf-8"), object_pairs_hook=unique)
    return found


def wrong_names(found: Iterable[str], wanted: Iterable[str]) -> list[str]:
    found, wanted = set(found), set(wanted)
    return [f"{n} is missing" for n in sorted(wanted - found)] + [
        f"{n} is stale" for n in sorted(found - wanted)
    ]


def wrong_translations(definitions: Mapping[str, Any], nodes: Mapping[str, Node]) -> list[str]:
    """Nodes, inputs and outputs that have no full translation, and translations of what is not there."""
    wrong = wrong_names(definitions, nodes)
    for name in sorted(set(definitions) & set(nodes)):
        found, node = definitions[name], nodes[name]
        parts = ["display_name", "description", *(["inputs"] if node.inputs else []), "outputs"]
        wrong += [f"{name}: {w}" for w in wrong_names(found, parts)]
        for kind, wanted in (("inputs", node.inputs), ("outputs", tuple(map(str, range(len(node.outputs)))))):
            wrong += [f"{name}.{kind}: {w}" for w in wrong_names(found.get(kind, {}), wanted)]
            for key, slot in found.get(kind, {}).items():
                wrong += [f"{name}.{kind}.{key}: {w}" for w in wrong_names(slot, ("name", "tooltip"))]
    return wrong


def texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of everything that can be read on the screen."""
    if isinstance(value, str):
        yield path, value
    else:
        for key, inner in value.items():
            yield from texts(inner, f"{path}.{key}".lstrip("."))


# vue-i18n reads these as a placeholder, a link, a plural or HTML
_SYNTAX = re.compile(r"[{}@|<>]")
_KANA, _HAN = re.compile("[\u3040-\u30ff]"), re.compile("[\u4e00-\u9fff]")
_PAIRS = (  # simplified and traditional
    "结結构構风風块塊图圖训訓练練层層显顯读讀载載网網个個们們这這为為与與体體没沒条條画畫来來从從发發时時间間会會对對应應当當过過"
    "还還进進现現实實样樣种種长長门門问問题題关關开開见見观觀记記许許设設误誤说說请請让讓语語调調谁誰变變数數据據标標签簽"
)
_SIMPLIFIED, _TRADITIONAL = set(_PAIRS[::2]), set(_PAIRS[1::2])


def unreadable(language: str, path: str, text: str) -> list[str]:
    """What is wrong with one text: empty, syntax by mistake, left in English, or in another language's characters."""
    wrong = ["is empty"] if not text.strip() or text != text.strip() else []
    wrong += [f"has '{c}', which is syntax" for c in sorted(set(_SYNTAX.findall(text)))]
    if path.endswith(("description", "tooltip")) and not _HAN.search(text) and not _KANA.search(text):
        wrong.append("is not translated")
    if path.endswith("description") and language == "ja" and not _KANA.search(text):
        wrong.append("is not Japanese")
    strange = {"zh": _TRADITIONAL, "zh-TW": _SIMPLIFIED}.get(language, set()) & set(text)
    wrong += [f"has '{c}' of the other Chinese" for c in sorted(strange)]
    return [f"{path} {w}: {text}" for w in wrong]


def two_names(definitions: Mapping[str, Any]) -> list[str]:
    """Inputs of the same id that are called differently on different nodes."""
    names: dict[str, set[str]] = {}
    for node in definitions.values():
        for key, slot in node.get("inputs", {}).items():
            names.setdefault(key, set()).add(slot["name"])
    return [f"{key}: {sorted(found)}" for key, found in names.items() if len(found) > 1]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_input_and_output_is_translated_and_nothing_stale_is_left(language: str) -> None:
    assert wrong_translations(read_json(LOCALES / language / "nodeDefs.json"), NODES) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_and_socket_types_are_translated(language: str) -> None:
    main = read_json(LOCALES / language / "main.json")
    segments = {s for node in NODES.values() for s in node.category.split("/")} - {"ReChar"}
    assert wrong_names(main, ("nodeCategories", "dataTypes")) == []
    assert wrong_names(main["nodeCategories"], segments) == []
    assert wrong_names(main["dataTypes"], SOCKETS) == []


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("file", ["nodeDefs.json", "main.json"])
def test_every_text_can_be_read(language: str, file: str) -> None:
    found = texts(read_json(LOCALES / language / file))
    assert [w for path, text in found for w in unreadable(language, path, text)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_thing_has_one_name(language: str) -> None:
    assert two_names(read_json(LOCALES / language / "nodeDefs.json")) == []


def test_there_are_no_other_languages() -> None:
    assert sorted(folder.name for folder in LOCALES.iterdir()) == sorted(LANGUAGES)


def test_a_wrong_translation_is_seen() -> None:
    node = Node("A", "A", "ReChar", ("x",), ("o", "p"))
    slot = {"name": "n", "tooltip": "t"}
    good = {"display_name": "a", "description": "a", "inputs": {"x": slot}, "outputs": {"0": slot, "1": slot}}
    assert wrong_translations({"A": good}, {"A": node}) == []
    assert wrong_translations({"B": good}, {"A": node}) == ["A is missing", "B is stale"]
    bad = {**good, "inputs": {"y": slot}, "outputs": {"0": slot, "1": {"name": "n"}}}
    assert wrong_translations({"A": bad}, {"A": node}) == [
        "A.inputs: x is missing",
        "A.inputs: y is stale",
        "A.outputs.1: tooltip is missing",
    ]
    assert two_names({"A": good, "B": {"inputs": {"x": {"name": "m"}}}}) == ["x: ['m', 'n']"]


@pytest.mark.parametrize(
    ("language", "text", "wrong"),
    [
        ("zh", "字形的结构。", []),
        ("zh", "", ["is empty", "is not translated"]),
        ("zh", "a@b 结构", ["has '@', which is syntax"]),
        ("zh", "The structure.", ["is not translated"]),
        ("zh", "字形的結构。", ["has '結' of the other Chinese"]),
        ("zh-TW", "字形的结構。", ["has '结' of the other Chinese"]),
        ("ja", "字形構造。", ["is not Japanese"]),
    ],
)
def test_an_unreadable_text_is_seen(language: str, text: str, wrong: list[str]) -> None:
    assert unreadable(language, "description", text) == [f"description {w}: {text}" for w in wrong]


# Help pages


def labels(node: Node, language: str) -> list[str]:
    """What a reader of this language sees on the node: the inputs' names and the outputs' names."""
    if language == "en":
        return [*(f"`{key}`" for key in node.inputs), *node.outputs]
    found = read_json(LOCALES / language / "nodeDefs.json")[node.id]
    inputs = [f"{found['inputs'][key]['name']} (`{key}`)" for key in node.inputs]
    return [*inputs, *(slot["name"] for slot in found["outputs"].values())]


def first_cells(page: str) -> list[str]:
    """The first cell of every row of the page's tables, without their headings and rules."""
    rows = re.findall(r"^\| *(.*?) *\|.*\|$", page, re.MULTILINE)
    rules = [i for i, cell in enumerate(rows) if re.fullmatch(r":?-+:?", cell)]
    return [cell for i, cell in enumerate(rows) if i not in rules and i + 1 not in rules]


def wrong_page(page: str, labels: Iterable[str], messages: str) -> list[str]:
    """What a help page lacks, and what it says of inputs, outputs or messages that do not exist."""
    cells, wanted = first_cells(page), list(labels)
    wrong = [f"{label} is missing" for label in wanted if label not in cells]
    for cell in cells:
        quoted = re.fullmatch("`(.+)`", cell)
        if cell not in wanted and not (quoted and quoted[1] in messages):
            wrong.append(f"{cell} is neither an input, nor an output, nor part of a message")
    return wrong


MESSAGES = "\n".join(
    constant.value
    for tree in TREES.values()
    for constant in ast.walk(tree)
    if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
)


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
@pytest.mark.parametrize("name", sorted(NODES))
def test_every_node_has_a_help_page_that_fits_it(name: str, language: str) -> None:
    page = (DOCS / name / f"{language}.md").read_bytes().decode("utf-8")
    assert wrong_page(page, labels(NODES[name], language), MESSAGES) == []
    assert not page.startswith("\ufeff")
    assert page.endswith("\n")


@pytest.mark.parametrize("language", ["zh-TW", "zh", "ja"])
@pytest.mark.parametrize("name", sorted(NODES))
def test_help_pages_are_in_their_language(name: str, language: str) -> None:
    page = (DOCS / name / f"{language}.md").read_text(encoding="utf-8")
    strange = {"zh": _TRADITIONAL, "zh-TW": _SIMPLIFIED}.get(language, set()) & set(page)
    assert strange == set()
    assert _KANA.search(page) if language == "ja" else not _KANA.search(page)


@pytest.mark.parametrize("name", sorted(NODES))
def test_other_languages_get_the_english_page(name: str) -> None:
    assert (DOCS / f"{name}.md").read_bytes() == (DOCS / name / "en.md").read_bytes(), "copy en.md there"


def test_there_are_no_other_help_pages() -> None:
    wanted = {f"{name}/{language}.md" for name in NODES for language in ("en", *LANGUAGES)}
    wanted |= {f"{name}.md" for name in NODES}
    found = {file.relative_to(DOCS).as_posix() for file in DOCS.rglob("*") if file.is_file()}
    assert wrong_names(found, wanted) == []


def test_a_wrong_help_page_is_seen() -> None:
    page = "| Name | What |\n|---|---|\n| `x` | X |\n\n| Name | What |\n|---|---|\n| out | O |\n| `went wrong` | W |\n"
    assert wrong_page(page, ["`x`", "out"], "it went wrong; ") == []
    assert wrong_page(page, ["`x`", "out", "`y`"], "it went well") == [
        "`y` is missing",
        "`went wrong` is neither an input, nor an output, nor part of a message",
    ]
