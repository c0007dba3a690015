"""Faults that a run survives: damaged files, a full disk, a loss that is not finite, a signal."""

import os
import random
import re
import resource
import struct
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from core.errors import UserError, exit_cleanly
from core.run import checkpoint, config
from core.run.folder import RunFolder
from core.run.optim import build_optimizer
from core.run.preemption import REQUEUE
from tests.front_door import ROOT, run_script, start_script
from tests.in_process import train
from tests.slurm import exit_code

SMALL = ["model.hidden=16", "model.projection=8"]
LONG = 1800.0  # seconds: longer than anything that ends takes on the slowest machine


@pytest.fixture
def run(tmp_path) -> tuple[RunFolder, checkpoint.State]:
    """A folder and a fresh state of a small SimCLR."""
    settings = config.read(
        ROOT / "configs/simclr_sprites.yaml", [f"folder={tmp_path / 'run'}", *SMALL]
    )
    method = checkpoint.build_method(settings, (3, 32, 32))
    folder = RunFolder(settings.folder)
    folder.create(settings)
    return folder, checkpoint.State(settings, method, build_optimizer(method, settings.optim))


def save(folder: RunFolder, state: checkpoint.State, step: int) -> None:
    state.step = step
    folder.save(state, steps_per_epoch=10)


def steps(folder: RunFolder) -> dict[str, int]:
    return {path.name: checkpoint.read(path)["step"] for path in folder.path.glob("*.ckpt")}


def test_the_kept_checkpoints_are_those_that_the_config_names(run):
    folder, state = run
    state.run.trainer.keep_last, state.run.trainer.keep_epochs = 3, 2
    for step in range(0, 50, 10):
        save(folder, state, step)
    assert steps(folder) == {
        "last.ckpt": 40,
        "last-1.ckpt": 30,
        "last-2.ckpt": 20,
        "epoch-2.ckpt": 20,
        "epoch-4.ckpt": 40,
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[:5000] + bytes([data[5000] ^ 4]) + data[5001:],
    ],
)
def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(run, damage):
    folder, state = run
    for step in (3, 6):
        save(folder, state, step)
    folder.last.write_bytes(damage(folder.last.read_bytes()))
    line = folder.resume(state)
    assert (
        state.step == 3
        and "last-1.ckpt" in line
        and "last.ckpt: damaged" in line
        and "\n" not in line
    )
    save(folder, state, 9)
    assert steps(folder) == {"last.ckpt": 9, "last-1.ckpt": 3}, (
        "the damaged file has not replaced the whole one"
    )
    for path in folder.versions():
        path.write_bytes(b"")
    with pytest.raises(checkpoint.Damaged, match=r"last\.ckpt"):
        folder.resume(state)
    folder.last.unlink()
    with pytest.raises(UserError, match="--resume"):  # last-1.ckpt alone is a run, too
        folder.check(state.run)


@pytest.mark.parametrize("kills", [1, 2])
def test_a_kill_between_two_renamings_leaves_two_versions(kills, run, monkeypatch):
    folder, state = run
    for step in (3, 6):
        save(folder, state, step)

    def killed(source: Path, target: Path, rename=os.replace) -> None:
        if Path(target) == folder.last:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        for _ in range(kills):
            with pytest.raises(KeyboardInterrupt):
                save(folder, state, 9)
    assert set(steps(folder).values()) == {3, 6}
    folder.last.write_bytes(b"")  # under any of its names
    assert "at step 3 from last-2.ckpt" in folder.resume(state)
    for step in (9, 12):
        save(folder, state, step)
    assert steps(folder) == {"last.ckpt": 12, "last-1.ckpt": 9}


def test_every_flipped_bit_is_detected(run):
    folder, state = run
    save(folder, state, 1)
    whole, draw = folder.last.read_bytes(), random.Random(0)
    before, seen = checkpoint.read(folder.last), 0
    for _ in range(40):
        place = draw.randrange(len(whole))
        folder.last.write_bytes(
            whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :]
        )
        try:
            after = checkpoint.read(folder.last)
        except UserError:
            seen += 1
            continue
        assert all(
            torch.equal(value, after["method"][key]) for key, value in before["method"].items()
        )  # a bit of the padding
    assert seen > 20


def test_a_record_that_says_it_is_a_folder_is_damage(run):
    """One bit of the zip's directory, which has no checksum: torch would read nothing and leave the
    tensor uninitialised.
    """
    folder, state = run
    save(folder, state, 1)
    with zipfile.ZipFile(folder.last) as file:
        place = file.start_dir
    data = bytearray(folder.last.read_bytes())
    while data[place : place + 4] == b"PK\1\2":
        data[place + 38] ^= 0x10
        folder.last.write_bytes(data)
        with pytest.raises(checkpoint.Damaged, match="record archive/"):
            checkpoint.read(folder.last)
        data[place + 38] ^= 0x10
        place += 46 + sum(struct.unpack_from("<HHH", data, place + 28))


def test_processes_that_find_other_checkpoints_do_not_train_together(run, monkeypatch):
    folder, state = run
    save(folder, state, 1)
    monkeypatch.setattr(
        "core.run.folder.gather_round_robin", lambda mine: [*mine, 0]
    )  # another node, which sees a different, empty folder
    with pytest.raises(UserError, match=r"steps 0, 1 in .*; it must be one folder"):
        folder.resume(state)


def test_a_folder_in_place_of_a_file_is_refused_before_anything_is_written(run):
    folder, state = run
    folder.metrics.mkdir(parents=True)
    before = sorted(folder.path.rglob("*"))
    with pytest.raises(UserError, match=r"metrics\.jsonl is a folder"):
        folder.check(state.run)
    assert sorted(folder.path.rglob("*")) == before


def script_of(code: str, folder: Path) -> Path:
    path = folder / "script.py"
    path.write_text(code)
    return path


def test_one_process_at_a_time_holds_a_folder(run, tmp_path):
    folder, _ = run
    folder.hold()
    code = "import sys; from core.run.folder import RunFolder; RunFolder(sys.argv[1]).hold()"
    held = run_script(script_of(code, tmp_path), folder.path)
    assert "UserError: folder: another process trains in" in held.stderr


def test_a_run_that_has_ended_or_failed_frees_its_folder(tmp_path, monkeypatch):
    """Also while its process lives on, such as a notebook."""
    small, kept, check = ["data.sprites.train=64", "optim.epochs=1"], [], RunFolder.check

    def checked(folder, run):
        kept.append(folder)
        check(folder, run)

    monkeypatch.setattr(RunFolder, "check", checked)
    assert train("simclr", tmp_path / "run", *small).code == 0
    with patch("core.run.loop.Loop.to_the_end", side_effect=UserError("stop")):
        assert train("simclr", tmp_path / "other", *small).code == 2
    assert len(kept) == 2
    code = """import sys
from core.run.folder import RunFolder
for folder in sys.argv[1:]:
    RunFolder(folder).hold()"""
    held = run_script(script_of(code, tmp_path), tmp_path / "run", tmp_path / "other")
    assert held.returncode == 0, held.stderr


def test_a_resumed_run_waits_for_the_end_of_the_process_that_holds_its_folder(run, tmp_path):
    folder, _ = run
    code = """import os, sys, time
from core.run.folder import RunFolder
folder = RunFolder(sys.argv[1])
folder.hold()
print('in', flush=True)
while not os.path.exists('end'):
    time.sleep(0.01)
time.sleep(1)"""
    here, there = os.pipe()
    before = start_script(script_of(code, tmp_path), folder.path, cwd=tmp_path, stdout=there)
    assert os.read(here, 9) == b"in\n"
    with pytest.raises(UserError, match="another process trains"):
        folder.hold()
    (tmp_path / "end").touch()
    folder.hold(patience=LONG)
    before.join()
    assert before.exitcode == 0


def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(run):
    folder, state = run
    save(folder, state, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (folder.last.stat().st_size // 2, limits[1]))
    try:
        with pytest.raises(UserError, match=r"last\.ckpt: could not be written \(File too large\)"):
            save(folder, state, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert steps(folder) == {"last.ckpt": 1} and not list(folder.path.glob(".*"))


@pytest.mark.parametrize("spoil", ["weight", "optimizer"])
def test_numbers_that_are_not_finite_are_never_saved(run, spoil):
    folder, state = run
    parameter = next(state.method.parameters())
    parameter.grad = torch.ones_like(parameter)
    state.optimizer.step()
    save(folder, state, 1)
    numbers = parameter if spoil == "weight" else state.optimizer.state[parameter]["exp_avg"]
    with torch.no_grad():
        numbers.view(-1)[3] = float("nan")
    with pytest.raises(UserError, match="not finite at step 2.*optim.clip"):
        save(folder, state, 2)
    assert steps(folder) == {"last.ckpt": 1}


@pytest.mark.parametrize("launcher", ["torchrun", "slurm", "none"])
def test_a_process_whose_peer_has_gone_says_so_in_one_line_whoever_launched_it(
    launcher, monkeypatch, capsys
):
    @exit_cleanly
    def main() -> None:
        raise RuntimeError(
            "[../gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by"
            " peer. This is typically"
        )

    monkeypatch.delenv("RANK", raising=False)
    if launcher == "torchrun":  # before the processes are connected
        monkeypatch.setenv("RANK", "0")
    if launcher == "slurm":
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with pytest.raises(RuntimeError if launcher == "none" else SystemExit):
            main()
    finally:
        if launcher == "slurm":
            dist.destroy_process_group()
    if launcher != "none":
        assert re.fullmatch(
            r"rank 0: ends because another process failed; .*\(.*reset by peer\)\n",
            capsys.readouterr().err,
        )


def test_the_sbatch_example_requeues_a_preempted_run_and_nothing_else(tmp_path):
    words = [str(ROOT / "scripts/slurm.sbatch"), "configs/moco_cifar10.yaml", "seed=3"]
    variables = {
        "SLURM_JOB_ID": "7",
        "SLURM_NTASKS_PER_NODE": "8",
        "SLURM_JOB_NUM_NODES": "2",
    }
    ways = ((REQUEUE, 0, False), (2, 2, False), (0, 0, False), (REQUEUE, REQUEUE, True))
    for code, wanted, cancelled in ways:
        assert exit_code(tmp_path, words, code, cancelled, variables) == wanted
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    asked = (
        "scripts/pretrain.py configs/moco_cifar10.yaml seed=3 --resume trainer.devices=8"
        " trainer.num_nodes=2"
    )
    assert all(asked in line for line in (tmp_path / "asked").read_text().splitlines())


@pytest.mark.parametrize(
    "kills, images, save_every, more",
    [
        (6, 128, 8, ["optim.epochs=4"]),
        # also of one process; a step of two costs much more, so there are fewer
        (4, 64, 4, ["--processes=2", "trainer.strategy=fsdp", "optim.epochs=2"]),
    ],
)
def test_a_short_soak(tmp_path, kills, images, save_every, more):
    """Some deaths, each way at most once: the result equals an uninterrupted run bit by bit."""
    sprites = [
        f"data.sprites.train={images}",
        "data.sprites.validation=32",
        "data.sprites.test=32",
        "optim.batch_size=8",
        *more,
    ]
    words = [
        *SMALL,
        *sprites,
        f"trainer.save_every={save_every}",
        "trainer.validate_every=2",
        "--kills",
        kills,
        "--out",
        str(tmp_path / "soak"),
    ]
    done = run_script("soak.py", ROOT / "configs/simclr_sprites.yaml", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    deaths = re.search(r"(\d) deaths \(", done.stdout)
    assert deaths and int(deaths[1]) >= kills - 2, (
        done.stdout
    )  # on a busy machine the run may be over before the last signals come
    assert "the same, bit by bit" in done.stdout and "the same text" in done.stdout
