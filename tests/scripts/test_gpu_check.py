"""`twobounds gpu-check`, at toy sizes on a CPU."""

import json

import pytest
import torch

from scripts import gpu_check
from scripts.checks.gpu import exact, report

QUICK = "machine,losses,as_on_the_cpu,queue,in_batch,views"


def test_the_quick_stages_find_nothing_wrong_and_leave_their_numbers(tmp_path):
    gpu_check.main(["--device", "cpu", "--out", str(tmp_path / "gpu"), "--only", QUICK])
    found = json.loads((tmp_path / "gpu" / "summary.json").read_text())
    assert set(found["stages"]) == set(QUICK.split(",")) and not found["failed"]
    losses = found["stages"]["losses"]
    assert set(losses) == {"queue_chunks", "queue_flash", "nt_xent", "clip", "seconds"}
    assert all(losses[name]["cases"] >= 3 for name in exact.LIMITS)
    assert found["stages"]["views"]["eager"]["views_per_s"] > 0


def test_a_training_step_of_each_kind_is_measured(tmp_path):
    check = report.Check(torch.device("cpu"), tmp_path, 600, compiled=False)
    from scripts.checks.gpu import steps

    steps.compare(check, "simclr_cifar10", [("float32", (), 5)], steps.SMALL)
    steps.compare(
        check, "beta_vae_cifar10", [("float32", (), 5)], ["optim.batch_size=4", "model.width=8"]
    )
    assert not check.failed
    rows = check.found[""]
    assert set(rows) == {"simclr_cifar10, float32", "beta_vae_cifar10, float32"}
    for row in rows.values():
        assert row["images_per_s"] > 0 and row["held_losses_survive"]
        assert row["profile"]["kernels"] > 100 and 0 < row["profile"]["device_busy"] <= 1


def test_a_wrong_loss_is_reported_and_the_exit_code_is_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(exact, "nt_xent", lambda a, b, t: 1.001 * (a * b).sum())
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--device", "cpu", "--out", str(tmp_path), "--only", "losses"])
    assert ended.value.code == 1
    assert "WRONG: nt_xent" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["failed"]


def test_a_stage_that_raises_does_not_hide_the_next(tmp_path, monkeypatch):
    def broken(check):
        raise RuntimeError("no kernel image")

    monkeypatch.setattr(exact, "losses", broken)
    with pytest.raises(SystemExit):
        gpu_check.main(
            ["--device", "cpu", "--out", str(tmp_path), "--only", "losses,as_on_the_cpu"]
        )
    found = json.loads((tmp_path / "summary.json").read_text())
    assert "no kernel image" in found["stages"]["losses"]["failed"]
    assert "knn" in found["stages"]["as_on_the_cpu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "loses"], "losses"),
        (["--device", "cuda"], "no GPU here"),
        (["--device", "cpu", "--seconds", "nan"], "--seconds"),
        (["--device", "cpu", "--seconds", "-5"], "--seconds"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(words, said, tmp_path, capsys):
    if torch.cuda.is_available() and "cuda" in words:
        pytest.skip("there is a GPU here")
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--out", str(tmp_path), *words])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_run_that_fails_is_a_wrong_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TWOBOUNDS_CIFAR10", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as ended:
        gpu_check.main(["--device", "cpu", "--out", str(tmp_path), "--only", "cifar10"])
    assert ended.value.code == 1
    assert "WRONG: exit code 2: error: data.root" in capsys.readouterr().out
