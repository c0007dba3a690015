"""The study of bounds on images: rows are keyed by what they were computed from, errors take one
line, and the peers' values on training batches are no bounds.
"""

import argparse
import json
import math

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from core.errors import UserError
from core.information.bounds import dv
from core.information.scores import paired
from probes.report import image_figures
from probes.samples import image_sources, image_truth
from scripts import image_peers
from scripts import image_truth as script
from tests.front_door import run_script

PLAIN = {"value": 0.6, "error": 0.02, "verdict": "converged"}


def row_of(source: str, kind: str, n: int, truth: float, **more: object) -> dict:
    entries = dict.fromkeys(image_truth.ESTIMATORS, PLAIN)
    peers = {"training": 1.5, "held_out": 0.4, "error": 0.1}
    made = {"source": source, "kind": kind, "pairs": n, "truth": truth, "own": truth, "best": truth}
    made |= {"candidates": n // 5, "estimators": entries, "peers": {"mine": peers, "dv": peers}}
    return made | more


@pytest.fixture
def asked(monkeypatch):
    """The sources that are measured, instead of measuring them."""
    found = []

    def measure(name, source, pairs, seed):
        found.append((name, len(pairs.x), seed))
        row = row_of(name, "", len(pairs.x), source.information)
        return {key: value for key, value in row.items() if key not in ("source", "kind", "peers")}

    monkeypatch.setattr(image_truth, "measure", measure)
    monkeypatch.setattr(image_peers, "peers", lambda x, y, seed: row_of("", "", 5, 0.0)["peers"])
    return found


def test_rows_are_kept_and_the_page_and_the_picture_are_written(tmp_path, asked, capsys):
    out = tmp_path / "out"
    words = ["--only", "M = 16,M = 2", "--pairs", "120,100", "--out", str(out)]
    script.main([*words, "--only", "M = 16"])
    assert asked == [("sprites M = 16", n, 0) for n in (100, 120)]
    assert "1 of 2 rows, about" in capsys.readouterr().out
    script.main(words)  # the two rows above are kept
    names = [task.name for task in script.tasks() if "M = 2" in task.name]
    assert asked[2:] == [(name, n, 0) for n in (100, 120) for name in names]
    told = capsys.readouterr().out
    assert told.count("measured before") == 2 and "MINE 0.40 (training batches 1.50)" in told
    page = (out / "image_truth.md").read_text()
    held = json.loads((out / "image_truth.json").read_text())
    assert "| sprites M = 16 | 100 | 20 | 2.773 |" in page and "MINE, training batches" in page
    assert [row["pairs"] for row in held["rows"]] == [100, 120] * 3
    assert imread(out / "image_truth.png").std() > 0.05
    asked.clear()
    damaged = sorted((out / "rows").glob("*.json"))
    damaged[0].write_text("{")
    damaged[1].write_text('{"key": 1}')
    script.main(words)
    assert len(asked) == 2  # what is damaged is measured again
    script.main([*words, "--seed", "1"])
    assert len(asked) == 8 and {seed for *_, seed in asked[2:]} == {1}


def test_an_interrupted_call_leaves_the_page_of_what_is_done(tmp_path, asked, monkeypatch):
    def interrupted(x, y, seed):
        if len(x) == 120:
            raise KeyboardInterrupt
        return row_of("", "", 5, 0.0)["peers"]

    monkeypatch.setattr(image_peers, "peers", interrupted)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        script.main(["--only", "M = 16", "--pairs", "100,120", "--out", str(tmp_path)])
    page = (tmp_path / "image_truth.md").read_text()
    assert page.count("| sprites M = 16 | 100 |") == 2 and "| 120 |" not in page
    assert len(list((tmp_path / "rows").iterdir())) == 1


def test_a_row_is_of_its_pixels_its_seed_and_its_numbers():
    x = np.zeros((5, 1, 2, 2), np.uint8)
    pairs = image_sources.ImagePairs(x, x, np.zeros(5))
    key = image_truth.key_of("a", pairs, 0)
    others = (
        image_truth.key_of("b", pairs, 0),
        image_truth.key_of("a", pairs._replace(y=x + 1), 0),
        image_truth.key_of("a", pairs._replace(pointwise=np.ones(5)), 0),
        image_truth.key_of("a", pairs, 1),
    )
    assert key == image_truth.key_of("a", pairs, 0) and key not in others


@pytest.mark.parametrize(
    "words, message",
    [
        (("--root", "nowhere"), "--root: nowhere does not hold MNIST"),
        (("--only", "sprite,", "--pairs", "500,many"), "--pairs: 'many' is not a number"),
        (("--pairs", "50"), "--pairs: '50' is not a number of pairs from 100"),
        (("--only", "cats"), "--only: no source has cats in its name"),
        (("--seed", "-1"), "--seed: must be 0 or more"),
        (("--only", "M = 16", "--out", "a_file"), "--out: a_file"),
    ],
)
def test_mistakes_take_one_line(tmp_path, words, message):
    (tmp_path / "a_file").write_text("")
    told = run_script("image_truth.py", *words, cwd=tmp_path)
    assert told.returncode == 2 and message in told.stderr, told.stderr
    assert len(told.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def test_a_folder_with_files_that_are_not_mnist(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(UserError, match="--root: .* does not hold MNIST"):
        script.read_pools(tmp_path)


def test_a_source_of_each_kind_for_a_quick_look():
    options = script.arguments(["--quick"])
    assert options.pairs == [500]
    assert [task.kind for task in options.tasks] == list(image_figures.KINDS)
    assert isinstance(options, argparse.Namespace)


def test_what_is_measured_of_a_source(monkeypatch):
    """The default estimate, the sample's own information and the best possible value."""
    from probes.samples import conv

    monkeypatch.setattr(conv, "LEAST_STEPS", 10)
    monkeypatch.setattr(conv, "MOST_EPOCHS", 2)
    (task,) = (task for task in script.tasks() if task.name == "sprites M = 2")
    source = task.make(None)
    row = image_truth.measure(task.name, source, source.draw(100, 0), 0)
    assert row["truth"] == row["own"] == math.log(2) and row["own_error"] == 0
    assert row["candidates"] == 20 and row["best"] == source.best(20)
    assert set(row["estimators"]) <= set(image_truth.ESTIMATORS) and "dv" in row["estimators"]


def test_the_summary_counts_what_is_too_high_and_what_misleads():
    high = {"infonce": {**PLAIN, "value": 0.9, "error": 0.05}}
    rows = [
        row_of("a", "digits", 500, 0.6),
        row_of("b", "digits", 500, 0.7),
        row_of("c", "digits", 500, 0.6, estimators=high, own=0.7),  # its own information counts
    ]
    said = image_truth.summary({"rows": rows, "seed": 0})
    assert "A lower bound is more than 3 standard errors above" in said
    assert "The highest one, infonce on c, n = 500, is 4.0 standard errors above it." in said
    assert "below the truth in 1 rows; the verdict is converged in 1 of them" in said
    assert "MINE on its training batches, as published, is above the truth by more than 0.1" in said
    assert "in 3 of 3 rows (by 0.90 at most). On held-out pairs, this is so in 0 rows." in said
    assert "No lower bound" in image_truth.summary({"rows": rows[:2], "seed": 0})


def test_peers_are_too_high_on_training_batches_of_independent_pairs(monkeypatch):
    """A critic that learns 80 training pairs by heart reads information where there is none; on
    held-out pairs it does not.
    """
    monkeypatch.setattr(image_peers, "STEPS", 120)
    monkeypatch.setattr(image_peers, "BATCH", 40)
    monkeypatch.setattr(image_peers, "RATE", 5e-3)
    random = np.random.default_rng(0)
    x, y = (random.integers(0, 255, (100, 1, 8, 8)).astype(np.uint8) for _ in range(2))
    found = image_peers.peers(x, y, 0)
    assert tuple(found) == image_peers.NAMES
    for peer in found.values():
        assert peer["training"] > 0.3 and peer["held_out"] < 0.1
    assert found == image_peers.peers(x, y, 0)


def test_held_out_values_of_the_peers_are_donsker_varadhan():
    g, h = torch.randn(2, 30, image_peers.CODES, generator=torch.Generator().manual_seed(0))
    separable = image_peers.Peer((1, 1), joint=False)
    value, _ = image_peers._held(separable, g, h)
    assert value == pytest.approx(dv(paired(g / 8, h)).terms.mean().item(), rel=1e-5)
    batch, loss = image_peers._dv(separable, g, h)
    assert batch == pytest.approx(value, rel=1e-4) and loss.item() == pytest.approx(-batch)
    joint = image_peers.Peer((1, 1), joint=True)
    with torch.no_grad():
        value, _ = image_peers._held(joint, g, h)
        own = joint.score(g, h)
        others = torch.stack([joint.score(g, h.roll(s, 0)) for s in range(1, 30)])
    expected = own.mean() - others.exp().mean().log()
    assert value == pytest.approx(expected.item(), abs=1e-5)
