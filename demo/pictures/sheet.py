"""Look at the data: `python -m demo.pictures.sheet OUT.png [SEED]` draws 96 random training pictures."""

import sys

import numpy as np
import torch
from PIL import Image

from .batches import random_batch


def main() -> None:
    torch.set_num_threads(1)
    rng, found = np.random.default_rng(int(sys.argv[2]) if sys.argv[2:] else 0), []
    while len(found) < 96:
        found += list(random_batch(rng, 2).pictures[:1])
    rows = [torch.cat(found[12 * row : 12 * row + 12], 2) for row in range(8)]
    sheet = torch.cat(rows, 1).permute(1, 2, 0).numpy()
    Image.fromarray((sheet * 255).round().astype(np.uint8)).save(sys.argv[1])


if __name__ == "__main__":
    main()
