"""The account of pretraining, for a curve whose area is known and for logs of unknown origin."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest

from core.errors import Unmeasurable
from probes import account
from probes.report.store import check


def written(folder, rows):
    path = folder / "metrics.jsonl"
    path.write_text(
        "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)
    )
    return path


def test_an_exponential_loss_has_its_area():
    """loss = 2 + 3 exp(-t / 50): the area above 2 is 150 steps."""
    steps = np.arange(0, 1001, 2)
    curve = account.Curve(steps, 2 + 3 * np.exp(-steps / 50), "nelbo")
    found = account.account(curve, 32)
    assert found["nats"] == pytest.approx(32 * 150, rel=1e-3)
    assert found["final"] == pytest.approx(2, abs=1e-6) and found["images"] == 32_000
    assert found["kbits"] == pytest.approx(found["nats"] / math.log(2) / 1000)
    flat = account.account(account.Curve(steps, np.full(len(steps), 2.0), "nelbo"), 32)
    assert flat["nats"] == 0


def test_a_log_is_read_up_to_the_step_of_the_weights(tmp_path):
    rows = [{"step": 10 * i, "nelbo": 100.0 - i, "train_bound": 1.0} for i in range(1, 21)]
    rows += [{"step": 50, "nelbo": 7.0}, {"step": 60, "val/loss": 3}]
    curve = account.read_curve(written(tmp_path, rows), 120)
    assert curve.key == "nelbo" and curve.steps.tolist() == list(range(10, 121, 10))
    assert curve.loss[4] == 7.0 and curve.loss[0] == 99.0


def test_a_bound_that_rises_is_a_loss_that_falls(tmp_path):
    rows = [
        {"step": i, "train_bound": 3 - 3 * math.exp(-i / 5), "loss": 9.0} for i in range(1, 101)
    ]
    found = account.account(account.read_curve(written(tmp_path, rows), 1000), 10)
    # a value is that of its step's end: the rule's first step adds exp(-1/5) 3, the rest is 15
    expected = 15 * math.exp(-1 / 5) + 3 * math.exp(-1 / 5)
    assert found["nats"] == pytest.approx(10 * expected, rel=0.01)


@pytest.mark.parametrize(
    "line",
    [
        "no json\n",
        "[" * 5000 + "\n",
        '{"step": 1e3, "nelbo": 1}\n',
        '{"step": -5, "nelbo": 1}\n',
        '{"step": true, "nelbo": 1}\n',
        '{"step": 5, "nelbo": NaN}\n',
        '{"step": 5, "nelbo": 1' + "0" * 400 + "}\n",
        '{"step": 5, "nelbo": "1"}\n',
        '{"step": ' + "9" * 5000 + "}\n",
    ],
)
def test_a_strange_line_is_left_out(tmp_path, line):
    with pytest.raises(Unmeasurable, match="no loss in nats"):
        account.read_curve(written(tmp_path, [line]), 100)
    rows = [line, *({"step": 10 * i, "nelbo": 1.0} for i in range(1, 13))]
    assert len(account.read_curve(written(tmp_path, rows), 1000).steps) == 12


def test_what_has_no_account_says_why(tmp_path, monkeypatch):
    with pytest.raises(Unmeasurable, match="no metrics.jsonl"):
        account.read_curve(tmp_path / "metrics.jsonl", 1)
    path = written(tmp_path, [{"step": 1, "nelbo": 1.0}])
    with pytest.raises(Unmeasurable, match="has 1 steps with nelbo; it needs 10"):
        account.account(account.read_curve(path, 1), 1)
    monkeypatch.setattr(account, "LARGEST", 3)
    with pytest.raises(Unmeasurable, match="larger than 3 bytes"):
        account.read_curve(path, 1)
    with pytest.raises(Unmeasurable, match="needs a run with its log"):
        account.AccountProbe().measure(SimpleNamespace(folder=None))


def test_the_report(tmp_path):
    rows = [{"step": 10 * i, "nelbo": 50 / i} for i in range(1, 31)]
    written(tmp_path, rows)
    trained = SimpleNamespace(optim=SimpleNamespace(batch_size=8))
    frozen = SimpleNamespace(folder=tmp_path / "features", step=300, trained=trained)
    probe = account.AccountProbe()
    found = probe.measure(frozen)
    assert "an estimate, not a bound" in probe.sentences(found.numbers)[0]
    assert len(probe.cells(found.numbers)) == len(probe.values(found.numbers)) == 1
    picture = probe.figures(found, frozen, tmp_path)["account"]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    check(probe, found.numbers)
    assert json.loads(json.dumps(found.numbers, allow_nan=False)) == found.numbers
