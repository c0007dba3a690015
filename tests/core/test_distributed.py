"""Two processes (gloo) give the same gradients as one process with the whole batch, and a
well-known wrong variant does not.
"""

import os

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from core.distributed import gather, rank, single_process, world
from core.information.losses import nt_xent_and_in_batch
from tests.front_door import run_in_processes
from vae.rate import RateConfig, RateSchedule


def weight() -> torch.Tensor:
    return torch.randn(
        6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()


def views(which: int) -> torch.Tensor:
    return torch.randn(
        8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1 + which)
    )


def loss_of(w: torch.Tensor, rows: slice) -> torch.Tensor:
    first, second = (F.normalize(views(v)[rows] @ w, dim=1) for v in (0, 1))
    return nt_xent_and_in_batch(first, second, 0.2)[0]


def objective_of(w: torch.Tensor, rows: slice) -> torch.Tensor:
    """Free bits: some groups are below the limit on one half of the batch and no group is on the
    other half, so that the global mean matters.
    """
    schedule = RateSchedule(RateConfig("free_bits", nats=0.8), 4)
    x = views(0) * (torch.arange(8) < 4)[:, None].double().add(0.2)
    return schedule((x[rows] @ w).square(), (x[rows] @ w).sum(1))


def followed(rows: slice) -> torch.Tensor:
    """The multiplier after one step with this process's part of the batch."""
    schedule = RateSchedule(RateConfig("target_rate", nats=2.0), 6)
    schedule(views(0)[rows].square().float(), views(1)[rows].sum(1).float())
    schedule.after_step(0.5)
    return schedule.price


def process(number: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=number, world_size=2)
    assert (rank(), world()) == (number, 2)
    rows = slice(4 * number, 4 * number + 4)
    w = weight()
    loss_of(w, rows).backward()
    dist.all_reduce(w.grad)
    charged = weight()
    objective_of(charged, rows).backward()
    dist.all_reduce(charged.grad)
    price = followed(rows)
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
    with single_process():
        assert world() == 1 and rank() == 0 and torch.equal(gather(first), first)
    if number == 0:
        torch.save([w.grad / 2, wrong.grad / 2, charged.grad / 2, price], f"{folder}/gradients")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory) -> list[torch.Tensor]:
    """Results of two processes: gradients of NT-Xent (right and wrong) and of a schedule, and a
    multiplier.
    """
    folder = tmp_path_factory.mktemp("two")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    run_in_processes(process, 2, str(folder))
    return torch.load(folder / "gradients", weights_only=True)


def test_a_schedule_charges_and_follows_the_rate_of_the_global_batch(by_two):
    _, _, charged, price = by_two
    w = weight()
    objective_of(w, slice(0, 8)).backward()
    torch.testing.assert_close(charged, w.grad, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(price, followed(slice(0, 8)), rtol=1e-6, atol=0)
    apart = weight()
    (objective_of(apart, slice(0, 4)) + objective_of(apart, slice(4, 8))).div(2).backward()
    assert (apart.grad - w.grad).norm() > 0.01 * w.grad.norm(), (
        "the mean of two objectives is a different number"
    )


def test_gathered_nt_xent_has_the_gradient_of_one_process(by_two):
    right, wrong = by_two[:2]
    w = weight()
    loss_of(w, slice(0, 8)).backward()
    torch.testing.assert_close(right, w.grad, rtol=1e-9, atol=1e-12)
    assert (wrong - w.grad).norm() > 0.1 * w.grad.norm()
