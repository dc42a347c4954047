"""Train the demo model anew, by one command, on any processor, again and again:

    python -m demo.train --folder /work/train --minutes 600

It takes turns: renders more pictures, trains the VAE's decoder, the text encoders, and mostly the UNet. Everything is
in FOLDER and goes on from there; where FOLDER is empty, weights exported to demo/weights start it. Stop it at any time:
each part saves every three minutes. `--finish` lets the UNet's learning rate fall over this run: use it for the last
one. `python -m demo.training.resume FOLDER` writes the moving averages to demo/weights, to be committed.
"""

import argparse
import time
from pathlib import Path

import torch

from .training import shards
from .training.build import build_text_encoders
from .training.meanings import Meanings
from .training.resume import start_from_exported
from .training.text import Language, TextTrainer
from .training.unet import UnetTrainer
from .training.vae import DecoderTrainer
from .training.views import Views

PICTURES = 80  # shards of 512
VAE_STEPS, TEXT_STEPS = 12_000, 8_000  # enough; what is left goes to the UNet
SLICE = 9.0  # minutes of one turn
VIEW_EVERY = 40.0  # minutes between sample sheets


class Run:
    """The trainers, made when they are first needed, and whose turn it is."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.folder = options, options.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        start_from_exported(self.folder)
        if not list((self.folder / "data").glob("[0-9]*.npz")):
            shards.write_shard(self.folder, 0)
        self.meanings = Meanings()
        self.parts: dict[str, object] = {}
        self.viewed = time.time()

    def vae(self) -> DecoderTrainer:
        return self.part("vae", lambda: DecoderTrainer(self.folder, self.meanings.latent))

    def text(self, which: int) -> TextTrainer:
        def make() -> TextTrainer:
            return TextTrainer(self.folder, which, build_text_encoders()[which], Language(self.meanings))

        return self.part(f"text{which}", make)

    def unet(self) -> UnetTrainer:
        o = self.options
        return self.part(
            "unet",
            lambda: UnetTrainer(
                self.folder, self.meanings.latent, self.meanings.codes, batch=o.batch, rate=o.rate
            ),
        )

    def part(self, name: str, make: object) -> object:
        if name not in self.parts:
            self.parts[name] = make()
        return self.parts[name]

    def turn(self, minutes: float) -> None:
        """One round of everything that is not finished."""
        fall, only = (1.0 if self.options.finish else 0.0), self.options.only
        wanted = {"vae", "text", "shards", "unet"} if not only else {only}
        vae = "vae" in wanted and self.vae().checkpoint.step < VAE_STEPS
        text = "text" in wanted and self.text(1).checkpoint.step < TEXT_STEPS
        share = {"vae": 0.25 * vae, "text": 0.1 * text}
        have = len(list((self.folder / "data").glob("[0-9]*.npz")))
        began = time.time()
        if "shards" in wanted and have < PICTURES:
            shards.write_shard(self.folder, have)
        if vae:
            self.vae().run(minutes * share["vae"] if len(wanted) > 1 else minutes)
        if text:
            for which in (0, 1):
                self.text(which).run(minutes * share["text"] / 2 if len(wanted) > 1 else minutes / 2)
        left = minutes - (time.time() - began) / 60
        if "unet" in wanted:
            self.unet().run(max(left, 0.4 * minutes), fall)
            if time.time() - self.viewed > 60 * VIEW_EVERY:
                Views(self.folder, self.meanings).draw(self.unet().checkpoint.step)
                self.viewed = time.time()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--only", choices=("vae", "text", "shards", "unet"), help="train this part alone")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument(
        "--finish", action="store_true", help="let the UNet's rate fall over the whole of this run"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    run, end = Run(options), time.time() + 60 * options.minutes
    while (left := (end - time.time()) / 60) > 0.05:
        run.turn(left if options.finish or left < 1.5 * SLICE else SLICE)


if __name__ == "__main__":
    main()
