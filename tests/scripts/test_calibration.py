"""scripts/calibrate.py turns sources of known information into a table, a picture and a summary."""

import json
import sys
from pathlib import Path

import pytest

from probes.samples import calibration
from tests.front_door import ROOT, Done, run_code
from tests.quick import QUICK


def script(*words: str, cwd: Path) -> Done:
    return run_code(QUICK, ROOT / "scripts/calibrate.py", *words, cwd=cwd)


def test_a_table_a_picture_and_the_figures(tmp_path):
    told = script(
        "--pairs",
        "400",
        "--only",
        "5 x 5 of 0,channel of 4,10 nats",
        "--out",
        "out/here",
        cwd=tmp_path,
    )
    assert told.returncode == 0, told.stderr
    assert "No lower bound is more than 3 standard errors" in told.stdout
    found = json.loads((tmp_path / "out/here.json").read_text())
    assert [row["source"] for row in found["rows"]] == [
        "gaussian 5 x 5 of 0 nats",
        "gaussian 20 x 20 of 10 nats",
        "channel of 4 letters",
    ]
    assert found["pairs"] == 400 and found["largest_excess"]["standard_errors"] <= 3
    assert found["mean_absolute_error"]["infonce"] < 0.2  # over the two sources below 4 nats
    table = (tmp_path / "out/here.md").read_text()
    assert table.count("\n| ") == 4 and "saturated" in table
    assert (tmp_path / "out/here.png").stat().st_size > 10_000


def row(
    value: float, truth: float = 1.0, own: float = 1.0, side: str = "lower bound", **more: float
) -> dict:
    entry = {"value": value, "error": 0.1, "side": side, "verdict": "converged"}
    return {
        "source": "s",
        "dimensions": (1, 1),
        "truth": truth,
        "own": own,
        "seconds": 2.0,
        "estimators": {"infonce": entry},
        **more,
    }


def test_an_excess_is_counted_from_the_samples_own_information():
    assert calibration.excess(row(1.5), "infonce") == pytest.approx(5)
    assert calibration.excess(row(1.5, truth=9.0, own=1.4), "infonce") == pytest.approx(1)
    found = calibration.collect([row(1.5), row(0.9)], 100, 0, "suite")
    assert found["largest_excess"]["standard_errors"] == pytest.approx(5)
    assert "A lower bound is 5.0 standard errors above" in calibration.summary(found)
    assert found["mean_absolute_error"] == {"infonce": pytest.approx(0.3)}


def test_verdicts_are_counted_against_the_truth_and_equal_sources_once():
    rows = [row(0.8), row(0.8), row(0.97), row(0.96), row(0.85)]
    for number, word in ((1, "data-limited"), (3, "data-limited"), (4, "K-limited")):
        rows[number]["estimators"]["infonce"]["verdict"] = word
    for number, name in enumerate("abcde"):
        rows[number]["source"] = name
    found = calibration.collect(rows, 100, 0, "suite")
    assert found["verdicts"] == {
        "short": 3,
        "short_converged": ["a"],
        "near": 2,
        "near_converged": 1,
        "outside": 2,
    }
    assert found["distinct"] == {
        "sources": 4,
        "infonce": pytest.approx((0.2 + 0.03 + 0.04 + 0.15) / 4),
    }
    told = calibration.summary(found)
    assert (
        "the verdict is converged on 1 of them (a)" in told
        and "Below 4 nats, 4 sources are distinct" in told
    )


def test_the_peer_is_compared_in_nats_and_in_time():
    found = calibration.collect(
        [row(0.9, peer=0.7, peer_seconds=6.0), row(5.0, 5.0, 5.0, peer=3.0, peer_seconds=2.0)],
        100,
        0,
        "benchmark-mi",
    )
    assert found["mean_absolute_error"] == {
        "infonce": pytest.approx(0.1),
        "benchmark-mi infonce": pytest.approx(0.3),
    }
    assert found["peer_time_over_ours"] == pytest.approx(2.0)
    assert "the median ratio of its time to ours is 2.00" in calibration.summary(found)


@pytest.mark.parametrize(
    "words, message",
    [
        (("--only", "nothing like it"), "no source has"),
        (("--pairs", "10"), "--pairs"),
        (("--seed", "-1"), "--seed"),
        (("--peer", "/nowhere/python"), "can not be run"),
        (("--peer", sys.executable), "has no working benchmark-mi"),
    ],
)
def test_bad_input_is_one_line(tmp_path, words, message):
    told = script(*words, cwd=tmp_path)
    assert (
        told.returncode == 2
        and len(told.stderr.strip().splitlines()) == 1
        and message in told.stderr
    )
