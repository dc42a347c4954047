"""Train the demo model on one graphics card in a few minutes, from nothing or from demo/weights:

    python -m demo.card OUT --minutes 8

It makes its own data with the machine's cores while it trains, in bf16: the decoder first, then the UNet; two of the
cores teach the text encoders meanwhile. OUT gets the moving averages as safetensors files of less than 16 MB, to be put
into demo/weights, a sample sheet and report.json. `--device cpu --workers 1 --batch 4` tries it without a card.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from .training import shards
from .training.build import build_text_encoders
from .training.meanings import Meanings
from .training.resume import export_state, start_from_exported
from .training.samples import encode_shard
from .training.text import Language, TextTrainer
from .training.unet import UnetTrainer
from .training.vae import DecoderTrainer
from .training.views import Views

FIRST_SHARD = 100_000  # a card's shards have numbers, and with them seeds, that no processor's run has
DECODER_SHARE = 0.2  # of the time
PICTURE_SHARDS = 40  # whose pictures are kept for the decoder


def make_data(folder: Path, worker: int, workers: int, first: int, count: int) -> None:
    """Render and encode shards without end; the first are small, so that training can start."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    meanings, turn = Meanings(), 0
    while True:
        number = first + worker + workers * turn
        shard = shards.render(number, count if turn else max(16, count // 16))
        encoded = encode_shard(shard, meanings.latent)
        _save(encoded, folder / "codes" / f"{number}.pt")
        if number - first < PICTURE_SHARDS:
            partial = folder / "data" / f".{number}.npz"
            np.savez(partial, pictures=shard["pictures"])
            partial.rename(folder / "data" / f"{number}.npz")
        turn += 1


def _save(state: object, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    partial.rename(path)


def teach_text(folder: Path, which: int, minutes: float) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    trainer = TextTrainer(folder, which, build_text_encoders()[which], Language(Meanings()))
    trainer.run(minutes, fall=0.5)


def start_workers(options: argparse.Namespace, folder: Path, first: int) -> list[multiprocessing.Process]:
    for name in ("data", "codes"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"
    context, found = multiprocessing.get_context("spawn"), []
    for worker in range(options.workers):
        arguments = (folder, worker, options.workers, first, options.shard)
        found.append(context.Process(target=make_data, args=arguments, daemon=True))
    for which in (0, 1):
        arguments = (folder, which, max(0.3, options.minutes - 0.7))
        found.append(context.Process(target=teach_text, args=arguments, daemon=True))
    for process in found:
        process.start()
    return found


def wait_for(folder: Path, count: int, seconds: float) -> None:
    """Until there is data to train on. Raises SystemExit if none comes."""
    end = time.time() + seconds
    while len(list((folder / "data").glob("[0-9]*.npz"))) < count:
        if time.time() > end:
            raise SystemExit("No pictures were rendered: see the workers' messages above.")
        time.sleep(0.5)


def train(options: argparse.Namespace, folder: Path, began: float) -> dict[str, object]:
    """The decoder, then the UNet, until the time is over; what was reached."""
    device, meanings = options.device, Meanings()
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True

    def left() -> float:
        """Minutes; never nothing, however slow the start was."""
        return max(0.3, options.minutes - (time.time() - began) / 60)

    decoder = DecoderTrainer(folder, meanings.latent, device)
    decoder.run(
        DECODER_SHARE * left(), batch=max(8, options.batch // 4), log_every=20 if device == "cpu" else 100
    )
    steps = {"vae": decoder.checkpoint.step}
    print(f"decoder: {steps['vae']} steps", flush=True)
    del decoder
    unet = UnetTrainer(
        folder,
        meanings.latent,
        meanings.codes,
        device,
        options.batch,
        options.rate,
        average=0.999,
        encoded=True,
    )
    unet.run(left(), fall=0.5, most=options.workers)
    return {
        "steps": steps | {"unet": unet.checkpoint.step},
        "samples": len(unet.samples),
        "losses": unet.means,
        "minutes": (time.time() - began) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything but start and last sheet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 4) - 3))
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--shard", type=int, default=256, help="pictures that a worker renders at a time")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started, folder = time.time(), Path(tempfile.mkdtemp(prefix="demo_card_"))
    start_from_exported(folder)
    first = FIRST_SHARD + 10_000 * len(list(folder.glob("*.pt"))) + _steps(folder)
    workers = start_workers(options, folder, first)
    try:
        wait_for(folder, 1, 300)
        print(f"first pictures after {time.time() - started:.0f} s", flush=True)
        began = time.time()
        report = train(options, folder, began)
    finally:
        for process in workers[: options.workers]:
            process.terminate()
    for process in workers[options.workers :]:
        process.join(30)
    export_state(folder, options.out)
    print(json.dumps(report), flush=True)
    (options.out / "report.json").write_text(json.dumps(report, indent=1))
    torch.set_num_threads(options.workers)
    Views(folder, Meanings()).draw(int(report["steps"]["unet"]))
    for path in (folder / "views").glob("*.png"):
        shutil.copy(path, options.out)
    shutil.rmtree(folder)


def _steps(folder: Path) -> int:
    """How far the UNet is: a run that goes on draws new pictures."""
    path = folder / "unet.pt"
    return int(torch.load(path, weights_only=True)["step"]) if path.exists() else 0


if __name__ == "__main__":
    main()
