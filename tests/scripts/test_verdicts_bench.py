"""The bench of verdicts: it continues, and counts which values are called converged."""

import json
import math
import re

import numpy as np
import pytest

from probes.samples import panel
from scripts.benches import verdicts

PLAIN = {"value": 1.0, "error": 0.1, "verdict": "converged"}


def row_of(source, seed=0):
    entry = PLAIN | {"value": {"vectors": 0.5, "pictures": 1.2, "codes": 1.5}[source.kind]}
    return {
        "source": source.name,
        "kind": source.kind,
        "truth": 1.0,
        "estimators": {"infonce": entry},
    }


def test_an_interrupted_bench_continues_and_counts(tmp_path, monkeypatch, capsys):
    made = []

    def measured(source, seed):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(source.name)
        return row_of(source)

    monkeypatch.setattr(verdicts, "measured", measured)
    words = ["--sources", "6", "--out", str(tmp_path / "out")]
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        verdicts.main(words)
    monkeypatch.setattr(verdicts, "measured", lambda s, seed: made.append(s.name) or row_of(s))
    capsys.readouterr()
    verdicts.main(words)
    assert made == [source.name for source in verdicts.sources(6, 0, [5000, 10000])]
    said = " ".join(capsys.readouterr().out.split())
    assert "all: 6 sources. Values" in said and "codes: 2 sources. Values" in said
    # all, vectors, pictures, which are only two errors above the truth, and codes
    assert re.findall(r"standard errors above the truth: (\d)", said) == ["2", "0", "0", "2"]
    short = re.findall(r"short of the truth: (\d), of which converged: (\d)", said)
    near = re.findall(r"or above it: (\d), of which converged: (\d)", said)
    assert short == [("2", "2"), ("2", "2"), ("0", "0"), ("0", "0")]
    assert near == [("4", "4"), ("0", "0"), ("2", "2"), ("2", "2")]


@pytest.mark.parametrize("change", ["seed", "sources", "pairs", "format", "damage"])
def test_rows_of_another_call_are_refused(tmp_path, capsys, change):
    kept = {"sources": 3, "seed": 0, "pairs": [5000, 10000], "rows": []}
    kept |= {"format": verdicts.FORMAT}
    text = "{" if change == "damage" else json.dumps(kept | {change: 99})
    (tmp_path / "verdicts.json").write_text(text)
    with pytest.raises(SystemExit) as end:
        verdicts.main(["--sources", "3", "--out", str(tmp_path)])
    assert end.value.code == 2 and len(capsys.readouterr().err.strip().splitlines()) == 1
    assert (tmp_path / "verdicts.json").read_text() == text


def test_codes_of_a_checkpoint_share_information_of_the_contents(monkeypatch):
    """Two views of the same content: less than all of it, as the network has made eight steps."""
    for name in ("LEAST_STEPS", "MOST_STEPS"):
        monkeypatch.setattr(panel, name, 40)
    source = verdicts._codes(5, 200, np.random.default_rng(1))
    assert source.name == "SimCLR, 32 contents, 8 steps, n = 200"
    row = verdicts.measured(source, seed=0)
    assert row["truth"] == math.log(32) and row["pairs"] == 200 and row["kind"] == "codes"
    assert 0.5 < row["estimators"]["infonce"]["value"] < row["truth"]


def test_the_two_views_of_a_code_have_nuisance_of_their_own():
    source = verdicts._codes(3, 50, np.random.default_rng(2))
    assert ", 1 steps" in source.name
    x, y, truth = source.draw()
    assert x.shape == y.shape == (50, 32) and truth >= math.log(16)
    assert not np.isclose(x, y).all(1).any()
