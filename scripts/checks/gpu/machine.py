"""The device, and the two rates that limit everything on it."""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from core.information import flash
from core.machine import gigaflops
from scripts.checks.gpu.measure import clock, settle
from scripts.checks.gpu.report import Check


def machine(check: Check) -> None:
    """Versions, the setting for float32 products, bytes and operations per second, and the time of
    a launch and of a copy.
    """
    facts: dict[str, Any] = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if not check.gpu:
        facts["cpu_gigaflops"] = round(gigaflops())
    else:
        properties = torch.cuda.get_device_properties(0)
        facts["device"] = properties.name
        facts["multiprocessors"] = properties.multi_processor_count
        facts["cudnn"] = torch.backends.cudnn.version()
        facts["tf32"] = {
            "matmul": torch.backends.cuda.matmul.allow_tf32,
            "conv": torch.backends.cudnn.allow_tf32,
            "benchmark": torch.backends.cudnn.benchmark,
        }
        facts |= _rates(check) | _overheads(check)
        facts["flash_kernel"] = flash.kernel(check.device) is not None
    for name, value in facts.items():
        check.put(name, value)
    check.say("machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()))


def _rates(check: Check) -> dict[str, float]:
    source, target = (torch.empty(2**30, dtype=torch.uint8, device=check.device) for _ in range(2))
    found = {"copy_TB_per_s": 2 * 2**30 / clock(check, lambda: target.copy_(source))[0] / 1e9}
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(8192, 8192, device=check.device, dtype=dtype)
        took = clock(check, partial(torch.matmul, x, x), most=10)[0]
        found[f"product_TFLOP_per_s_{str(dtype)[6:]}"] = 2 * 8192**3 / took / 1e9
    return found


def _overheads(check: Check) -> dict[str, float]:
    one, host = torch.zeros(1, device=check.device), torch.zeros(512)
    pinned = host.pin_memory()

    def microseconds(run: Callable[[], Any], times: int) -> float:
        settle(check)
        start = time.perf_counter()
        for _ in range(times):
            run()
        return 1e6 * (time.perf_counter() - start) / times

    return {
        "launch_us": microseconds(lambda: one.add_(1), 2000),
        "pageable_copy_us": microseconds(lambda: host.to(check.device), 500),
        "pinned_copy_us": microseconds(lambda: pinned.to(check.device, non_blocking=True), 500),
    }
