"""A ComfyUI server under many prompts: does it stay as it was?

    python -m benchmarks.soak [--prompts 200] [--cancels 40] [--errors 40] [--out soak.json]

Runs the demo workflows, small, on ComfyUI (COMFYUI_PATH) with the simulated card of tests/accelerator, first without
and then with dynamic VRAM. Of the prompts, some are cancelled at a random step and some fail: in a node, or when they
are queued. Measured after a warm-up with every kind of prompt, and again at the end: resident memory (after
malloc_trim), open files, threads and the card's bytes, each with all models unloaded, and hashes of the demo's MODEL,
CLIP and VAE.

Fails if memory or the card's bytes grew by more than 2 % since the warm-up, or open files or threads by more than 2 %
and one; if a weight changed; if a prompt gave what it should not; if a traceback of another error than the wanted ones
is in the server's log.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))  # behind all else: its modules have plain names
shrink, checking = importlib.import_module("shrink"), importlib.import_module("accelerator.checking")

GROWTH = 0.02
SLACK = 1  # more open files or threads
FULL = "demo_structure_plus_style"
# workflow, node, input, a wrong value, a part of the message
ERRORS = (
    (FULL, "ReCharGlyph", "text", "\N{SLIGHTLY SMILING FACE}", "no glyph for"),
    (FULL, "ReCharGlyph", "ink", "reddish", "is not a colour"),
    (FULL, "ReCharGlyph", "font", "No such font", "not in list"),
    (FULL, "ReCharGlyph", "outline_only", True, "An outline needs a stroke"),
    (FULL, "ReCharTrainBLoRA", "prompt", "", "prompt is empty"),
    (FULL, "ReCharTrainBLoRA", "rank", 0, "smaller than min"),
    ("demo_alpha_grid", "ReCharAlphaGrid", "structure_alphas", "high", "is no list of alphas"),
    ("demo_soulstyler", "SoulstylerInstruction", "instruction", "", "instruction is empty"),
)
LONG = {"ReCharTrainBLoRA": ("steps", 400), "KSampler": ("steps", 200)}
CANCELLED = (FULL, "demo_elements", "demo_train_from_glyph")


@dataclass(frozen=True)
class Prompt:
    """One prompt. wanted: a part of its error; empty if it must succeed. cancel_at: its n-th progress message, or 0."""

    name: str
    workflow: dict[str, Any]
    wanted: str = ""
    cancel_at: int = 0


def main() -> int:
    """Both hosts, one after the other; 1 if either failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--cancels", type=int, default=40)
    parser.add_argument("--errors", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["plain", "dynamic"])
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args()
    if options.cancels + options.errors > options.prompts:
        parser.error("of the prompts, no more than all can be cancelled or fail")
    results = {kind: soak(kind, options) for kind in options.kinds}
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(any(result["faults"] for result in results.values()))


def soak(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One host's figures after the warm-up and at the end, and what was wrong."""
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="rechar-soak-"))
    faults: list[str] = []
    with checking.server_on(kind, folder / "base") as running:
        untouched = state(running)["demo"]
        for prompt in warm_up(chance):
            faults += noted(run(running, prompt))
        before, start = state(running), time.monotonic()
        for number, prompt in enumerate(prompts(options, chance)):
            faults += noted(run(running, prompt))
            if number % 25 == 24:
                print(f"{kind}: {number + 1} of {options.prompts}: {figures(state(running))}", flush=True)
        minutes = (time.monotonic() - start) / 60
        after = state(running)
        faults += noted(f"{name} grew: {before[name]} to {after[name]}" for name in grown(before, after))
        faults += noted(["the demo's weights changed"] if after["demo"] != untouched else [])
        faults += noted(unwanted(running.log()))
    shutil.rmtree(folder)
    print(f"{kind}: {options.prompts} prompts in {minutes:.0f} min, {len(faults)} faults", flush=True)
    print(f"  after the warm-up: {figures(before)}\n  at the end:        {figures(after)}")
    return {"before": before, "after": after, "faults": faults, "prompts": options.prompts}


def figures(found: dict[str, Any]) -> str:
    """A state's numbers on one line."""
    return ", ".join(f"{name} {value:,}" for name, value in found.items() if name != "demo")


def noted(faults: Iterable[str]) -> Iterator[str]:
    """The faults, each printed at once."""
    for fault in faults:
        print(f"FAULT {fault}", flush=True)
        yield fault


def warm_up(chance: random.Random) -> list[Prompt]:
    """Every kind of prompt, twice."""
    once = [Prompt(name, workflow(name, chance)) for name in names()]
    once += [failing(n, chance) for n in range(len(ERRORS))]
    return 2 * [*once, *(cancelled(chance, name) for name in CANCELLED)]


def names() -> list[str]:
    """The demo workflows."""
    return sorted(path.stem for path in (ROOT / "workflows" / "api").glob("demo_*.json"))


def prompts(options: argparse.Namespace, chance: random.Random) -> list[Prompt]:
    """The prompts in random order: cancelled ones, failing ones of every kind, the rest each workflow in turn."""
    sound = options.prompts - options.cancels - options.errors
    made = [cancelled(chance, chance.choice(CANCELLED)) for _ in range(options.cancels)]
    made += [failing(number, chance) for number in range(options.errors)]
    made += [
        Prompt(name, workflow(name, chance)) for name in (names()[n % len(names())] for n in range(sound))
    ]
    chance.shuffle(made)
    return made


def workflow(name: str, chance: random.Random, **changes: tuple[str, Any]) -> dict[str, Any]:
    """A small demo workflow; in two of three, all seeds are new. changes: node class to an input and its value."""
    api = shrink.smallest(json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text("utf-8")))
    fresh = chance.random() < 2 / 3
    for node in api.values():
        if fresh and "seed" in node["inputs"]:
            node["inputs"]["seed"] = chance.randrange(2**32)
        if node["class_type"] in changes:
            key, value = changes[node["class_type"]]
            node["inputs"][key] = value
    return api


def failing(number: int, chance: random.Random) -> Prompt:
    """A prompt with the n-th error."""
    name, kind, key, value, message = ERRORS[number % len(ERRORS)]
    return Prompt(f"error: {key} of {kind}", workflow(name, chance, **{kind: (key, value)}), message)


def cancelled(chance: random.Random, name: str) -> Prompt:
    """A long prompt that is cancelled soon."""
    made = workflow(name, chance, **LONG)
    for node in made.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] = chance.randrange(2**32)
    return Prompt(f"cancelled {name}", made, "stopped by a user", chance.randint(1, 12))


def run(server: Any, prompt: Prompt) -> Iterator[str]:
    """Queue it and wait for its end; what was wrong."""
    seen = 0

    def watch(event: Any) -> None:
        nonlocal seen
        seen += event.kind == "progress"
        if seen and seen == prompt.cancel_at:
            server.client.stop()

    error = server.run(prompt.workflow, watch).error
    if bool(error) != bool(prompt.wanted) or prompt.wanted.lower() not in error.lower():
        yield f"{prompt.name}: {error or 'no error'}"
    elif "Traceback" in error or len(error) > 600:
        yield f"{prompt.name}: its message is {error[:200]}"


def state(server: Any) -> dict[str, Any]:
    """The server's figures with all models unloaded, once they are at rest."""
    server.client.request("/free", b'{"unload_models": true, "free_memory": true}')
    time.sleep(1.5)  # the queue's own thread does it
    server.client_json("/accelerator?unload=1")  # what it unloads is given back to the system by the second
    found = server.client_json("/accelerator?unload=1")
    return {"card bytes": found["unloaded"], **found["process"], "demo": found["demo"]}


def grown(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The figures that grew by more than is allowed."""
    slack = {"open files": SLACK, "threads": SLACK}
    return [
        name
        for name, first in before.items()
        if name != "demo" and after[name] > first * (1 + GROWTH) + slack.get(name, 0)
    ]


def unwanted(log: str) -> list[str]:
    """The last lines of the log's tracebacks that are of no error of ours and of no cancelled prompt."""
    ends = re.findall(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)", log)
    wanted = re.compile(r"\S*(rechar_core(\.\w+)*\.\w+Error:|InterruptProcessingException)")
    return [f"traceback: {end[:200]}" for end in dict.fromkeys(ends) if not wanted.match(end)]


if __name__ == "__main__":
    sys.exit(main())
