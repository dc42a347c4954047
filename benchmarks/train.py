"""Ours, the published trainer and ComfyUI's own trainer, side by side in one run.

    python -m benchmarks.train [--quick] [--steps N] [--json FILE] [--no-host]

A 240 M model of SDXL's architecture with random weights at 256 pixels, one thread, CPU seconds. Each trainer runs in
its own process. ComfyUI is found by COMFYUI_PATH and COMFYUI_PYTHON as in the tests, and takes part with the shipped
demo model. On a graphics card: benchmarks/gpu.py.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def main() -> int:
    options = parse()
    if options.one:
        return one(options)
    kind = "quick" if options.quick else "cpu"
    steps = options.steps or {"quick": 4, "cpu": 12}[kind]
    names = ["published", "ours, fast", "ours, normal", "ours, low"]
    with tempfile.TemporaryDirectory() as folder:
        results = {name: child(name, kind, steps, Path(folder)) for name in names}
        report: dict[str, Any] = {"kind": kind, "steps": steps, "diffusers": compared(results, Path(folder))}
    if not options.no_host:
        report["host"] = host(4 if options.quick else 16)
    show(report)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.json}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smaller model and fewer steps")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "train.json")
    parser.add_argument("--no-host", action="store_true", help="without ComfyUI's trainer")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def child(name: str, kind: str, steps: int, folder: Path) -> dict[str, Any]:
    """Runs one trainer in a new process."""
    print(f"{name} ...", flush=True)
    command = [sys.executable, "-m", "benchmarks.train", "--one", name, "--kind", kind]
    command += ["--steps", str(steps), "--folder", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def one(options: argparse.Namespace) -> int:
    """In the child: build, run, measure; the weight changes go into a file, the rest to stdout."""
    import torch
    from safetensors.torch import save_file

    from benchmarks.baselines import SIZES, build_unet, build_vae, trainers
    from benchmarks.measure import measured
    from rechar_core.training.recipe import TrainingRecipe

    torch.set_num_threads(1)
    size = SIZES[options.kind]
    recipe = TrainingRecipe(rank=size.rank, steps=options.steps, resolution=size.pixels)
    warm = max(1, options.steps // 4)
    # two lengths, to tell a step's cost from the set-up's; the second finds memory that the first left behind
    costs = {}
    for steps in (options.steps, warm):
        unet, vae = build_unet(size, "cpu", torch.float32), build_vae(size, "cpu")
        run = dict(trainers(size))[options.one]
        with measured() as costs[steps]:
            losses, deltas = run(unet, vae, replace(recipe, steps=steps))
        if steps == options.steps:
            found = {
                "losses": losses,
                "parameters": sum(p.numel() for p in unet.parameters() if not p.requires_grad),
            }
            changes = {k: v.float().cpu().contiguous() for k, v in deltas().items()}
            save_file(changes, options.folder / f"{options.one}.safetensors")
        unet = vae = deltas = None  # all three hold on to the UNet: it goes before the next one comes
    cost = costs[options.steps]
    steady = (cost.seconds - costs[warm].seconds) / (options.steps - warm)
    found |= {
        **vars(cost),
        "per_step": cost.seconds / options.steps,
        "steady": steady,
        "thousand_steps": cost.seconds + (1000 - options.steps) * steady,
    }
    print(json.dumps(found))
    return 0


def compared(results: dict[str, dict[str, Any]], folder: Path) -> dict[str, Any]:
    """The results with their differences from the published run's losses and weight changes."""
    import torch
    from safetensors.torch import load_file

    theirs = load_file(folder / "published.safetensors")
    for name, result in results.items():
        mine = load_file(folder / f"{name}.safetensors")
        difference = torch.cat([(mine[k] - theirs[k]).flatten() for k in theirs]).norm()
        norm = torch.cat([t.flatten() for t in theirs.values()]).norm()
        losses = zip(result["losses"], results["published"]["losses"], strict=True)
        result |= {
            "loss_distance": max(abs(a - b) for a, b in losses),
            "delta_distance": float(difference / norm),
            "times_published": results["published"]["per_step"] / result["per_step"],
            "times_published_steady": results["published"]["steady"] / result["steady"],
        }
    return results


def host(steps: int) -> dict[str, Any] | None:
    """ComfyUI's trainer and ours, in ComfyUI's Python, on the demo model, by picture size; None without ComfyUI."""
    folder = Path(os.environ.get("COMFYUI_PATH") or "~/comfy/ComfyUI").expanduser()
    if not (folder / "main.py").is_file():
        print(f"no ComfyUI in {folder}: left out")
        return None
    found = {}
    for pixels in (256, 512):  # the demo model's own size, and twice that
        results = {}
        for name in ("native", "ours, fast", "ours, normal", "ours, low"):
            print(f"in ComfyUI, {pixels} pixels: {name} ...", flush=True)
            results[name] = in_host(folder, name, steps, pixels, "cost")
            results[name]["tensors"] = in_host(folder, name, 2, pixels, "tensors")["added"]
        native = results["native"]
        for result in results.values():
            result["times_native"] = native["per_step"] / result["per_step"]
            result["memory_of_native"] = result["added"] / native["added"]
            result["tensors_of_native"] = result["tensors"] / native["tensors"]
        found[str(pixels)] = results
    return found


def in_host(folder: Path, name: str, steps: int, pixels: int, what: str) -> dict[str, Any]:
    """One run in ComfyUI's Python, in a fresh process."""
    own = folder / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    python = os.environ.get("COMFYUI_PYTHON") or (str(own) if own.is_file() else sys.executable)
    script = str(ROOT / "benchmarks" / "in_host.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as base:
        command = [python, "-s", script, str(ROOT), base, name, str(steps), str(pixels), what]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
    return json.loads(done.stdout.splitlines()[-1])


def show(report: dict[str, Any]) -> None:
    first = report["diffusers"]["published"]
    print(f"\n{first['parameters'] / 1e6:.0f} M parameters, {report['steps']} steps, set-up included")
    print(
        f"{'':14}{'CPU s a step':>14}{'x published':>13}{'added MB':>10}{'loss diff':>11}{'delta diff':>12}"
    )
    for name, r in report["diffusers"].items():
        print(
            f"{name:14}{r['per_step']:14.3f}{r['times_published']:13.2f}{r['added'] / 2**20:10.0f}"
            f"{r['loss_distance']:11.1e}{r['delta_distance']:12.1e}"
        )
        print(
            f"{'':14}{r['steady']:14.3f}{r['times_published_steady']:13.2f}  without set-up; "
            f"1000 steps with it {r['thousand_steps']:.0f} CPU s"
        )
    for pixels, results in (report.get("host") or {}).items():
        print(f"\nin ComfyUI, demo model, {pixels} pixels")
        print(
            f"{'':14}{'CPU s a step':>14}{'x native':>13}{'added MB':>10}{'of native':>11}{'tensors MB':>12}"
        )
        for name, r in results.items():
            print(
                f"{name:14}{r['per_step']:14.3f}{r['times_native']:13.2f}{r['added'] / 2**20:10.0f}"
                f"{r['memory_of_native']:11.2f}{r['tensors'] / 2**20:12.1f}"
            )


if __name__ == "__main__":
    sys.exit(main())
