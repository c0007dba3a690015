"""Times, waits and kernels of a call on a device."""

import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from core.run.profile import PHASES
from scripts.checks.gpu.report import Check

ROOT = Path(__file__).parents[3]


def settle(check: Check) -> None:
    if check.gpu:
        torch.cuda.synchronize()


def clock(
    check: Check, run: Callable[[], Any], most: int = 50, seconds: float = 0.4
) -> list[float]:
    """Milliseconds of a call: median, lower and upper quartile. On a GPU they are measured between
    two events around each call, so the time in which the GPU waits for Python is included.
    """
    for _ in range(3):
        run()
    settle(check)
    began = time.perf_counter()
    times: list[float] = []
    while len(times) < 5 or (len(times) < most and time.perf_counter() - began < seconds):
        if check.gpu:
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            first.record()
            run()
            last.record()
            last.synchronize()
            times.append(first.elapsed_time(last))
        else:
            start = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - start))
    times.sort()
    return [times[len(times) * quarter // 4] for quarter in (2, 1, 3)]


def graphed(run: Callable[[], Any]) -> Callable[[], None]:
    """The same work as a CUDA graph that is replayed: kernels without the time to launch them."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def waits(check: Check, run: Callable[[], Any]) -> dict[str, int]:
    """Where in our code the host waits for the device, according to torch: place -> count."""
    if not check.gpu:
        return {}
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    places: dict[str, int] = {}
    for warning in heard:
        if "synchroniz" in str(warning.message):
            place = f"{warning.filename.removeprefix(f'{ROOT}/')}:{warning.lineno}"
            places[place] = places.get(place, 0) + 1
    return places


def profiled(check: Check, run: Callable[[], Any], steps: int) -> dict[str, Any]:
    """The profile of `steps` calls, each of which is one step:

        wall_ms      milliseconds per step
        device_busy  the share of the time in which a kernel runs
        kernels      kernels per step
        host_ms      the host's milliseconds per step in each phase of a training step
        top          the slowest kernels: (name, milliseconds per step, calls per step)

    On a CPU, operators are counted instead of kernels.
    """
    settle(check)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * check.gpu
    with profile(activities=activities) as trace:
        start = time.perf_counter()
        for _ in range(steps):
            run()
        settle(check)
        wall = time.perf_counter() - start
    spans: list[tuple[float, float]] = []
    by_name: dict[str, tuple[float, int]] = {}
    host = dict.fromkeys(PHASES, 0.0)
    for event in trace.events():
        if _is_work(event, check.gpu):
            spans.append((event.time_range.start, event.time_range.end))
            spent = event.time_range.elapsed_us() if check.gpu else event.self_cpu_time_total
            total, count = by_name.get(event.name, (0.0, 0))
            by_name[event.name] = total + spent, count + 1
        elif event.name in host and event.device_type == torch.autograd.DeviceType.CPU:
            host[event.name] += event.time_range.elapsed_us() / 1e3 / steps
    top = sorted(by_name.items(), key=lambda item: -item[1][0])[:25]
    return {
        "wall_ms": 1e3 * wall / steps,
        "device_busy": _covered(spans) / 1e6 / wall,
        "kernels": len(spans) / steps,
        "host_ms": host,
        "top": [[name[:90], us / 1e3 / steps, n / steps] for name, (us, n) in top],
    }


def _is_work(event: Any, gpu: bool) -> bool:
    if gpu:
        on_device = event.device_type != torch.autograd.DeviceType.CPU
        # spans of the program's own phases are shown beside the kernels
        return on_device and event.name not in PHASES and not event.name.startswith("Optimizer.")
    return event.name.startswith("aten::")


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, end = 0.0, -math.inf
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def relative(found: Tensor, exact: Tensor, least: float = 1e-300) -> float:
    """|found - exact| / max(|exact|, least) in the 2-norm, in float64 on the CPU."""
    a, b = (x.detach().double().cpu() for x in (found, exact))
    return ((a - b).norm() / b.norm().clamp(min=least)).item()


def unit(n: int, d: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """n unit vectors [n, d] that are the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(n, d, generator=generator), dim=1).to(device)
