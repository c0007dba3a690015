"""Two processes (gloo) give the gradients of one that holds the whole batch, and the well-known wrong variant does not."""

from core.distributed import alone, gather, rank, world
from core.infonce import nt_xent

import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F


def weight() -> torch.Tensor:
    return torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def views(which: int) -> torch.Tensor:
    return torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1 + which))


def loss_of(w: torch.Tensor, rows: slice) -> torch.Tensor:
    first, second = (F.normalize(views(v)[rows] @ w, dim=1) for v in (0, 1))
    return nt_xent(first, second, 0.2)[0]


def process(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    assert (rank(), world()) == (number, 2)
    rows = slice(4 * number, 4 * number + 4)
    w = weight()
    loss_of(w, rows).backward()
    dist.all_reduce(w.grad)
    wrong = weight()  # gathered candidates without their gradient
    first, second = (F.normalize(views(v)[rows] @ wrong, dim=1) for v in (0, 1))
    with torch.no_grad():
        everyone = gather(first), gather(second)
    both, mine = torch.cat([first, second]), torch.arange(4) + 4 * number
    logits = both @ torch.cat(everyone).T / 0.2
    own, other = torch.cat([mine, mine + 8]), torch.cat([mine + 8, mine])
    logits = logits.index_put((torch.arange(8), own), logits.new_tensor(-torch.inf))
    F.cross_entropy(logits, other).backward()
    dist.all_reduce(wrong.grad)
    with alone():
        assert world() == 1 and rank() == 0 and torch.equal(gather(first), first)
    if number == 0:
        torch.save([w.grad / 2, wrong.grad / 2], f"{folder}/gradients")
    dist.destroy_process_group()


def test_gathered_nt_xent_has_the_gradient_of_one_process(tmp_path):
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.spawn(process, (str(tmp_path),), nprocs=2)
    right, wrong = torch.load(tmp_path / "gradients", weights_only=True)
    w = weight()
    loss_of(w, slice(0, 8)).backward()
    torch.testing.assert_close(right, w.grad, rtol=1e-9, atol=1e-12)
    assert (wrong - w.grad).norm() > 0.1 * w.grad.norm()
