"""Whole runs through the command line: one that is interrupted and resumed beside two that are
not, and SimCLR on CIFAR-10 as far as the time reaches.
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
from scripts.checks.gpu.measure import ROOT
from scripts.checks.gpu.report import Check


def resume(check: Check) -> None:
    """Are the weights of a run that was stopped and resumed those of an uninterrupted one, and
    those of two equal runs the same?
    """
    folder = Path(tempfile.mkdtemp())
    whole, again = (_start(check, folder / name) for name in ("whole", "again"))
    codes = {"whole": _wait(check, whole), "again": _wait(check, again)}
    broken = _start(check, folder / "broken")
    _wait_for_a_step(folder / "broken", broken, min(60.0, check.left - 20))
    broken.send_signal(signal.SIGTERM)
    codes["stopped"] = _wait(check, broken)
    codes["resumed"] = _wait(check, _start(check, folder / "broken", "--resume"))
    check.put("exit_codes", codes)
    if codes != {"whole": 0, "again": 0, "stopped": 75, "resumed": 0}:
        check.fail(f"exit codes {codes}: {_last_line(folder)}")
        return
    for name, text in (("again", "two equal runs"), ("broken", "stopped and resumed")):
        off = _difference(folder / "whole" / "last.ckpt", folder / name / "last.ckpt")
        check.put(text, off)
        how = "bit for bit the same" if off == 0 else f"weights differ by {off:.1e} at most"
        check.say(f"resume, {text}: {how}")
        if not off < 1e-2:
            check.fail(f"{text}: weights differ by {off:.1e}")


def _start(check: Check, folder: Path, *more: str) -> subprocess.Popen[str]:
    sizes = {"train": 16384, "validation": 4096, "test": 4096}
    words = [
        *("wandb=disabled", f"folder={folder}", "optim.epochs=2", "trainer.save_every=20"),
        *("trainer.validate_every=2", "trainer.log_every=5"),
        f"trainer.accelerator={'gpu' if check.gpu else 'cpu'}",
        *(f"data.sprites.{p}={n if check.gpu else n // 16}" for p, n in sizes.items()),
        *(() if check.gpu else ("optim.batch_size=32",)),
    ]
    return pretrain("simclr_sprites", [*words, *more], folder.with_suffix(".log"))


def pretrain(config: str, words: list[str], log: Path) -> subprocess.Popen[str]:
    """Training in a process of its own, by the command line; what it says goes into `log`."""
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
    """SimCLR, ResNet-18, CIFAR-10 from folders, by the config's own epochs: it is stopped where
    time is up, and its accuracy is that of its last validation.

    TWOBOUNDS_CIFAR10 names the folder that holds train/ and test/. TWOBOUNDS_RUN names the run's
    folder; where it holds a run already, that run goes on.
    """
    root = os.environ.get("TWOBOUNDS_CIFAR10", "")
    if not root:
        check.say("cifar10: skipped, TWOBOUNDS_CIFAR10 names no folder")
        return
    run = Path(os.environ.get("TWOBOUNDS_RUN") or tempfile.mkdtemp()) / "simclr_cifar10"
    words = ["data.name=folder", f"data.root={root}", "wandb=disabled", f"folder={run}"]
    words += ["trainer.precision=bf16-mixed"] + ["trainer.compile=reduce-overhead"] * (
        check.compiled
    )
    words += ["optim.epochs=1", "optim.batch_size=64"] * (not check.gpu)
    words += ["--resume"] * (run / "last.ckpt").exists()
    start = time.monotonic()
    process = pretrain("simclr_cifar10", words, check.folder / "cifar10.log")
    try:
        code: Any = process.wait(check.left - 25)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        code = process.wait(20)
    check.put("exit_code", code)
    check.put("seconds", time.monotonic() - start)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    check.put("validations", [row for row in rows if any(key.startswith("val/") for key in row)])
    speed = [row["images_per_s"] for row in rows if "images_per_s" in row]
    check.put("images_per_s", sorted(speed)[len(speed) // 2] if speed else None)
    accuracy = {row["epoch"]: row["val/knn"] for row in rows if "val/knn" in row}
    check.say(f"cifar10: exit code {code} after {time.monotonic() - start:.0f} s, kNN {accuracy}")
