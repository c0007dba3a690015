"""Whole runs by the command line. A run that was interrupted and resumed is compared with two
uninterrupted runs. SimCLR is trained on CIFAR-10 for as long as time allows.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from core.run import checkpoint
from core.run.preemption import REQUEUE
from scripts.checks.gpu.measure import ROOT
from scripts.checks.gpu.report import Check


def resume(check: Check) -> None:
    """With `trainer.deterministic`, two equal runs and a resumed one must have the same weights,
    bit for bit. Without it, the difference of two equal runs is measured.
    """
    folder = Path(tempfile.mkdtemp())
    started = {name: _start(check, folder / name) for name in ("whole", "again")}
    free = "trainer.deterministic=false"
    started |= {name: _start(check, folder / name, free) for name in ("free", "free_again")}
    codes = {name: _wait(check, process) for name, process in started.items()}
    broken = _start(check, folder / "broken")
    _wait_for_a_step(folder / "broken", broken, min(60.0, check.left - 20))
    broken.send_signal(signal.SIGTERM)
    codes["stopped"] = _wait(check, broken)
    codes["resumed"] = _wait(check, _start(check, folder / "broken", "--resume"))
    check.put("exit_codes", codes)
    if codes != dict.fromkeys(started, 0) | {"stopped": 75, "resumed": 0}:
        check.fail(f"exit codes {codes}: {_last_line(folder)}")
        return
    for first, name, text in (
        ("whole", "again", "two equal runs"),
        ("whole", "broken", "stopped and resumed"),
        ("free", "free_again", "two equal runs without trainer.deterministic"),
    ):
        off = _difference(folder / first / "last.ckpt", folder / name / "last.ckpt")
        check.put(text, off)
        how = "bit for bit the same" if off == 0 else f"weights differ by {off:.1e} at most"
        check.say(f"resume, {text}: {how}")
        if off and first == "whole":
            check.fail(f"{text}: weights differ by {off:.1e}")


def _start(check: Check, folder: Path, *more: str) -> subprocess.Popen[str]:
    sizes = {"train": 16384, "validation": 4096, "test": 4096}
    words = [
        *("wandb=disabled", f"folder={folder}", "optim.epochs=2", "trainer.save_every=20"),
        *("trainer.validate_every=2", "trainer.log_every=5", "trainer.deterministic=true"),
        f"trainer.accelerator={'gpu' if check.gpu else 'cpu'}",
        *(f"data.sprites.{p}={n if check.gpu else n // 16}" for p, n in sizes.items()),
        *(() if check.gpu else ("optim.batch_size=32",)),
    ]
    return pretrain("simclr_sprites", [*words, *more], folder.with_suffix(".log"))


def pretrain(config: str, words: list[str], log: Path) -> subprocess.Popen[str]:
    """Train in a separate process, by the command line. Its output is written to `log`."""
    script, path = ROOT / "scripts" / "pretrain.py", ROOT / "configs" / f"{config}.yaml"
    with log.open("a") as out:
        return subprocess.Popen(
            [sys.executable, str(script), str(path), *words],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            text=True,
        )


def _wait(check: Check, process: subprocess.Popen[str]) -> int | str:
    try:
        return process.wait(max(5.0, min(check.left - 5, 150)))
    except subprocess.TimeoutExpired:
        process.kill()
        return "still running when time was up"


def _wait_for_a_step(run: Path, process: subprocess.Popen[str], seconds: float) -> None:
    metrics, until = run / "metrics.jsonl", time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        if metrics.exists() and '"loss"' in metrics.read_text():
            return
        time.sleep(0.02)


def _difference(first: Path, second: Path) -> float:
    a, b = (checkpoint.read(path)["method"] for path in (first, second))
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def _last_line(folder: Path) -> str:
    lines = [path.read_text().strip().splitlines()[-1:] for path in sorted(folder.glob("*.log"))]
    return " | ".join(line[0][:300] for line in lines if line)


def cifar10(check: Check) -> None:
    """Train SimCLR with ResNet-18 on CIFAR-10 from folders, for the epochs of the config. If time
    is up earlier, the run is stopped, and its accuracy is that of the last validation.

    TWOBOUNDS_CIFAR10 names the folder that holds train/ and test/. TWOBOUNDS_RUN names the run's
    folder; if it holds a run already, that run is continued.
    """
    root = os.environ.get("TWOBOUNDS_CIFAR10", "")
    if not root:
        check.say("cifar10: skipped, TWOBOUNDS_CIFAR10 names no folder")
        return
    run = Path(os.environ.get("TWOBOUNDS_RUN") or tempfile.mkdtemp()) / "simclr_cifar10"
    words = ["data.name=folder", f"data.root={root}", "wandb=disabled", f"folder={run}"]
    words += ["trainer.precision=bf16-mixed", "trainer.validate_every=50"]
    words += ["trainer.compile=reduce-overhead"] * check.compiled
    words += [
        "optim.epochs=1",
        "optim.warmup_epochs=0",
        "optim.batch_size=64",
        "model.backbone=small",
        "data.validation=100",
    ] * (not check.gpu)
    words += ["--resume"] * (run / "last.ckpt").exists()
    process = pretrain("simclr_cifar10", words, check.folder / "cifar10.log")
    seen, code = _followed(check, process, run / "metrics.jsonl")
    rows = _rows(run / "metrics.jsonl")
    validations = [row for row in rows if any(key.startswith("val/") for key in row)]
    check.put("exit_code", code)
    check.put("seconds_and_steps", seen)
    check.put("validations", validations)
    check.say(f"cifar10: exit code {code}, {_speed(seen)}; last validation {validations[-1:]}")
    check.write()
    if code not in (0, REQUEUE):
        check.fail(f"exit code {code}: {_last_line(check.folder)}")
    if code == 0 and (check.left > 40 or not check.gpu):
        _probe(check, run)


def _followed(
    check: Check, process: subprocess.Popen[str], metrics: Path
) -> tuple[list[tuple[float, int]], int]:
    """(seconds, step) every two seconds until the run ends or time is up, and the exit code."""
    start, seen = time.monotonic(), []
    while process.poll() is None:
        rows = _rows(metrics)
        if rows:
            seen.append((time.monotonic() - start, rows[-1]["step"]))
        if check.left < 25:
            process.send_signal(signal.SIGTERM)
            return seen, process.wait(20)
        time.sleep(2 if check.gpu else 0.2)
    return seen, process.returncode


def _rows(metrics: Path) -> list[dict[str, Any]]:
    lines = metrics.read_text().splitlines() if metrics.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _speed(seen: list[tuple[float, int]]) -> str:
    if len(seen) < 2 or seen[-1][1] == seen[0][1]:
        return "no step seen"
    (start, first), (end, last) = seen[0], seen[-1]
    rate = (last - first) / (end - start)
    return (
        f"step {last} after {end:.0f} s, first seen after {start:.0f} s, {rate:.1f} steps a second"
    )


def _probe(check: Check, run: Path) -> None:
    script, words = ROOT / "scripts" / "probe.py", ["--probes", "knn,linear"]
    start = time.monotonic()
    try:
        told = subprocess.run(
            [sys.executable, str(script), str(run), *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=max(20.0, check.left - 5),
            check=False,
        )
    except subprocess.TimeoutExpired:
        check.say("cifar10, probe: not done when time was up")
        return
    seconds = time.monotonic() - start
    check.put(
        "probe", {"exit_code": told.returncode, "seconds": seconds, "end": told.stdout[-2000:]}
    )
    said = " | ".join(
        line for line in told.stdout.splitlines() if "kNN" in line or "linear" in line
    )
    check.say(f"cifar10, probe: exit code {told.returncode} in {seconds:.0f} s; {said[:600]}")
