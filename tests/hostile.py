"""Harmful files, and a process that reads them; the fuzz tests call it.

    python -m tests.hostile checkpoints 0 100 FOLDER

reads the mutated checkpoints (or npz files, or folders of images) 0 to 99 in FOLDER. For each it
prints a line of JSON: how it was changed, the result, time and memory. The result is `taken`,
`refused`, or the name of another error.
"""

import io
import json
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from core.data.datasets import open_source
from core.errors import UserError
from core.run import checkpoint, config
from core.run.optim import build_optimizer
from probes.samples.pairs import check_pairs, load_pairs
from tests.hostile_folders import read_folder, write_folder
from tests.mutations import mutated, npz

CONFIGS = Path(__file__).parents[1] / "configs"
BASES = {
    "simclr_sprites": ["model.hidden=16", "model.projection=8"],
    "moco_sprites": ["model.hidden=16", "model.projection=8", "model.queue=64"],
    "beta_vae_sprites": ["model.width=4", "model.latent=4", "model.prior.kind=flow",
                         "model.prior.steps=2", "model.prior.width=8"],
}  # fmt: skip


def base(name: str) -> tuple[dict[str, Any], checkpoint.State]:
    """The entries of a checkpoint after two steps, and the state of a run that may load it."""
    run = config.read(CONFIGS / f"{name}.yaml", [*BASES[name], "folder=runs/x", "wandb=disabled"])
    method = checkpoint.build_method(run, (3, 32, 32))
    state = checkpoint.State(run, method, build_optimizer(method, run.optim), 2, 0.5, "abc")
    for _ in range(2):
        stepped(state)
    entries = {
        "format": checkpoint.FORMAT,
        "config": config.to_dict(run),
        "shape": [3, 32, 32],
        "method": {key: value.clone() for key, value in method.state_dict().items()},
        "optimizer": state.optimizer.state_dict(),
        "step": 2,
        "best": 0.5,
        "wandb_id": "abc",
    }
    return entries, state


def stepped(state: checkpoint.State) -> None:
    for p in state.method.parameters():
        if p.requires_grad:
            p.grad = torch.full_like(p, 1e-3)
    state.optimizer.step()


def read_checkpoint(path: Path, state: checkpoint.State) -> str:
    """Everything that is done with a checkpoint: probing it, opening its data, resuming it."""
    outcomes = []
    try:
        loaded = checkpoint.load_method(path)
        outcomes.append("loaded")
        open_source(loaded.run.data, "test", loaded.run.seed, augmented=False)
        outcomes.append("opened")
    except UserError as error:
        assert str(error).strip() and "\x1b" not in str(error) and len(str(error)) <= 2000
    try:
        checkpoint.restore(path, checkpoint.read(path), state)
        stepped(state)
        outcomes.append("resumed")
    except UserError as error:
        assert str(error).strip() and "\x1b" not in str(error) and len(str(error)) <= 2000
    return " ".join(outcomes) or "refused"


def read_npz(path: Path, _: Any) -> str:
    try:
        check_pairs(*load_pairs(path), "pairs")
    except UserError as error:
        assert str(error).strip() and "\x1b" not in str(error) and len(str(error)) <= 2000
        return "refused"
    return "taken"


def read_images(path: Path, draw: random.Random) -> str:
    try:
        return "taken" if read_folder(path, draw) else "no image seen"
    except UserError as error:
        assert str(error).strip() and str(error).isprintable() and len(str(error)) <= 2000
        return "refused"


def memory(key: str) -> float:
    """MiB of this process: VmHWM, the peak, or VmRSS, the present value."""
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{key}:")[1].split()[0]) / 1024


def watched(read: Callable[[Path, Any], str], path: Path, state: Any) -> dict[str, Any]:
    """The result of reading a file, with time and memory."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
    before, started = memory("VmRSS"), time.process_time()
    try:
        outcome = read(path, state)
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"[:300]
    return {
        "outcome": outcome,
        "seconds": round(time.process_time() - started, 2),
        "MiB": round(memory("VmHWM") - before),
    }


def main(kind: str, first: int, count: int, folder: Path) -> None:
    os.chdir(folder)
    os.environ |= {"SECRET": "leaked", "WANDB_MODE": "disabled"}
    # this process ends before the memory of the machine is full
    most = int(memory("VmData") * 2**20) + 2**33
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    bases: list[tuple[bytes, checkpoint.State]] = []
    for name in BASES if kind == "checkpoints" else ():
        entries, state = base(name)
        target = io.BytesIO()
        torch.save(entries, target)
        bases.append((target.getvalue(), state))
    for number in range(first, first + count):
        draw = random.Random(number)
        path = folder / f"case{number}"
        # if this file kills the process, the last line names it
        print(json.dumps({"case": number}), flush=True)
        state: Any = draw
        if kind == "folders":
            told = write_folder(path, draw)
        else:
            if bases:
                content, state = draw.choice(bases)
                content, told = mutated(content, draw)
            else:
                content, told = npz(draw)
            path.write_bytes(content)
        found = watched(READERS[kind], path, state)
        print(json.dumps({"case": number, "told": told, **found}), flush=True)
        shutil.rmtree(path) if kind == "folders" else path.unlink()


READERS = {"checkpoints": read_checkpoint, "npz": read_npz, "folders": read_images}

if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
