"""The bench of intervals: its means are those of the bounds, it counts right, and it continues."""

import json

import numpy as np
import pytest

from core.errors import UserError
from scripts.benches import intervals


def test_the_mean_from_positive_pairs_is_the_mean_of_many_draws():
    """At 2 nats the tail is light, so both ways to the mean agree, and NWJ's is the truth."""
    source = intervals.Pairs(2.0, 5, 0)
    for slope, critic in ((1.0, "exact"), (0.8, "flat")):
        read, alpha = intervals.critic_of(intervals.Setting(2.0, critic), source, 1000)
        draws = [intervals.one_draw(source, read, alpha, 1000) for _ in range(20)]
        for name in ("alpha", "nwj"):
            value, mean = (
                np.mean([draw[name][key] for draw in draws]) for key in ("value", "mean")
            )
            assert value == pytest.approx(mean, abs=0.06)
            assert slope < 1 or name == "alpha" or mean == pytest.approx(2.0, abs=0.03)


def test_shares_are_counted():
    """Intervals 1 ± 0.5 and 2 ± 0.5 around a mean of 1.5 and 1.2; an allowance lowers one end."""
    error = 0.5 / 1.96
    draws = [{"value": value, "error": error, "unseen": 0.0} for value in (1.0, 1.0, 2.0, 2.2)]
    found = intervals.judged("alpha", draws, 1.6)  # mean 1.55
    assert found["mean"] == pytest.approx(1.55) and found["covers"] == found["plain"] == 0.25
    assert found["above"] == 0.25
    low = [draw | {"mean": 1.45, "unseen": 0.1} for draw in draws]
    found = intervals.judged("alpha", low, 1.65)  # 1 ± .5 contains 1.45; 2 - .5 - .1 is below it
    assert found["mean"] == 1.45 and (found["covers"], found["plain"]) == (0.75, 0.5)
    assert found["above"] == 0
    row = intervals.judged("nwj", low[:3] + [draws[3] | {"unseen": 0.2}], 1.39)
    assert row["left_out"] == 0.25 and row["above"] == pytest.approx(1 / 3)
    assert row["mean"] == 1.45  # of all draws
    none = intervals.judged("nwj", [draws[0] | {"unseen": 0.2}], 1.0)
    assert none == {"mean": 1.0, "left_out": 1.0}
    assert intervals.judged("alpha", [draws[0] | {"unseen": 0.2}], 1.0)["left_out"] == 0


def test_an_interrupted_bench_continues(tmp_path, monkeypatch, capsys):
    made = []

    def measured(setting, options, seed):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append((setting, seed))
        share = {"mean": 1.0, "covers": 0.9, "plain": 0.8, "above": 0.0, "left_out": 0.0}
        return {**setting._asdict(), **dict.fromkeys(intervals.BOUNDS, share)}

    words = ["--nats", "2,4", "--critics", "exact,flat", "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patched:
        patched.setattr(intervals, "measured", measured)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            intervals.main(words)
    kept = json.loads((tmp_path / "out" / "intervals.json").read_text())["rows"]
    assert [(row["nats"], row["critic"]) for row in kept] == [(2, "exact"), (2, "flat")]
    made.clear()
    monkeypatch.setattr(intervals, "measured", measured)
    intervals.main(words)
    assert [(one.nats, one.critic, seed) for one, seed in made] == [(4, "exact", 3), (4, "flat", 4)]
    assert (
        "alpha, 4 settings: intervals cover the bound's mean in 90% of the draws"
        in capsys.readouterr().out
    )
    with pytest.raises(SystemExit) as end:
        intervals.main([*words, "--seed", "1"])
    assert end.value.code == 2 and "other options" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--nats", "0"], "above 0"),
        (["--nats", "six"], "numbers separated by commas"),
        (["--critics", "exact,blunt"], "no 'blunt'"),
        (["--draws", "1"], "--draws"),
        (["--pairs", "50"], "--pairs"),
    ],
)
def test_options_that_can_not_be_are_refused(words, said):
    with pytest.raises(UserError, match=said):
        intervals.arguments(words)


def test_a_setting_through_the_front_door(tmp_path, capsys):
    intervals.main(
        ["--nats", "1", "--critics", "fitted", "--dimensions", "2", "--pairs", "200"]
        + ["--draws", "2", "--out", str(tmp_path)]
    )
    row = json.loads((tmp_path / "intervals.json").read_text())["rows"][0]
    assert 0.5 < row["infonce"]["mean"] < 1.2 and row["alpha"]["above"] in (0, 0.5, 1)
    assert "1/1 1 nats, fitted critic" in capsys.readouterr().out
