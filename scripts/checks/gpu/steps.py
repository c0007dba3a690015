"""Whole training steps of each method, by the project's own loop, on images in memory."""

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from core.data.images import Arrays
from core.data.source import train_sampler
from core.run import config
from core.run.setup import build_state, start_fabric
from core.run.train import gradients_of, train
from scripts.checks.gpu.measure import ROOT, clock, profiled, settle, waits
from scripts.checks.gpu.report import Check

HALF = "trainer.precision=bf16-mixed"
GRAPHS = "trainer.compile=reduce-overhead"
ONE_GRAPH = "trainer.cuda_graph=true"
Variant = tuple[str, Sequence[str], float]  # name, overrides, seconds that it may need


class Steps:
    """A run of configs/NAME.yaml, one step at a time."""

    def __init__(self, check: Check, name: str, overrides: list[str], shape: tuple[int, int, int]):
        accelerator = f"trainer.accelerator={check.device.type}"
        self.run = config.read(str(ROOT / "configs" / f"{name}.yaml"), [accelerator, *overrides])
        self.fabric = start_fabric(self.run)
        size, n = self.run.optim.batch_size, 8192 if check.gpu else 64
        same = torch.Generator().manual_seed(0)
        images = torch.randint(256, (n, *shape), dtype=torch.uint8, generator=same)
        images = images.to(check.device)
        labels = torch.zeros(n, 1, dtype=torch.long, device=check.device)
        source = Arrays(images, labels, {"class": 1}).viewed(
            self.run.data.augment, self.run.data.compile
        )
        self.state, self.model, self.optimizer = build_state(self.fabric, self.run, shape)
        order = train_sampler(n, size, 0, 0, 10**6, device=self.fabric.device)
        self.batches = source.batches(order, self.state.method.views)
        self.steps = train(
            self.fabric, self.model, self.optimizer, self.state, self.batches, 10**6, n // size
        )

    def step(self) -> dict[str, torch.Tensor]:
        return next(self.steps)

    def without_views(self) -> Callable[[], None]:
        """A step on a batch that exists already: nothing is drawn, augmented or copied."""
        batch = next(self.batches)
        gradients = gradients_of(self.fabric, self.model, self.optimizer, self.state)

        def step() -> None:
            torch.compiler.cudagraph_mark_step_begin()
            gradients(batch)
            self.optimizer.step()
            if not self.run.trainer.cuda_graph:
                self.optimizer.zero_grad(set_to_none=True)
            self.state.method.after_step(0.1)

        return step


def measure(check: Check, name: str, steps: Steps) -> dict[str, Any]:
    """Images per second, waits of the host, work of the device, peak memory."""
    size, start = steps.run.optim.batch_size, time.perf_counter()
    first_loss = steps.step()["loss"].item()
    settle(check)
    row: dict[str, Any] = {"first_s": time.perf_counter() - start, "first_loss": first_loss}
    row["ms"] = _milliseconds(check, steps)
    row["images_per_s"] = 1e3 * size / row["ms"]
    row["waits"] = waits(check, steps.step)
    held = [steps.step()["loss"] for _ in range(3)]
    row["held_losses_survive"] = len({loss.data_ptr() for loss in held}) == 3
    if not row["held_losses_survive"]:
        check.fail(f"{name}: a step overwrites the loss of the step before")
    if check.gpu:
        row["peak_GiB"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    row["without_views_ms"] = clock(check, steps.without_views(), most=30, seconds=0.5)[0]
    row["profile"] = profiled(check, steps.step, 8 if check.gpu else 1)
    return row


def _milliseconds(check: Check, steps: Steps) -> float:
    for _ in range(6 if check.gpu else 1):
        steps.step()
    settle(check)
    start, taken = time.perf_counter(), 0
    while time.perf_counter() - start < (2.0 if check.gpu else 0.2):
        for _ in range(10 if check.gpu else 1):
            steps.step()
            taken += 1
    settle(check)
    return 1e3 * (time.perf_counter() - start) / taken


def compare(
    check: Check,
    name: str,
    variants: Sequence[Variant],
    small: Sequence[str],
    shape: tuple[int, int, int] = (3, 32, 32),
) -> None:
    """Measure the variants of a config while time is left; `small` makes them small on a CPU."""
    for variant, overrides, least in variants:
        title = f"{name}, {variant}"
        if not check.compiled and any("compile" in word for word in overrides):
            continue
        if not check.gpu and ONE_GRAPH in overrides:
            continue
        if check.gpu and check.left < least:
            check.say(f"{title}: skipped, {check.left:.0f} s left")
            continue
        torch._dynamo.reset()
        if check.gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            steps = Steps(check, name, [*overrides, *(() if check.gpu else small)], shape)
            row = measure(check, title, steps)
        except Exception as error:  # the other variants are still measured
            check.put(title, traceback.format_exc()[-3000:])
            check.fail(f"{title}: {type(error).__name__}: {str(error)[:300]}")
            continue
        check.put(title, row)
        _say(check, title, row)
        check.write()


def _say(check: Check, title: str, row: dict[str, Any]) -> None:
    profile = row["profile"]
    host = ", ".join(f"{name} {ms:.1f}" for name, ms in profile["host_ms"].items())
    top = "; ".join(f"{name[:40]} {ms:.2f} ms x{n:.0f}" for name, ms, n in profile["top"][:4])
    check.say(
        f"{title}: {row['images_per_s']:,.0f} images/s, {row['ms']:.2f} ms a step,"
        f" {row['without_views_ms']:.2f} ms without views; device busy"
        f" {profile['device_busy']:.0%}, {profile['kernels']:.0f} kernels,"
        f" {sum(row['waits'].values())} waits, first {row['first_s']:.0f} s; host {host} ms; {top}"
    )


SMALL = ("optim.batch_size=16", "model.backbone=small")


def simclr(check: Check) -> None:
    compare(
        check,
        "simclr_cifar10",
        [
            ("bf16", (HALF,), 15),
            ("bf16, one graph", (HALF, ONE_GRAPH), 15),
            ("bf16, compiled, one graph", (HALF, ONE_GRAPH, "trainer.compile=true"), 35),
            ("bf16, CUDA graphs", (HALF, GRAPHS), 35),
            ("float32", (), 15),
        ],
        SMALL,
    )


def moco(check: Check) -> None:
    compare(
        check,
        "moco_cifar10",
        [
            ("bf16", (HALF,), 15),
            ("bf16, K = 65,536", (HALF, "model.queue=65536"), 15),
            ("bf16, one graph", (HALF, ONE_GRAPH), 15),
        ],
        SMALL,
    )


def vae(check: Check) -> None:
    small = ("optim.batch_size=8",)
    narrow = (*small, "model.width=8")
    pixels = (*narrow, "model.pixel_width=12", "model.latent=8")
    variants = [("bf16", (HALF,), 10), ("bf16, one graph", (HALF, ONE_GRAPH), 10)]
    compare(check, "vlae_mnist", variants, small, (1, 28, 28))
    compare(check, "vlae_cifar10", variants, pixels)
    compare(check, "beta_vae_cifar10", variants, narrow)
