"""MoCo's loss, its gradient and the enqueueing: `queue_loss` and `KeyQueue` against lightly's
NTXentLoss with a memory bank.

On a GPU both run in float32 (where we use chunks) and in autocast (where we use flash attention).
Our code also runs as a CUDA graph, which shows the kernels without the time that Python needs to
launch them. lightly's code can not be captured, because it reads its pointer from the device.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss

from contrastive.queue import KeyQueue
from core.information import flash
from core.information.losses import queue_loss
from scripts.benches.contest import Contest, within

TEMPERATURE, DIMENSIONS, QUERIES = 0.1, 128, 256


def contests(device: torch.device) -> Iterator[Contest]:
    gpu = device.type == "cuda"
    for length, target in ((4096, None), (65536, 4.0 if gpu else 5.5)):
        yield contest(length, target, device)
        if gpu:
            yield contest(length, target, device, half=True)
            yield contest(length, target, device, half=True, graph=True)


def contest(
    length: int, target: float | None, device: torch.device, half: bool = False, graph: bool = False
) -> Contest:
    generator = torch.Generator().manual_seed(length)
    shape = QUERIES, DIMENSIONS
    query, key = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    query.requires_grad_()
    queue = KeyQueue(length, DIMENSIONS).to(device)
    theirs = NTXentLoss(TEMPERATURE, (length, DIMENSIONS)).to(device)
    theirs.memory_bank.bank.copy_(queue.keys)

    def ours() -> tuple[torch.Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            unit = F.normalize(key, dim=1)  # the peer normalises, too
            loss = queue_loss(F.normalize(query, dim=1), unit, queue.keys, TEMPERATURE)
            queue.enqueue(unit)
        return (loss, *torch.autograd.grad(loss, query))

    def peer() -> tuple[torch.Tensor, ...]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = theirs(query, key)
        return (loss, *torch.autograd.grad(loss, query))

    def same(ours: tuple[torch.Tensor, ...], peer: tuple[torch.Tensor, ...]) -> str:
        # in autocast, lightly's logits are bfloat16
        error = within(ours, peer, 1e-2 if half else 1e-5)
        assert (theirs.memory_bank.bank - queue.keys).abs().max() < 1e-6, "the queues differ"
        serves = not half or flash.serves(query, queue.keys, 1 / TEMPERATURE)
        assert serves, "no flash attention here"
        return f"loss and gradient within {error:.0e}"

    name = f"MoCo, N = {QUERIES}, K = {length:,}, D = {DIMENSIONS}"
    name += ", half precision" * half + ", as a CUDA graph" * graph
    mine = replayed(ours, queue) if graph else ours
    other = "lightly NTXentLoss with memory bank"
    return Contest(name, mine, other, peer, same, target, memory=not graph)


def replayed(
    run: Callable[[], tuple[torch.Tensor, ...]], state: torch.nn.Module
) -> Callable[[], tuple[torch.Tensor, ...]]:
    """The same work as a CUDA graph. `state` is restored, because capturing changes it."""
    before = {name: value.clone() for name, value in state.state_dict().items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()  # the first call makes allocations that must not be captured
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made = run()
    state.load_state_dict(before)

    def replay() -> tuple[torch.Tensor, ...]:
        graph.replay()
        return made

    return replay
