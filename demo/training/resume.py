"""What a training leaves in the repository, and starts from where its folder was lost: demo/weights/*.safetensors.

Each file holds one part's moving average in fp16 and its step; optimizer moments are not kept.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

KEPT = Path(__file__).parent.parent / "weights"
LARGEST = 15_000_000  # bytes of a file: what may come back from a card at once
PARTS = ("unet", "vae", "text_encoder", "text_encoder_2")


def export_state(folder: Path, target: Path = KEPT) -> None:
    """Write the moving averages in FOLDER to demo/weights (or another folder), in files of at most 15 MB."""
    target.mkdir(exist_ok=True)
    for part in PARTS:
        path = folder / f"{part}.pt"
        if path.exists():
            state = torch.load(path, weights_only=True, map_location="cpu")
            tensors = {name: tensor.half().contiguous() for name, tensor in state["average"].items()}
            for number, piece in enumerate(_pieces(tensors)):
                save_file(
                    piece, target / f"{part}.{number}.safetensors", metadata={"step": str(state["step"])}
                )


def _pieces(tensors: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The tensors in order, cut where a file would grow beyond `LARGEST`."""
    found: list[dict[str, torch.Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size + tensor.nbytes > LARGEST:
            found.append({})
            size = 0
        found[-1][name] = tensor
        size += tensor.nbytes
    return found


def start_from_exported(folder: Path) -> None:
    """Give FOLDER a checkpoint for each part that it lacks and demo/weights has."""
    for part in PARTS:
        kept, path = sorted(KEPT.glob(f"{part}.[0-9].safetensors")), folder / f"{part}.pt"
        if path.exists() or not kept:
            continue
        tensors, step = {}, 0
        for piece in kept:
            with safe_open(str(piece), framework="pt") as file:
                tensors |= {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
                step = int((file.metadata() or {}).get("step", "0"))
        torch.save({"step": step, "weights": tensors, "average": tensors}, path)
        print(f"{part}: goes on from step {step} in {KEPT}", flush=True)


def main() -> None:
    import sys

    export_state(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
