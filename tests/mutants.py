"""Faults that nobody chose: put one into a copy of the code, run the tests nearest to it, and see whether they notice.

    python tests/mutants.py --count 120 --seed 1 --out mutants.json [--part 0/2]
    python tests/mutants.py --table mutants.json more.json     the results as the table of docs/testing.md

Each fault is one of: a comparison turned, a constant or an index moved by one, a sign or an operator changed, a
condition negated, two arguments swapped, a call's statement dropped. They are drawn evenly over rechar_core and
nodes/host. The result is a list of them with the test that failed, in a file that a second run goes on with.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import preloaded

ROOT = Path(__file__).resolve().parents[1]
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
HANGS = 400  # seconds of one test
OPERATORS = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div}
# The tests nearest to a file: those of its own name, and these. nodes/host/ is tested in a ComfyUI.
NEAREST = {
    "rechar_core/training/": "test_training test_speed test_training_run test_noise test_memory test_interrupt",
    "rechar_core/lora/": "test_files test_key_formats test_key_layouts test_fusion test_inspect test_blocks",
    "rechar_core/glyph/": "test_glyph test_glyph_fonts test_seals test_structure_map",
    "rechar_core/synthesis/references/": "test_references test_renderer",
    "rechar_core/synthesis/": "test_elements test_modes test_passes test_lettering test_renderer",
    "rechar_core/metrics/": "test_metrics",
    "rechar_core/soulstyler/": "test_soulstyler_grammar test_soulstyler_words test_soulstyler_engine",
    "rechar_core/backend/": "test_renderer test_single_file test_stored test_training test_speed test_device test_cli "
    "test_demo_references test_accelerator_cli",
    "rechar_core/cli/": "test_cli test_jobs test_seeds test_decorate test_soulstyler_cli test_demo",
    "rechar_core/demo/": "test_demo test_demo_extras test_demo_references",
    "rechar_core/": "test_charts test_images test_files test_device test_layout",
    "nodes/host/": "test_smoke test_host_weights test_host_demo test_host_references test_server_blora "
    "test_server_references test_server_lettering test_server_soulstyler",
}


class Mutator(ast.NodeTransformer):
    """Counts the places where a fault can be put, and puts one at place `chosen`."""

    def __init__(self, chosen: int = -1) -> None:
        self.chosen, self.places, self.said = chosen, 0, ""

    def here(self, node: ast.AST, what: str) -> bool:
        self.places += 1
        if self.places - 1 != self.chosen:
            return False
        self.said = f"line {getattr(node, 'lineno', 0)}: {what}"
        return True

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.body = [
            self.visit(statement) for statement in node.body
        ]  # not its decorators, types and defaults
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.value = self.visit(node.value) if node.value else None
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Constant):  # a docstring
            return node
        if isinstance(node.value, ast.Call) and self.here(node, f"dropped {ast.unparse(node)}"):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return node  # what a message says is tested by reading it

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        turned = COMPARISONS.get(type(node.ops[0]))
        if turned and self.here(node, f"turned {ast.unparse(node)}"):
            node.ops[0] = turned()
        return self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        other = OPERATORS.get(type(node.op))
        text = any(
            isinstance(side, (ast.JoinedStr, ast.Constant))
            and not isinstance(getattr(side, "value", ""), (int, float))
            for side in (node.left, node.right)
        )
        if other and not text and self.here(node, f"operator in {ast.unparse(node)}"):
            node.op = other()
        return self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        if isinstance(node.op, (ast.USub, ast.Not)) and self.here(
            node, f"sign or not gone from {ast.unparse(node)}"
        ):
            return self.visit(node.operand)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if self.here(node, f"negated if {ast.unparse(node.test)}"):
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
        return self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        number = isinstance(node.value, (int, float)) and not isinstance(node.value, bool)
        if number and self.here(node, f"{node.value!r} plus one"):
            return ast.copy_location(ast.Constant(node.value + 1), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        plain = len(node.args) >= 2 and not any(isinstance(arg, ast.Starred) for arg in node.args[:2])
        if plain and self.here(node, f"swapped the first arguments of {ast.unparse(node)}"):
            node.args[0], node.args[1] = node.args[1], node.args[0]
        return self.generic_visit(node)


def faults(count: int, seed: int) -> list[tuple[str, int]]:
    """File and place of each fault, the same for the same seed and code."""
    files = [f for folder in ("rechar_core", "nodes/host") for f in sorted((ROOT / folder).rglob("*.py"))]
    places = []
    for file in files:
        counter = Mutator()
        counter.visit(ast.parse(file.read_text(encoding="utf-8")))
        places += [(file.relative_to(ROOT).as_posix(), number) for number in range(counter.places)]
    return random.Random(seed).sample(places, count)


def put(source: str, place: int) -> tuple[str, str]:
    """The code with the fault, and what it is."""
    mutator = Mutator(place)
    tree = ast.fix_missing_locations(mutator.visit(copy.deepcopy(ast.parse(source))))
    return ast.unparse(tree), mutator.said


def nearest(file: str) -> Iterator[str]:
    """Test files, the most likely first."""
    names = next(names for start, names in NEAREST.items() if file.startswith(start)).split()
    stem = Path(file).stem
    for name in sorted(names, key=lambda name: stem not in name):
        yield f"tests/{name}.py"


def killer(copy_of: Path, file: str) -> str:
    """The first test that fails; "" if all pass. A run that never ends has noticed the fault too."""
    python = preloaded.python(sys.executable, preloaded.SDXL, "pytest")
    ends = ["-o", f"faulthandler_timeout={HANGS}", "-o", "faulthandler_exit_on_timeout=true"]
    command = [*python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *ends, *nearest(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kept = {"cwd": copy_of, "env": environment, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, timeout=10 * HANGS, check=False, **kept)
    except subprocess.TimeoutExpired:
        return "a test does not end"
    if done.returncode == 0:
        return ""
    if "Timeout (" in done.stderr:
        return "a test does not end"
    named = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    return named[1] if named else "the tests do not start"


def table(results: list[Path]) -> Iterator[str]:
    """The lines of a Markdown table of what each fault was and which test noticed it."""
    known = {
        name: each for file in results for name, each in json.loads(file.read_text(encoding="utf-8")).items()
    }
    killed = sum(bool(each["killed by"]) for each in known.values())
    yield f"{killed} of {len(known)} were noticed.\n"
    yield "| file | fault | noticed by |"
    yield "|---|---|---|"
    for name, each in sorted(known.items()):
        fault, test = (each[key].replace("|", "\\|") for key in ("fault", "killed by"))
        yield f"| `{name.rpartition(':')[0]}` | {fault} | {f'`{test}`' if test else '**nothing**'} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("mutants.json"))
    parser.add_argument("--table", type=Path, nargs="+", help="print these results and run nothing")
    parser.add_argument("--part", default="0/1", help="K/N: every N-th fault from number K")
    options = parser.parse_args()
    if options.table:
        print("\n".join(table(options.table)))
        return 0
    known = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    first, step = map(int, options.part.split("/"))
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "rechar"
        shutil.copytree(
            ROOT, there, ignore=shutil.ignore_patterns(".*", "__pycache__", "artefacts"), symlinks=True
        )
        for file, place in faults(options.count, options.seed)[first::step]:
            name = f"{file}:{place}"
            if name in known:
                continue
            source = (there / file).read_text(encoding="utf-8")
            mutated, said = put(source, place)
            (there / file).write_text(mutated, encoding="utf-8")
            known[name] = {"fault": said, "killed by": killer(there, file)}
            (there / file).write_text(source, encoding="utf-8")
            options.out.write_text(json.dumps(known, indent=1), encoding="utf-8")
            print(f"{name} {said[:80]!r}: {known[name]['killed by'] or 'SURVIVED'}", flush=True)
    alive = [name for name, result in known.items() if not result["killed by"]]
    print(f"{len(known) - len(alive)} of {len(known)} killed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
