"""The command pretrain: a run, its interruption and its resumption, and refused configs."""

import json
import math
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.run import checkpoint
from core.run.loop import Due, Loop
from scripts.patience import Patience, stamp
from tests import in_process
from tests.bitwise import same
from tests.front_door import ROOT, Done, run_code, run_script, start_script
from tests.in_process import SMALL
from tests.quick import QUICK

# 24 steps, like SMALL, but of smaller batches
TOY = [*SMALL, "optim.batch_size=16", "data.sprites.train=128"]
VAE = ["model.width=8", "model.rate={kind: target_rate, nats: 20, beta: null}"]
EXTRA = {
    "simclr": ["model.hidden=32"],
    "moco": ["model.hidden=32", "model.queue=100"],
    "beta_vae": [*VAE, "model.prior.kind=flow"],
}


def command(method: str, folder: Path, *more: str) -> list[str]:
    script, config = ROOT / "scripts/pretrain.py", ROOT / f"configs/{method}_sprites.yaml"
    return [
        sys.executable,
        str(script),
        str(config),
        f"folder={folder}",
        *TOY,
        *EXTRA.get(method, []),
        *more,
    ]


def pretrain(*words: str) -> Done:
    """Call the command; returns its output and its exit code."""
    return run_script(*words[1:])


@pytest.mark.parametrize("method", ["simclr", "moco", "beta_vae"])
def test_a_killed_run_resumes_bitwise(method, tmp_path):
    """After kill -9 in the middle and a resumption, weights, queue, optimiser and all logged
    numbers equal those of an uninterrupted run.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = pretrain(*command(method, whole))
    assert done.returncode == 0, done.stderr
    process = start_script(*command(method, killed)[1:])
    log = killed / "metrics.jsonl"
    patience = Patience([process], lambda: stamp(log))
    while process.is_alive() and not (log.exists() and '"step": 9' in log.read_text()):
        assert not patience.is_over(), "the run makes no progress"
        time.sleep(0.002)
    process.kill()
    process.join()
    reached = checkpoint.read(killed / "last.ckpt")["step"]
    assert 0 < reached < 24, "the run was not killed before its end"
    with open(killed / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # a line torn by the kill
    resumed = pretrain(*command(method, killed, "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    a, b = checkpoint.read(whole / "last.ckpt"), checkpoint.read(killed / "last.ckpt")
    assert a["step"] == b["step"] == 24
    for entry in ("method", "optimizer", "best"):
        assert same(a[entry], b[entry]), entry
    assert (whole / "metrics.jsonl").read_text() == (killed / "metrics.jsonl").read_text()
    assert same(
        checkpoint.read(whole / "best.ckpt")["method"],
        checkpoint.read(killed / "best.ckpt")["method"],
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "simclr"
    done = pretrain(*command("simclr", folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_a_run_folder_holds_what_the_readme_says(finished):
    assert {"config.yaml", "last.ckpt", "best.ckpt", "metrics.jsonl", "pictures"} <= {
        p.name for p in finished.iterdir()
    }
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    assert {"loss", "lr", "train_bound", "in_batch_bound"} <= lines[0].keys()
    monitors = {
        "val/knn",
        "val/in_batch_bound",
        "val/alignment",
        "val/codes/alignment",
        "val/codes/uniformity",
        "val/features/effective_rank",
        "val/features/deviation",
    }
    assert any(monitors <= line.keys() for line in lines)
    assert not list(finished.glob(".*tmp"))


def test_processes_that_torchrun_launched_are_not_run_as_many_runs(tmp_path, monkeypatch):
    for key in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(key, "2" if key == "WORLD_SIZE" else "0")
    answer = pretrain(*command("simclr", tmp_path / "run"))
    assert (
        answer.returncode == 2
        and "--nproc-per-node" in answer.stderr
        and not (tmp_path / "run").exists()
    ), answer.stderr


def test_a_folder_that_holds_a_run_is_not_overwritten(finished):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    for more, words in ([], "--resume"), (["optim.lr=0.5"], "optim.lr"):
        answer = pretrain(*command("simclr", finished, *more))
        assert answer.returncode == 2
        assert words in answer.stderr and len(answer.stderr.splitlines()) == 1
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "overrides, words",
    [
        (["optim.lrr=0.1"], ["optim.lrr", "did you mean 'optim.lr'"]),
        (["model.temprature=0.1"], ["model.temprature", "temperature"]),
        (["optim.lr=fast"], ["optim.lr", "fast"]),
        (["model.temperature=-1"], ["model.temperature", "above 0"]),
        (["model.temperature=nan"], ["model.temperature"]),
        (["method=contrastive.moco.MoCo", "model.queue=0"], ["model.queue", "1 or more"]),
        (["method=os.system"], ["os.system", "is not a method of os"]),
        (["method=contrastive.simclr.SimCLT"], ["SimCLT", "SimCLR"]),
        (["method=contrastive.nothing.X"], ["contrastive/nothing.py"]),
        (["data.name=mnist", "data.root=/nowhere"], ["/nowhere", "data.download=true"]),
        (["data.name=nmist"], ["nmist", "mnist"]),
        (["optim=3"], ["optim"]),
        (["optim.batch_size=100000"], ["optim.batch_size"]),
        (["trainer.precision=17-bit"], ["trainer"]),
        (["model.backbone=resnet1888"], ["resnet18"]),
        (["nonsense"], ["key=value"]),
        (["optim.lr="], ["optim.lr"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(overrides, words, tmp_path):
    answer = in_process.train("simclr", tmp_path / "run", *overrides)
    assert answer.is_one_line, answer
    assert all(word in answer.err for word in words), answer.err
    assert not list(tmp_path.iterdir())


def test_probe_and_compare_through_the_front_door(finished):
    words = (finished, "--seed", 1, "data.workers=0")
    answer = run_code(QUICK, ROOT / "scripts/probe.py", *words)
    assert answer.returncode == 0, answer.stderr
    found = json.loads((finished / "probe/probe.json").read_text())
    assert {
        "linear",
        "knn",
        "information",
        "geometry",
        "digest",
        "checkpoint",
        "step",
    } <= found.keys()
    assert found["information"]["critics"]["native"]["sweep"][-1]["K"] == 63
    assert {"neighbours.png", "infonce.png"} <= {p.name for p in (finished / "probe").iterdir()}
    picture = finished.parent / "compare.png"
    (empty := finished.parent / "nothing").mkdir()
    answer = run_script("compare.py", finished, empty, "--out", picture)
    assert answer.returncode == 0 and "not probed, left out" in answer.stdout, answer.stderr
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    "script, words, said",
    [
        ("probe.py", ["/nowhere"], "no such checkpoint"),
        ("probe.py", ["{run}", "--probes", "magic"], "magic"),
        ("probe.py", ["{run}", "data.rot=3"], "root"),
        ("probe.py", ["{run}", "model.temperature=3"], "only data.* and wandb.*"),
        ("probe.py", ["{run}", "--device", "nonsense"], "--device"),
        ("probe.py", ["{torn}"], "damaged"),
        ("compare.py", ["/nowhere"], "no such file"),
        ("compare.py", ["{torn}"], "probe"),
        ("pretrain.py", ["configs/none.yaml"], "configs/"),
        ("pretrain.py", ["docs/pictures/compare.png"], "is not a config"),
        ("calibrate.py", ["--out", "."], "is a folder"),
        ("bench.py", ["vae", "--json", "{torn}/a.json"], "--json"),
        ("sprites_truth.py", ["--out", "{torn}"], "--out"),
    ],
)
def test_bad_input_to_every_script_is_one_line(finished, tmp_path, script, words, said):
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes((finished / "last.ckpt").read_bytes()[:5000])
    answer = run_script(script, *(word.format(run=finished, torn=torn) for word in words))
    assert answer.returncode == 2, answer.stderr
    assert said in answer.stderr and len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"torn.ckpt"}


def test_a_profile_shows_the_time_of_each_part(tmp_path):
    told = pretrain(*command("simclr", tmp_path / "run", "optim.epochs=4", "--profile"))
    assert told.returncode == 0, told.stderr
    account = (tmp_path / "run/profile/account.txt").read_text()
    assert "20 steps after the first 5" in account and "20 steps after the first 5" in told.stdout
    shares = [
        int(line.split()[-1].rstrip("%"))
        for line in account.splitlines()
        if line.split()[0:1] and line.endswith("%")
    ]
    assert 95 <= sum(shares) <= 105
    assert json.loads((tmp_path / "run/profile/trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize(
    "score, kept", [(0.4, False), (0.5, False), (0.6, True), (math.nan, False)]
)
def test_only_a_better_score_replaces_the_best_checkpoint(score, kept):
    """Of equal ones the first stays, so that a resumed run keeps the same."""
    loop, saves = object.__new__(Loop), []
    loop.state = SimpleNamespace(best=0.5, step=7, method=SimpleNamespace(criterion="knn"))
    loop.logger, loop.training, loop.clock = None, SimpleNamespace(steps_per_epoch=9), None
    loop.folder = SimpleNamespace(
        saver=SimpleNamespace(check=lambda: None), save=lambda *given, wait: saves.append(given)
    )
    loop.validation = SimpleNamespace(criterion=lambda method, scores: f"val/{method.criterion}")
    loop._observe = lambda: {"val/knn": score}
    loop.losses = SimpleNamespace(add=lambda *_: None, look=dict)
    loop.progress = SimpleNamespace(advance=lambda step: None)
    loop.training.fabric = SimpleNamespace(device=torch.device("cpu"))
    loop._due = lambda step, timely: Due(logs=False, validates=True, saves=False)
    loop._after({}, timely=False)
    assert saves == ([(loop.state, 9, False, True)] if kept else [])
    assert loop.state.best == (score if kept else 0.5)
