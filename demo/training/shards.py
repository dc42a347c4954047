"""Pictures on disk: `python -m demo.training.shards FOLDER COUNT` writes COUNT more shards of 512 pictures.

A shard is FOLDER/data/NUMBER.npz: pictures uint8 (n, 3, 256, 256); masks, elements uint8 (n, 128, 128), how much glyph
and elements cover; kinds uint16 (n,), a bit for each element; family uint8 (n,); flags uint8 (n,): 1 natural (no
glyph), 2 exactly black on white, 4 in a named style. A shard's number is its seed.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from ..pictures.batches import FAMILY_NAMES, Pictures, halved, random_batch
from ..pictures.elements import ELEMENTS

Array = np.ndarray
SHARD = 512
SEED = 20_000  # evaluation draws from other seeds
NATURAL, EXACT, NAMED = 1, 2, 4


def _bytes(images: torch.Tensor) -> Array:
    return (255 * images).round().to(torch.uint8).numpy()


def rows(batch: Pictures) -> dict[str, Array]:
    """A batch as a shard holds it."""
    count, plan = len(batch.pictures), batch.plan
    flags = NATURAL * plan.natural + EXACT * plan.exact + NAMED * (plan.style.palette is not None)
    return {
        "pictures": _bytes(batch.pictures),
        "masks": _bytes(halved(batch.masks)[:, 0]),
        "elements": _bytes(halved(batch.elements)[:, 0]),
        "kinds": np.array([sum(1 << ELEMENTS.index(k) for k in kinds) for kinds in batch.kinds], np.uint16),
        "family": np.full(count, FAMILY_NAMES.index(plan.style.family), np.uint8),
        "flags": np.full(count, flags, np.uint8),
    }


def render(number: int, count: int = SHARD) -> dict[str, Array]:
    """The pictures of shard `number`."""
    rng, found, total = np.random.default_rng(SEED + number), [], 0
    while total < count:
        found.append(rows(random_batch(rng)))
        total += len(found[-1]["flags"])
    return {name: np.concatenate([part[name] for part in found])[:count] for name in found[0]}


def write_shard(folder: Path, number: int) -> None:
    """Render shard `number` unless it is there."""
    path = folder / "data" / f"{number:04d}.npz"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{number:04d}.npz")
    np.savez(partial, **render(number))
    partial.rename(path)


def main() -> None:
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    first = len(list((folder / "data").glob("[0-9]*.npz")))
    for number in range(first, first + count):
        write_shard(folder, number)
        print(f"shard {number}", flush=True)


if __name__ == "__main__":
    main()
