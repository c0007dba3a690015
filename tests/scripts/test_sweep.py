"""A sweep as a user calls it: one folder a run, nothing is trained twice, one table at the end; and
files for SLURM and for W&B.
"""

import csv
import json
import os
import shlex
import signal
import subprocess

import pytest
import yaml

from core.run.loop import Loop
from scripts import pretrain, sweep
from tests.in_process import CONFIGS
from tests.slurm import exit_code

SMALL = [
    "data.sprites.train=64",
    "data.sprites.validation=64",
    "data.sprites.test=64",
    "optim.batch_size=32",
    "optim.epochs=2",
    "optim.warmup_epochs=0",
    "model.hidden=16",
    "trainer.accelerator=cpu",
    "trainer.validate_every=1",
    "wandb=disabled",
]
CONFIG = str(CONFIGS / "simclr_sprites.yaml")


def call(capsys, *words):
    """Exit code, stdout and stderr of the command."""
    code = 0
    try:
        sweep.main([CONFIG, *map(str, words)])
    except SystemExit as end:
        code = end.code
    said = capsys.readouterr()
    return code, said.out, said.err


def steps(run):
    return [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_sweep_that_was_killed_and_called_again_trains_nothing_twice(
    tmp_path, capsys, monkeypatch
):
    grid = ["optim.lr=1e-3,2e-3", "seed=0,1", *SMALL, f"folder={tmp_path / 'all'}"]
    table = tmp_path / "table.csv"
    ends = [*grid, "--probes", "knn", "--csv", table]
    trained = []

    def watched(words):
        trained.append(dict(word.split("=", 1) for word in words[1:]))
        plain(words)

    def stopped(loop):
        """A signal comes at the end of the third run's first epoch."""
        validate(loop)
        if len(trained) == 3 and loop.state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    plain, validate = pretrain.main, Loop._validate
    monkeypatch.setattr(pretrain, "main", watched)
    monkeypatch.setattr(Loop, "_validate", stopped)
    assert call(capsys, *ends)[0] == 75
    folders = sorted(path.name for path in (tmp_path / "all").iterdir())
    assert (
        folders == [f"optim.lr={lr},seed={seed}" for lr in ("1e-3", "2e-3") for seed in (0, 1)][:3]
    )
    done = [(tmp_path / "all" / name / "last.ckpt").read_bytes() for name in folders[:2]]
    code, said, err = call(capsys, *ends)
    assert code == 0, err
    assert [words["optim.lr"] for words in trained[3:]] == ["2e-3", "2e-3"]
    assert said.count("(done)") == 2 and said.count("(at step 2)") == 1 and said.count("(new)") == 1
    assert done == [(tmp_path / "all" / name / "last.ckpt").read_bytes() for name in folders[:2]]
    for name in folders:
        assert steps(tmp_path / "all" / name)[-1] == 4
    rows = list(csv.DictReader(table.open()))
    assert [row["seeds"] for row in rows] == ["2", "2"]
    assert all(float(row["kNN % sd over seeds"]) >= 0 for row in rows)
    assert (tmp_path / "all/compare.png").is_file() and "2 seeds" in said
    count = len(trained)
    code, said, _ = call(capsys, *ends)
    assert code == 0 and len(trained) == count and said.count("(done)") == 4


def test_a_run_that_fails_is_named_and_the_others_continue(tmp_path, capsys):
    words = ["optim.batch_size=32,4096", *[w for w in SMALL if "batch" not in w]]
    code, said, err = call(capsys, *words, f"folder={tmp_path}", "--probes", "knn")
    assert code == 2 and (tmp_path / "optim.batch_size=32/probe/probe.json").is_file()
    assert "1 of 2 runs failed" in err and "optim.batch_size=4096" in err
    assert "is more than the 64 training images" in err and "knn" in said


@pytest.mark.parametrize(
    "words, said",
    [
        (["optim.lr=0.1,fast"], "optim.lr=fast"),
        (["optim.rate=0.1,0.2"], "optim.rate"),
        (["seed=1,1"], "names a value twice"),
        (["seed=0,1", "resume=true"], "leave it out"),
        (["seed=0,1", "--only", "2"], "--only: the sweep has the runs 0 to 1"),
        (["seed=0", "--wandb-sweep", "{t}/s.yaml"], "no key has several values"),
        (["seed=0,1", "--probes", "knm"], "did you mean 'knn'"),
    ],
)
def test_a_mistake_is_one_line_before_any_work(words, said, tmp_path, capsys):
    code, out, err = call(
        capsys, *(w.format(t=tmp_path) for w in words), f"folder={tmp_path / 'all'}"
    )
    assert code == 2 and not out and len(err.splitlines()) == 1 and said in err
    assert not (tmp_path / "all").exists()


def test_values_are_divided_at_commas_outside_of_brackets():
    assert sweep.split_values("0.1,0.3") == ["0.1", "0.3"]
    assert sweep.split_values("[1,2],[3]") == ["[1,2]", "[3]"]
    assert sweep.split_values("{a: 1, b: 2}") == ["{a: 1, b: 2}"]
    assert sweep.split_values("'a,b',c") == ["'a,b'", "c"] and sweep.split_values("") == [""]


def test_the_slurm_script_names_every_run(tmp_path, capsys):
    grid = ["optim.lr=1e-3,2e-3", "seed=0,1,2", "folder=runs/all", "--probes", "knn"]
    file = tmp_path / "sweep.sbatch"
    code, said, err = call(capsys, *grid, "--sbatch", file)
    assert code == 0 and "6 runs" in said, err
    text = file.read_text()
    assert "#SBATCH --array=0-5\n" in text and "requeue" in text
    assert subprocess.run(["bash", "-n", file]).returncode == 0
    (line,) = (line for line in text.splitlines() if line.startswith("srun"))
    words = shlex.split(line)[1:]
    options = sweep.arguments([*words[words.index(CONFIG) : -1], "4"])
    again = sweep.read_grid(options.config, options.overrides)
    assert options.only == 4 and options.probes == ["knn"]
    assert again.runs()[4][0].name == "optim.lr=2e-3,seed=1" and len(again.runs()) == 6


def test_a_task_of_the_slurm_script_is_requeued_if_it_was_preempted_and_not_cancelled(
    tmp_path, capsys
):
    file, place = tmp_path / "sweep.sbatch", tmp_path / "node"
    place.mkdir()
    assert call(capsys, "seed=0,1", "folder=runs/all", "--sbatch", file)[0] == 0
    ways = ((75, 0, False), (2, 2, False), (0, 0, False), (75, 75, True))
    variables = {
        "SLURM_ARRAY_JOB_ID": "7",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_CPUS_PER_TASK": "8",
    }
    for code, wanted, cancelled in ways:
        assert exit_code(place, [str(file)], code, cancelled, variables) == wanted
    assert (place / "requeued").read_text() == "requeue 7_1\n"
    asked = (place / "asked").read_text().splitlines()
    assert len(asked) == len(ways) and all(line.endswith("--only 1") for line in asked)


def test_the_wandb_file_calls_the_sweep_with_one_value_of_each_key(tmp_path, capsys):
    file = tmp_path / "sweep.yaml"
    assert call(capsys, "optim.lr=1e-3,2e-3", "seed=0,1", "--wandb-sweep", file)[0] == 0
    made = yaml.safe_load(file.read_text())
    assert made["method"] == "grid"
    assert made["parameters"] == {
        "optim.lr": {"values": ["1e-3", "2e-3"]},
        "seed": {"values": ["0", "1"]},
    }
    call_of_agent = made["command"]
    assert call_of_agent[0] == "${env}" and call_of_agent[-1] == "${args_no_hyphens}"
    words = call_of_agent[call_of_agent.index(CONFIG) : -1] + ["optim.lr=2e-3", "seed=1"]
    options = sweep.arguments(words)
    grid = sweep.read_grid(options.config, options.overrides)
    assert len(grid.runs()) == 1 and "optim.lr=2e-3" in grid.runs()[0][1]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.root=a/b,a-b", "would have the folder"),
        ("optim.lr=1e-3,0.001", "optim.lr=1e-3 and optim.lr=0.001 are the same run"),
        ("trainer.deterministic=true,True", "are the same run"),
    ],
)
def test_two_members_of_a_grid_that_are_one_are_refused(word, said, tmp_path, capsys):
    code, out, err = call(capsys, *SMALL, word, f"folder={tmp_path / 's'}", "--dry-run")
    assert code == 2 and said in err and not out and len(err.splitlines()) == 1


def test_a_finished_run_is_compared_with_another_data_root(tmp_path, capsys, monkeypatch):
    """Otherwise the numbers of the first folder would be shown for the second."""
    words = [*SMALL, "seed=0,1", f"folder={tmp_path / 's'}", "--probes", "none", "--only", "0"]
    assert call(capsys, *words, "data.root=one")[0] == 0
    called = []
    monkeypatch.setattr(sweep, "step", lambda *words: called.append([*map(str, words)]))
    words[words.index("none")] = "knn"
    assert call(capsys, *words, "data.root=one")[0] == 0
    assert [part[0] for part in called] == ["probe.py"] and "data.root=one" not in called[0]
    called.clear()
    code, out, _ = call(capsys, *words, "data.root=two")
    assert code == 0 and "done, on data.root='one'" in out
    assert [part[0] for part in called] == ["pretrain.py", "probe.py"]
    assert all("data.root=two" in part for part in called)
