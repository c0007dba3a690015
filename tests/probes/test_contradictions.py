"""Reports whose numbers were changed by hand: they are refused, honest ones are shown."""

import csv
import json

import pytest

from probes.report.contradictions import contradiction
from scripts import report as page
from tests.reports import call, information, rate, refused, written

TEST = {"fingerprint": "f" * 64, "images": 64}
RECALL = [{"k": 1, "recall": 0.2, "low": 0.1, "high": 0.3, "chance": 0.02}]
RETRIEVAL = {"gallery": 50, "image_to_text": RECALL, "text_to_image": RECALL}


def honest(folder):
    """A report without contradictions, and its path."""
    shares = {"top1": 0.5, "top1/shape": 0.75, "information": 0.3}
    known = information() | {"images": 63, "copies_left_out": 1}
    for row in (last := known["critics"]["common"])["sweep"]:
        row |= {"K": row["K"] - 1, "candidates": row["K"], "bound": 2.0, "low": 1.9, "high": 2.1}
        row["ceiling"] = {16: 2.7726, 32: 3.4657, 63: 4.1431}[row["candidates"]]
    proof = {"low": 1.0, "point": 1.5, "candidates": 8, "blocks": 7, "confidence": 0.99}
    last["certificate"] = proof
    identity = {"data": {"train": {"fingerprint": "e" * 64}, "test": TEST}, "run_seed": 0}
    run = written(folder, identity=identity, linear=shares, information=known, rate=rate())
    path = run / "probe/probe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"retrieval": RETRIEVAL}))
    return path


SWEEP = "information.critics.common.sweep.2"
EDITS = [  # the place of a number, its new value, what is said
    ("linear.top1/shape", 1.2, "linear' is damaged"),
    (f"{SWEEP}.bound", 4.2, "outside its interval"),
    (f"{SWEEP}.low", 2.05, "outside its interval"),
    (f"{SWEEP}.ceiling", 9.0, "but log 63 is 4.143"),
    (f"{SWEEP}.K", 63, "but it has 63 candidates"),
    (f"{SWEEP}.candidates", 0, "too few"),
    ("information.images", 62, "has up to 63 candidates, but 62 images"),
    ("information.copies_left_out", 2, "counts 65 images, but the test split has 64"),
    ("information.copies_left_out", 0, "counts 63 images, but the test split has 64"),
    ("information.images", 63.5, "a count is a whole number"),
    ("information.critics.common.certificate.low", 1.6, "above its mean 1.5"),
    ("information.critics.common.certificate.point", 2.2, "above its ceiling log 8"),
    ("rate.nelbo.value", 98.05, "D + R is 98"),
    ("rate.upper.value", 9.2, "outside its interval"),
    ("rate.active_units", 9, "above its latent_dimensions 8"),
    ("rate.ceiling", 5.0, "above its ceiling 5"),
    ("retrieval.image_to_text.0.chance", 1.02, "between 0 and 1"),
]


@pytest.mark.parametrize(("place", "value", "said"), EDITS)
def test_a_number_that_contradicts_others_is_refused(place, value, said, tmp_path, capsys):
    path = honest(tmp_path / "a")
    held = part = json.loads(path.read_text())
    *keys, last = place.split(".")
    for key in keys:
        part = part[int(key) if key.isdigit() else key]
    assert last in part
    part[last] = value
    path.write_text(json.dumps(held))
    line = refused(call(capsys, tmp_path / "a", "--out", tmp_path / "c.png"))
    assert line and str(path) in line and said in line and "run `twobounds probe` again" in line
    assert refused(call(capsys, tmp_path / "a", "-o", tmp_path / "c.html", main=page.main)) == line
    assert not list(tmp_path.glob("c.*"))


def test_a_report_without_contradictions_is_shown(tmp_path, capsys):
    path = honest(tmp_path / "a")
    held = json.loads(path.read_text())
    assert not any(contradiction(held, name) for name in ("linear", "information", "rate"))
    code, said, _ = call(capsys, tmp_path / "a", "--out", tmp_path / "c.png")
    assert code == 0 and "2.00 ± 0.10" in said


def test_a_mean_over_some_seeds_says_how_many(tmp_path, capsys):
    """The table said it already; the page and the files for other programs must, too."""
    runs = [written(tmp_path / f"m/seed{seed}", seed=seed) for seed in (0, 1, 2)]
    path = runs[1] / "probe/probe.json"
    held = json.loads(path.read_text())
    del held["knn"]
    path.write_text(json.dumps(held))
    table, latex, html = tmp_path / "t.csv", tmp_path / "t.tex", tmp_path / "p.html"
    words = (*runs, "--out", tmp_path / "c.png", "--csv", table, "--latex", latex)
    code, said, _ = call(capsys, *words)
    assert code == 0 and "(3 seeds)" in said and "(2 of 3)" in said
    (line,) = csv.DictReader(table.open())
    assert line["seeds"] == "3" and line["kNN % seeds"] == "2" and "linear % seeds" not in line
    assert latex.read_text().count("(2 of 3)") == 1
    assert call(capsys, *runs, "-o", html, main=page.main)[0] == 0
    body = html.read_text().partition("<tbody")[2].partition("</tbody>")[0]
    assert ">50.0 ± 0.0 (2 of 3)<" in body
