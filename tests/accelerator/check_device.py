"""What the simulated device must do, whatever runs on it: `python check_device.py PACK FOLDER`."""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).parents[1])  # tests/

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from accelerator import checking  # noqa: E402
from accelerator.device import DEVICE, memory  # noqa: E402


@contextmanager
def raises(kind: type[BaseException], text: str) -> Iterator[None]:
    caught = None
    try:
        yield
    except kind as error:
        caught = str(error)
    assert caught is not None and text in caught, f"wanted {kind.__name__} with {text!r}, not {caught!r}"


def held() -> int:
    gc.collect()
    return memory.current


def network() -> nn.Module:
    """Convolution, norms, attention and linear layers."""
    torch.manual_seed(1)

    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(2).mT[:, None]
            return nn.functional.scaled_dot_product_attention(rows, rows, rows)[:, 0].mT.reshape(x.shape)

    body = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        Attention(),
        nn.Upsample(scale_factor=2),
    ]
    return nn.Sequential(
        *body, nn.Conv2d(8, 4, 3, stride=2), nn.Flatten(), nn.LayerNorm(4 * 7 * 7), nn.Linear(4 * 7 * 7, 5)
    )


def check_operations_on_two_devices_fail() -> None:
    cpu, sim = torch.randn(4, 5), torch.randn(4, 5, device=DEVICE)
    kernel, picture = torch.randn(2, 3, 3, 3), torch.randn(1, 3, 8, 8, device=DEVICE)
    rows = torch.tensor([0, 2])
    mixed: list[Callable[[], Any]] = [
        lambda: sim + cpu,
        lambda: cpu + sim,
        lambda: cpu.add_(sim),
        lambda: sim.mul_(cpu),
        lambda: sim @ cpu.mT,
        lambda: torch.cat([sim, cpu]),
        lambda: torch.where(sim > 0, sim, cpu),
        lambda: nn.functional.linear(sim, cpu),
        lambda: nn.functional.layer_norm(sim, (5,), torch.ones(5)),
        lambda: nn.functional.conv2d(picture, kernel),
        lambda: nn.functional.mse_loss(sim, cpu),
        lambda: nn.functional.embedding(rows, sim),
        lambda: sim.gather(0, torch.zeros(1, 5, dtype=torch.long)),
        lambda: sim.index_select(0, rows),
        lambda: torch._foreach_add([sim], [cpu]),
        lambda: nn.functional.scaled_dot_product_attention(sim[None, None], sim[None, None], cpu[None, None]),
    ]
    for number, operation in enumerate(mixed):
        with raises(RuntimeError, "Expected all tensors to be on the same device"):
            operation()
            raise AssertionError(f"operation {number} went through")
    with raises(RuntimeError, "on the same device"):
        cpu[rows.to(DEVICE)]
    with raises(TypeError, "can't convert sim:0 device type tensor to numpy"):
        sim.numpy()


def check_what_a_card_takes_of_the_cpu() -> None:
    """Indices, and numbers that are tensors without dimensions."""
    sim, cpu = torch.ones(4, 5, device=DEVICE), torch.ones(4, 5)
    assert (sim[torch.tensor([0, 2])].cpu() == 1).all()
    sim[torch.tensor([1])] = torch.tensor(3.0)
    cpu[torch.tensor([1])] = torch.tensor(3.0)
    assert torch.equal((sim * torch.tensor(2.0)).cpu(), cpu * 2)
    assert torch.equal(torch.where(sim > 1, sim, torch.tensor(0.0)).cpu(), torch.where(cpu > 1, cpu, 0.0))
    with raises(RuntimeError, "same device"):
        sim.index_select(0, torch.tensor(1))
    assert sim.sum().item() == cpu.sum().item() and sim.tolist() == cpu.tolist()


def check_a_backward_pass_on_two_devices_fails() -> None:
    class Stays(torch.autograd.Function):
        """Keeps a tensor of the CPU for its backward pass."""

        @staticmethod
        def forward(context: Any, x: Tensor, kept: Tensor) -> Tensor:
            context.save_for_backward(kept)
            return x * 2

        @staticmethod
        def backward(context: Any, grad: Tensor) -> Any:
            return grad * context.saved_tensors[0], None

    x = torch.randn(3, device=DEVICE, requires_grad=True)
    with raises(RuntimeError, "Expected all tensors to be on the same device"):
        Stays.apply(x, torch.ones(3)).sum().backward()


def check_modules_move_as_to_a_card() -> None:
    net = network()
    weight, kept = net[0].weight, copy.deepcopy(net.state_dict())
    net.to(DEVICE)
    assert net[0].weight is weight and weight.device == DEVICE and isinstance(weight, nn.Parameter)
    net.register_buffer("kept", torch.ones(3, device=DEVICE))
    twin = copy.deepcopy(net)
    assert twin.kept.tolist() == [1, 1, 1] and twin.kept.data_ptr() != net.kept.data_ptr()
    del net.kept
    assert all(parameter.device == DEVICE for parameter in twin.parameters())
    assert twin[0].weight.data_ptr() != weight.data_ptr()
    net.to("cpu", non_blocking=True)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in net.state_dict().items())
    net.load_state_dict({name: tensor.to(DEVICE) for name, tensor in kept.items()}, assign=True)
    assert net[0].weight.device == DEVICE


def check_bytes_are_those_of_storages() -> None:
    before = held()
    x = torch.empty(1000, device=DEVICE)
    assert held() - before == 4000
    views = [x[10:], x.view(10, 100), x.detach(), x.reshape(100, 10).mT, nn.Parameter(x)]
    assert held() - before == 4000
    half = x.half()
    assert held() - before == 6000
    x.add_(1).mul_(2)
    torch.add(x, x, out=x)
    assert held() - before == 6000
    del x, half
    assert held() - before == 4000
    del views
    assert held() == before


def check_a_graph_holds_what_it_saved() -> None:
    before = held()
    x = torch.ones(1000, device=DEVICE, requires_grad=True)
    loss = x.sin().square().sum()  # sin keeps x, square keeps sin's result
    assert held() - before == 8004
    loss.backward()
    assert held() - before == 8004  # the graph's is gone, the gradient is there
    del x, loss
    assert held() == before


def check_the_peak() -> None:
    before = held()
    memory.reset_peak()
    x = torch.empty(1000, device=DEVICE)
    del x
    assert (memory.peak - before, held()) == (4000, before)
    memory.reset_peak()
    assert memory.peak == before


def check_past_the_limit_memory_is_out() -> None:
    before = held()
    memory.limit = before + 4000
    try:
        x = torch.empty(1000, device=DEVICE)
        with raises(torch.cuda.OutOfMemoryError, "out of memory"):
            x + 1
        assert held() - before == 4000
        del x
        torch.empty(1000, device=DEVICE)
    finally:
        memory.limit = None


def check_the_limit_asks_for_memory_back_first() -> None:
    before = held()
    spare, asked = [torch.empty(500, device=DEVICE)], []

    def reclaim(size: int) -> None:
        asked.append(size)
        spare.clear()

    memory.limit, memory.reclaim = before + 4000, reclaim
    try:
        torch.empty(1000, device=DEVICE)
        assert asked == [2000]
    finally:
        memory.limit = memory.reclaim = None


def check_the_nth_allocation_fails() -> None:
    x = torch.ones(10, device=DEVICE)
    memory.fail_in = 2
    kept = x + 1
    with raises(torch.OutOfMemoryError, "out of memory"):
        x + 2
    assert (x + 3).cpu().eq(4).all() and kept.cpu().eq(2).all() and memory.fail_in is None


def check_an_allocation_fails_in_a_backward_pass() -> None:
    """It is raised where backward was called, as by a card."""
    x = torch.ones(1000, device=DEVICE, requires_grad=True)
    loss = x.sin().sum()
    memory.limit = held() + 100
    try:
        with raises(torch.OutOfMemoryError, "out of memory"):
            loss.backward()
    finally:
        memory.limit = None


def check_16_bit_operations_compute_in_fp32() -> None:
    """Each result is the fp32 one of the same numbers, rounded once; statistics of norms stay fp32."""
    torch.manual_seed(2)
    x, w = torch.randn(1, 8, 6, 6), torch.randn(8, 8, 3, 3)
    a, b, heads = torch.randn(5, 64), torch.randn(64, 7), torch.randn(1, 2, 9, 8)
    operations: list[Callable[..., Any]] = [
        lambda d: nn.functional.conv2d(d(x), d(w), d(x[0, :, 0, 0]), padding=1),
        lambda d: d(a) @ d(b),
        lambda d: nn.functional.linear(d(a), d(b.mT.contiguous()), d(a[0, :7])),
        lambda d: torch.bmm(d(a)[None], d(b)[None]),
        lambda d: nn.functional.scaled_dot_product_attention(d(heads), d(heads), d(heads)),
        lambda d: nn.functional.group_norm(d(x), 2, d(a[0, :8]), d(a[1, :8])),
        lambda d: nn.functional.layer_norm(d(a), (64,), d(a[0]), d(a[1])),
    ]
    for dtype in (torch.float16, torch.bfloat16):
        for operation in operations:
            made = operation(lambda t: t.to(DEVICE, dtype))  # noqa: B023
            wanted = operation(lambda t: t.to(dtype).float())  # noqa: B023
            assert made.dtype == dtype and made.device == DEVICE
            error = (made.float().cpu() - wanted).abs()
            assert (error <= wanted.abs() * torch.finfo(dtype).eps + 1e-6).all(), (dtype, error.max())


def check_16_bit_gradients_are_near_fp32s() -> None:
    grads = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        net = network().to(DEVICE, dtype)
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)).to(DEVICE, dtype)
        net(x).square().mean().backward()
        assert {parameter.grad.dtype for parameter in net.parameters()} == {dtype}
        grads[dtype] = torch.cat([parameter.grad.cpu().float().flatten() for parameter in net.parameters()])
    for dtype, least in ((torch.bfloat16, 0.99), (torch.float16, 0.9999)):
        assert torch.cosine_similarity(grads[dtype], grads[torch.float32], dim=0) > least, dtype


def check_results_that_change_their_size() -> None:
    """out= and resize_ give the device's tensor new memory, and the old is given back."""
    before = held()
    x = torch.arange(4.0, device=DEVICE)
    x.resize_(1000)
    assert x[:4].tolist() == [0, 1, 2, 3] and held() - before == 4000
    out = torch.empty(0, device=DEVICE)
    torch.index_select(x[:4], 0, torch.tensor([1, 3], device=DEVICE), out=out)
    assert out.tolist() == [1, 3]
    del x, out
    assert held() == before


def check_inference_mode_and_random_numbers() -> None:
    with torch.inference_mode():
        x = torch.randn(3, 3, device=DEVICE)
        assert (x @ x).is_inference()
    torch.manual_seed(5)
    ours = torch.randn(4, device=DEVICE), torch.rand(4, device=DEVICE), torch.randperm(9, device=DEVICE)
    torch.manual_seed(5)
    cpus = torch.randn(4), torch.rand(4), torch.randperm(9)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(ours, cpus))


def check_training_is_the_cpus() -> None:
    """AdamW, clipping, checkpointing and a scaler, in fp32: the same numbers."""
    from torch.utils.checkpoint import checkpoint

    trained = {}
    for place in (torch.device("cpu"), DEVICE):
        net = network().to(place)
        optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
        scaler = torch.amp.GradScaler(place.type)
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)).to(place)
        for _ in range(3):
            answer = net[4:](checkpoint(net[:4], x, use_reentrant=False))
            scaler.scale(nn.functional.mse_loss(answer, torch.ones_like(answer))).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
        trained[place.type] = [parameter.detach().cpu() for parameter in net.parameters()]
    for ours, cpus in zip(trained["sim"], trained["cpu"]):
        torch.testing.assert_close(ours, cpus, rtol=1e-5, atol=1e-6)


checking.main(globals(), Path(sys.argv[2]))
