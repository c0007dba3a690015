"""`bench` races both sides as often as it is asked and shows their times; `scaling` compares the
bytes of one step with formulas.
"""

import json
import math
from types import SimpleNamespace

import pytest
import torch

import scripts.benches.queue as section
from core.run import config
from scripts import bench, scaling
from scripts.benches import contest
from scripts.checks import scaling as counted
from tests.spies import spy

CPU = torch.device("cpu")


def test_sides_take_turns_and_the_ratio_is_of_medians(monkeypatch):
    calls, taken = [], iter([3.0, 8.0, 1.0, 4.0, 2.0, 6.0])
    monkeypatch.setattr(contest, "seconds", lambda run, device: run() and next(taken))
    made = contest.Contest(
        "work", lambda: calls.append("ours") or 1, "peer", lambda: calls.append("peer") or 2,
        lambda ours, peer: f"{ours} and {peer}", target=2.5, rounds=3,
    )  # fmt: skip
    row = contest.race(made, 9, CPU)  # at most the contest's own three rounds
    assert calls == ["ours", "peer"] * 4  # a first turn is not timed
    assert row["same"] == "1 and 2" and row["target"] == 2.5 and row["ratio"] == 3.0
    assert row["ours"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert row["peer"] == {"median": 6.0, "low": 4.0, "high": 8.0}
    taken = iter([3.0, 9.0])
    one = contest.race(made, 1, CPU)
    assert one["ours"] == {"median": 3.0, "low": 3.0, "high": 3.0} and one["ratio"] == 3.0


def test_results_may_differ_only_by_rounding():
    ones = [torch.ones(4), torch.full((2,), 2.0)]
    assert contest.within(ones, ones) == 0.0
    near = [ones[0], ones[1] * (1 + 1e-3)]
    assert contest.within(near, ones, 2e-3) == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(AssertionError):
        contest.within(near, ones)


def test_the_bench_passes_on_what_it_is_asked_and_shows_it(tmp_path, monkeypatch, capsys):
    made = contest.Contest("one", int, "other", int, str, memory=True)
    devices = spy(monkeypatch, section, "contests", lambda device: [made])
    times = {"median": 0.25, "low": 0.2, "high": 0.3}
    row = {"name": "one", "peer_name": "other", "same": "equal", "ours": times, "target": 1.5}
    row |= {"peer": {"median": 5e-4, "low": 4e-4, "high": 6e-4}, "ratio": 0.002}
    races = spy(monkeypatch, contest, "race", lambda *_: dict(row))
    peaks = {"ours": 2**21, "peer": 2**23}
    asked = spy(monkeypatch, contest, "peak_elsewhere", lambda *words: peaks[words[2]])
    place = tmp_path / "new" / "bench.json"
    bench.main(["queue", "--rounds", "4", "--device", "meta", "--json", str(place)])
    assert devices[0]["device"].type == races[0]["device"].type == "meta"
    assert [race["rounds"] for race in races] == [4] and races[0]["contest"] is made
    assert [(call["section"], call["name"], call["side"]) for call in asked] == [
        ("queue", "one", "ours"), ("queue", "one", "peer"),
    ]  # fmt: skip
    found = json.loads(place.read_text())
    assert found["rounds"] == 4 and found["sections"] == {"queue": [row | {"memory": peaks}]}
    assert found["machine"] in " ".join(capsys.readouterr().out.split())
    shown = bench.table("queue", [row | {"memory": peaks}, row | {"target": None}])
    first, second = zip(*(column.cells for column in shown.columns), strict=True)
    assert first == (
        "one", "250.0 ms (±20%)", "other", "0.500 ms (±20%)", "0.00x", "1.5x", "2 MiB / 8 MiB",
        "equal",
    )  # fmt: skip
    assert second[5:7] == ("–", "–")


def test_scaling_counts_the_runs_and_losses_that_it_is_asked_for(monkeypatch, capsys):
    runs = spy(monkeypatch, counted, "report", lambda *_: None)
    losses = spy(monkeypatch, counted, "memory", lambda *_: None)
    words = ["--batch", "64", "--queue", "192", "--codes", "32", "--strategy", "fsdp"]
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    scaling.main(words)
    assert "memory is not measured" in capsys.readouterr().out and not losses
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "0")
    scaling.main(words)
    assert [call["name"] for call in runs] == ["simclr", "moco", "beta_vae"] * 2
    for call in runs:
        run: config.RunConfig = call["run"]
        assert run.optim.batch_size == 64 and run.trainer.strategy == "fsdp"
        name = call["name"].replace("_", "")
        assert run.trainer.devices == "2" and name in run.method.lower()
    assert runs[1]["run"].model.queue == 192 and list(losses[0].values()) == [32, 192, 128]
    for key in ("--batch", "--queue", "--codes"):
        scaling.arguments([key, "2"])
        with pytest.raises(Exception, match="must be 2 or more, got 1"):
            scaling.arguments([key, "1"])


def test_the_formulas_of_a_step_and_of_its_memory(monkeypatch):
    """Two processes of two linear layers, one of which is not trained."""
    monkeypatch.setattr(counted, "world", lambda: 2)
    method = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2, bias=False))
    method.config = SimpleNamespace(projection=5)
    method[1].requires_grad_(False)
    found = counted.expected("simclr", method, 6)
    assert found == {
        "all_reduce": 4 * 16, "all_gather": 4 * (2 * 6 // 2 * 5), "all_to_all": 4 * 2 * 6 * 5,
    }  # fmt: skip
    monkeypatch.setattr(counted, "world", lambda: 1)
    assert counted.expected("simclr", method, 6) == {}
    optimizer = torch.optim.Adam(method[0].parameters())
    method(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    steps = 4 * len(list(method[0].parameters()))  # Adam counts them as float32
    state = SimpleNamespace(method=method, optimizer=optimizer)
    assert counted.held(state) == 4 * (16 + 8) + 4 * 2 * 16 + steps + 4 * 16
    assert math.isclose(counted.statistics(torch.nn.BatchNorm1d(3)), 0)
    assert counted.statistics(torch.nn.ModuleList([counted.SyncBatchNorm(3)] * 1)) == 7
