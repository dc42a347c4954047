"""All tests, as run.py's test command runs them: in every environment and every ComfyUI there is; counts at the end.

    python tests/suite.py [--bounds PYTHON]

All tests of the nodes in the newest ComfyUI, without the smoke set, which repeats a little of each; on a core of their
own those without a ComfyUI. Then, on whichever core is free: the pages (marker `browser`) behind the newest frontend,
every node once (marker `smoke`) in each older ComfyUI, and a set (marker `bounds`) by PYTHON, whose packages are
exactly the lower bounds of requirements.txt. hosts.py finds the ComfyUI folders.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import hosts

ROOT = Path(__file__).resolve().parents[1]
STOPPED = 130  # the status of what Ctrl-C ended


@dataclass(frozen=True)
class Step:
    """One run of pytest: who runs it, which tests by a marker expression, and what else its environment holds."""

    title: str
    python: str
    marker: str
    environment: dict[str, str] = field(default_factory=dict)
    waits: bool = False  # run.py may still be making its environment


@dataclass
class Outcome:
    """What a step gave: pytest's exit status, its counts ("12 passed, 1 skipped"), and all that it printed."""

    title: str
    status: int
    counts: str
    printed: str


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps, print what each gave; the status of the first that failed."""
    parser = argparse.ArgumentParser(description="All tests, in every ComfyUI there is.")
    parser.add_argument(
        "--bounds", default="", help="full path of the Python of the environment with the lower bounds"
    )
    bounds = parser.parse_args(arguments).bounds
    found = hosts.hosts(siblings=True)
    with ThreadPoolExecutor(2) as cores:
        first, *others = [
            cores.submit(run, step, show=not number) for number, step in enumerate(steps(found, bounds))
        ]
        outcomes = [first.result()]
        for other in others:
            outcomes.append(other.result())
            say(outcomes[-1].title)
            print(outcomes[-1].printed, flush=True)
    for line in report(outcomes, found, bounds):
        say(line)
    return next((outcome.status for outcome in outcomes if outcome.status), 0)


def steps(found: Sequence[hosts.Host], bounds: str) -> Iterator[Step]:
    """Everything to run, the two longest first; `found` has the newest ComfyUI first."""
    yield Step("without a ComfyUI", sys.executable, "not host")
    newer = hosts.newer_frontend()
    for number, host in enumerate(found):
        there = {"COMFYUI_PATH": str(host.folder)}
        if number:
            yield Step(f"every node in ComfyUI {host.version}", sys.executable, "smoke", there)
            continue
        marker = "host and not smoke" + (" and not newest_frontend" if newer else "")
        yield Step(f"all tests in ComfyUI {host.version}", sys.executable, marker, there)
        if newer:
            title = f"the pages of ComfyUI {host.version} behind frontend {newer[0]}"
            yield Step(title, sys.executable, "browser", {**there, "COMFYUI_FRONTEND": str(newer[1])})
    if bounds:
        yield Step(
            "with exactly the lower bounds of requirements.txt", bounds, "bounds and not host", waits=True
        )


def report(outcomes: Sequence[Outcome], found: Sequence[hosts.Host], bounds: str) -> Iterator[str]:
    """The last lines: what ran with which counts, and what did not run."""
    yield from (f"{outcome.title}: {outcome.counts}" for outcome in outcomes)
    if not bounds:
        yield "the lower bounds of requirements.txt were not tested: they need Python 3.10 or 3.11, without --here"
    yield from (f"NO ComfyUI is in {folder}" for folder in hosts.absent())
    if not found:
        yield "NO NODE WAS TESTED: set COMFYUI_PATH to a ComfyUI's folder, COMFYUI_PYTHON to its Python"
    elif hosts.newer_frontend() is None:
        yield "no newer frontend was tested: the package comfyui-frontend-package is not installed"


def run(step: Step, *, show: bool) -> Outcome:
    """One step in a process of its own; `show`: what it prints goes to the console as it comes."""
    if step.waits:
        wait_for(Path(step.python))
    command = [step.python, "-m", "pytest", "tests", "-m", step.marker]
    environment = os.environ | step.environment
    # without bytecode every server would compile all of torch again, ten seconds each
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    if show:
        say(step.title)
    if not shutil.which(step.python):
        return Outcome(step.title, 2, f"there is no {step.python}", "")
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line)
                if show:
                    print(line, end="", flush=True)
            status = process.wait()
        except KeyboardInterrupt:
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            status = STOPPED
    return Outcome(step.title, status, counts(lines), "".join(lines))


def wait_for(python: Path) -> None:
    """Return when run.py has made the environment of this Python, or failed to, or after half an hour."""
    lock, end = Path(f"{python.parents[1]}.lock"), time.monotonic() + 1800
    while lock.exists() and time.monotonic() < end:
        time.sleep(1)


def counts(lines: Sequence[str]) -> str:
    """pytest's own last line without its frame; what it said instead where there is none."""
    for line in reversed(lines):
        if found := re.search(r"=+ (.*\d+ \w+.*? in [\d.]+s.*?) =+", line):
            return found[1]
    return lines[-1].strip() if lines else "it printed nothing"


def say(line: str) -> None:
    """One line of progress, plain ASCII, at once."""
    print(f"[tests] {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
