"""A checkpoint of another run in a run folder: a resumed run refuses it, and a probe says it."""

import shutil

import pytest

from core.run import checkpoint
from scripts import probe
from tests.in_process import call, train

SIZES = ["model.hidden=16", "model.projection=8", "optim.epochs=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of one config with different seeds."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        assert train("simclr", folder / f"s{seed}", *SIZES, f"seed={seed}").code == 0
    return folder


@pytest.fixture
def run(runs, tmp_path):
    shutil.copytree(runs / "s0", tmp_path / "s0")
    return tmp_path / "s0"


def resumed(run, *more):
    return call("--resume", str(run), "optim.epochs=3", *more)


def rewritten(path, **changes):
    """Give a checkpoint other entries, as a run in another folder would have written them."""
    held = dict(checkpoint.read(path)) | changes
    checkpoint.write(path, checkpoint.Snapshot(held, set(), lambda: None))


def test_a_best_checkpoint_of_another_seed_is_refused_and_said(runs, run, capsys):
    shutil.copy(runs / "s1/best.ckpt", run / "best.ckpt")
    answer = resumed(run)
    assert answer.is_one_line and "seed is 1 there and 0 here" in answer.err
    assert str(run / "best.ckpt") in answer.err and "move it away" in answer.err
    probe.main([str(run), "--best", "--probes", "knn", "--device", "cpu"])
    said = capsys.readouterr().out
    assert (
        "belongs to another run than the folder's config.yaml (seed is 1 here and 0 there)" in said
    )
    probe.main([str(run), "--probes", "knn", "--device", "cpu"])
    assert "another run" not in capsys.readouterr().out
    (run / "best.ckpt").unlink()
    assert resumed(run).code == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"best": 0.123}, "its score is 0.123"),
        ({"best": -9.0, "step": 99}, "its score is -9, but the run's best is"),
        ({"best": 9.0, "step": 99}, ""),  # of the same run, whose later checkpoints are lost
        ({"shape": [3, 16, 16]}, "its images are [3, 16, 16]"),
    ],
)
def test_a_best_checkpoint_with_another_score_is_refused(changes, said, run):
    rewritten(run / "best.ckpt", **changes)
    answer = resumed(run)
    assert said in answer.err if said else answer.code == 0
    assert answer.is_one_line == bool(said)


def test_a_damaged_best_checkpoint_is_said(run):
    (run / "best.ckpt").write_bytes(b"half a file")
    answer = resumed(run)
    assert answer.code == 0 and "best.ckpt: damaged" in answer.out
