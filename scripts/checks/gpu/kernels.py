"""Times of the losses and the views alone. Each loss is compared with the shortest way to write it
in torch.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F

from contrastive.queue import KeyQueue
from core.data import fused_views, views
from core.information.losses import nt_xent, queue_loss
from core.randomness import KeyedRNG
from scripts.checks.gpu.measure import clock, graphed, profiled, settle, unit, waits
from scripts.checks.gpu.report import Check


def queue(check: Check) -> None:
    """MoCo's loss, its gradient and the enqueue, in milliseconds."""
    sizes = ((256, 65536), (1024, 4096), (512, 2**20)) if check.gpu else ((16, 512),)
    for n, k in sizes:
        query = unit(n, 128, 1, check.device).requires_grad_()
        key, ring = unit(n, 128, 2, check.device), KeyQueue(k, 128).to(check.device)

        def ours(half: bool, query: Any = query, key: Any = key, ring: Any = ring) -> Any:
            with torch.autocast(check.device.type, torch.bfloat16, enabled=half):
                loss = queue_loss(query, key, ring.keys, 0.1)
            ring.enqueue(key)
            return torch.autograd.grad(loss, query)

        def plain(half: bool, query: Any = query, key: Any = key, ring: Any = ring) -> Any:
            with torch.autocast(check.device.type, torch.bfloat16, enabled=half):
                own = (query * key).sum(1, keepdim=True)
                scores = torch.cat([own, query @ ring.keys.T], 1) / 0.1
                target = torch.zeros(len(query), dtype=torch.long, device=check.device)
                loss = F.cross_entropy(scores, target)
            gradient = torch.autograd.grad(loss, query)
            ring.enqueue(key)  # after the gradient, which needs the keys as they were
            return gradient

        ways = {
            "chunks": lambda: ours(False),
            "flash": lambda: ours(True),
            "plain float32": lambda: plain(False),
            "plain bf16": lambda: plain(True),
        }
        _race(check, f"queue N={n} K={k}", ways)


def in_batch(check: Check) -> None:
    """NT-Xent with its gradient, in milliseconds."""
    for n in (512, 4096) if check.gpu else (64,):
        first, second = (unit(n, 128, i, check.device).requires_grad_() for i in (1, 2))

        def plain(half: bool, a: Any = first, b: Any = second) -> Any:
            with torch.autocast(check.device.type, torch.bfloat16, enabled=half):
                z = torch.cat([a, b])
                scores = (z @ z.T / 0.5).fill_diagonal_(float("-inf")).float()
                target = torch.arange(len(z), device=z.device).roll(len(a))
                loss = F.cross_entropy(scores, target)
            return torch.autograd.grad(loss, (a, b))

        def ours(a: Any = first, b: Any = second) -> Any:
            return torch.autograd.grad(nt_xent(a, b, 0.5), (a, b))

        ways = {
            "ours": ours,
            "plain float32": lambda: plain(False),
            "plain bf16": lambda: plain(True),
        }
        _race(check, f"nt_xent N={n}", ways)


def _race(check: Check, name: str, ways: dict[str, Callable[[], Any]]) -> None:
    row: dict[str, Any] = {}
    for way, run in ways.items():
        try:
            row[way] = clock(check, run)
            if check.gpu:
                row[f"{way}, MiB"] = _memory(run)
                row[f"{way}, graph"] = clock(check, graphed(run))
        except RuntimeError as error:  # out of memory, or it can not be captured as a graph
            row[f"{way}, error"] = str(error)[:200]
    check.put(name, row)
    times = {way: found[0] for way, found in row.items() if isinstance(found, list)}
    check.say(f"{name} (ms): " + ", ".join(f"{way} {ms:.3f}" for way, ms in times.items()))


def _memory(run: Callable[[], Any]) -> float:
    """MiB that a call needs at its peak."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def make_views(check: Check) -> None:
    """The time to draw parameters, and to make two views of a batch: eager, compiled and by the
    Triton kernel.
    """
    n = 512 if check.gpu else 32
    images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8).to(check.device)
    chosen = views.policy("simclr", 32)
    for world in (1, 8, 64):
        start = time.perf_counter()
        for step in range(5):
            views.draw(n, 32, 32, KeyedRNG(0, step, 0, world), chosen)
        check.put(f"draw_ms_{world}_processes", 200 * (time.perf_counter() - start))
    for compiled in (False, True)[: 1 + check.compiled]:
        name, used = "compiled" if compiled else "eager", replace(chosen, compile=compiled)
        with _without_the_kernel():
            _time_views(check, name, images, used)
    if fused_views.serves(images, chosen.size):
        _time_views(check, "one Triton kernel", images, chosen)


@contextmanager
def _without_the_kernel() -> Iterator[None]:
    before, fused_views.LARGEST = fused_views.LARGEST, 0
    try:
        yield
    finally:
        fused_views.LARGEST = before


def _time_views(check: Check, name: str, images: torch.Tensor, policy: views.Policy) -> None:
    steps = count()

    def make() -> Any:
        rng = KeyedRNG(0, next(steps), device=check.device)
        return views.augmented(images, [rng.fork("view0"), rng.fork("view1")], policy)

    start = time.perf_counter()
    make()
    settle(check)
    row: dict[str, Any] = {
        "first_s": time.perf_counter() - start,
        "ms": clock(check, make),
        "profile": profiled(check, make, 5),
        "waits": waits(check, make),
    }
    row["views_per_s"] = 2e3 * len(images) / row["ms"][0]
    check.put(name, row)
    check.say(
        f"views, {name}: {row['views_per_s']:,.0f}/s, {row['ms'][0]:.2f} ms for two,"
        f" {row['profile']['kernels']:.0f} kernels,"
        f" device busy {row['profile']['device_busy']:.0%}, {sum(row['waits'].values())} waits,"
        f" first {row['first_s']:.1f} s"
    )
