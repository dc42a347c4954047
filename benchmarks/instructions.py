"""How many of the 100 published instructions are read exactly right, by the rules or by an LLM in a local folder.

    python benchmarks/instructions.py [--data FILE] [--llm FOLDER] [--seen-only] [--misses] [--json FILE]

An instruction counts if its style and all its pairs (style, object, head noun, part) are exactly those of
data/instructions.jsonl. All 100 and their answers were written before the grammar, by its author. While the grammar was
written, only the 60 rows with "unseen": false were run against it; the other 40 (20 English, 10 Chinese, 10 Japanese,
drawn at random) were scored once, when it was finished. data/instructions_late.jsonl holds 40 more, written when the
grammar was old, by someone who had not read its tables. The figures of the first looks stand in
benchmarks/instructions.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from rechar_core.soulstyler.grammar import Request, parse  # noqa: E402

DATA = ROOT / "data" / "instructions.jsonl"


@dataclass(frozen=True)
class Case:
    """An instruction and its answer."""

    id: str
    language: str
    unseen: bool
    instruction: str
    style: str
    pairs: list[dict[str, str]]

    def right(self, request: Request) -> bool:
        return (request.style, [asdict(pair) for pair in request.pairs]) == (self.style, self.pairs)


def cases(file: Path = DATA) -> list[Case]:
    """All cases of a JSON lines file."""
    return [Case(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def score(given: Iterable[Case], reader: Callable[[str], Request]) -> dict[str, Any]:
    """Right and total for each language, seen and unseen, and the ids of what was read wrong."""
    table: dict[str, list[int]] = {}
    misses = {}
    for case in given:
        request = reader(case.instruction)
        right = case.right(request)
        for name in ("all", "unseen" if case.unseen else "seen", case.language):
            counts = table.setdefault(name, [0, 0])
            counts[0] += right
            counts[1] += 1
        if not right:
            misses[case.id] = {"style": request.style, "pairs": [asdict(pair) for pair in request.pairs]}
    return {"right_of": table, "misses": misses}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA, help="another table of instructions and answers")
    parser.add_argument(
        "--llm", type=Path, help="a transformers folder with an instruct model, instead of the rules"
    )
    parser.add_argument("--seen-only", action="store_true", help="leave the 40 unseen ones alone")
    parser.add_argument("--misses", action="store_true", help="print what was read wrong")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args(arguments)
    chosen = [case for case in cases(options.data) if not (options.seen_only and case.unseen)]
    result = score(chosen, llm_reader(options.llm) if options.llm else parse)
    for name, (right, total) in result["right_of"].items():
        print(f"{name:>7}: {right:3d} of {total:3d}")
    if options.misses:
        print(json.dumps(result["misses"], ensure_ascii=True, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")


def llm_reader(folder: Path) -> Callable[[str], Request]:
    """What the LLM alone makes of an instruction: where it fails, nothing, not the rules' answer."""
    from rechar_core.soulstyler.llm import Llm, read

    llm = Llm.load(folder)
    return lambda instruction: read(instruction, llm) or Request("", ())


if __name__ == "__main__":
    main()
