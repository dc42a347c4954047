"""`python -m tests.accelerator.matrix`: every training case on the simulated card, as a table. Takes some minutes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from accelerator import cases, checking  # noqa: E402


def main() -> int:
    """Prints a Markdown table, and what went wrong; 1 if anything did."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("cpu", *cases.HOSTS):
            found |= checking.results("check_training.py", Path(folder), kind, "every", in_host=True)
    starts = cases.AXES[-1]
    print(f"| host | mode | precision | {' | '.join(starts)} |\n|{'---|' * (3 + len(starts))}")
    for row in dict.fromkeys(case[:-1] for case in cases.every()):
        marks = ["FAILED" if found[str(cases.Case(*row, start))] else "passed" for start in starts]
        print(f"| {' | '.join((*row, *marks))} |")
    for case, wrong in found.items():
        if wrong:
            print(f"\n{case}\n{wrong}")
    failed = sum(map(bool, found.values()))
    print(f"\n{len(found) - failed} of {len(found)} cases passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
