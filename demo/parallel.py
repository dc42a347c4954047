"""Two single-thread processes share one training: gradients are averaged through one flat gloo all-reduce."""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

RANK = int(os.environ.get("RANK", "0"))
WORLD = int(os.environ.get("WORLD_SIZE", "1"))


def start() -> None:
    """One thread a process, subnormals flushed, and the process group if there is more than one."""
    torch.set_num_threads(int(os.environ.get("DEMO_THREADS", "1")))
    torch.set_flush_denormal(True)
    if WORLD > 1:
        port = os.environ.get("MASTER_PORT", "29511")
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=RANK, world_size=WORLD)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes."""
    if WORLD == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    flat /= WORLD
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def any_process(flag: bool) -> bool:
    """True in every process as soon as it is true in one."""
    if WORLD == 1:
        return flag
    vote: Tensor = torch.tensor([float(flag)])
    dist.all_reduce(vote, op=dist.ReduceOp.MAX)
    return bool(vote.item() > 0)
