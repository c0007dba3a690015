"""Probes of the user's own in a comparison of checkpoints."""

import csv
import sys

import pytest

from tests.reports import call, refused, written

OWN = (
    "from probes.probe import Probe\n\n\n"
    "class Spectrum(Probe):\n"
    "    name, summary, columns = 'spectrum', 'the largest singular value', ('sigma',)\n"
    "    panel = 'Spectrum'\n\n"
    "    def cells(self, numbers):\n"
    "        return [f\"{numbers['largest']:.3f}\"]\n\n"
    "    def draw(self, axes, entries):\n"
    "        axes.bar([e.place for e in entries], [e.numbers['largest'] for e in entries])\n"
)


@pytest.fixture
def own_probe(tmp_path, monkeypatch):
    """The name of a probe in a package of the user's own."""
    (tmp_path / "ownpackage").mkdir()
    (tmp_path / "ownpackage" / "spectrum.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "ownpackage.spectrum.Spectrum"
    for name in ("ownpackage.spectrum", "ownpackage"):
        sys.modules.pop(name, None)


def test_a_probe_of_ones_own_is_in_table_csv_latex_and_picture(tmp_path, capsys, own_probe):
    runs = [
        written(tmp_path / f"run{i}", key=str(i), spectrum={"largest": 12.3456 + i}) for i in (0, 1)
    ]
    picture, table, tex = (tmp_path / name for name in ("c.svg", "t.csv", "t.tex"))
    outputs = ("--out", picture, "--csv", table, "--latex", tex)
    code, said, err = call(capsys, *runs, *outputs)
    assert code == 0 and "sigma" not in said + table.read_text() + tex.read_text(), err
    without = picture.read_text().count('<g id="axes_')
    code, said, err = call(capsys, *runs, *outputs, "--probes", own_probe)
    assert code == 0 and "sigma" in said and "12.346" in said and "linear %" in said, err
    rows = list(csv.DictReader(table.open()))
    assert [float(row["sigma"]) for row in rows] == [12.346, 13.346] and "linear %" in rows[0]
    assert "sigma" in tex.read_text() and "13.346" in tex.read_text()
    assert picture.read_text().count('<g id="axes_') == without + 1
    code, said, _ = call(capsys, *runs, *outputs, "--probes", f"linear,{own_probe}")
    rows = list(csv.DictReader(table.open()))
    assert code == 0 and "sigma" in rows[0] and "linear %" in rows[0] and "kNN %" not in rows[0]


def test_the_numbers_of_ones_own_probe_are_checked(tmp_path, capsys, own_probe):
    run = written(tmp_path / "run", spectrum={"smallest": 1.0})
    out = tmp_path / "c.png"
    said = refused(call(capsys, run, "--out", out, "--probes", own_probe))
    assert "'spectrum' is damaged, or the probe can not show it (KeyError: 'largest')" in said
    assert not out.exists()


def test_a_panel_of_ones_own_probe_that_fails_is_named(tmp_path, capsys, own_probe):
    run, out = written(tmp_path / "run", spectrum={"largest": 1.0}), tmp_path / "c.png"
    file = tmp_path / "ownpackage" / "spectrum.py"
    file.write_text(
        f"{file.read_text()}\n\ndef draw(self, axes, entries):\n"
        "    raise ValueError('no such axis')\n\n\nSpectrum.draw = draw\n"
    )
    code, _, err = call(capsys, run, "--out", out, "--probes", own_probe)
    assert code == 2 and "can not show it (ValueError: no such axis)" in err and not out.exists()


@pytest.mark.parametrize(
    "name",
    [
        "lineer",
        ".Spectrum",
        "a..B",
        "a/b.C",
        "ownpackage.spectrum.Nothing",
        "ownpackage.none.X",
        "os.path",
        "json.dumps",
    ],
)
def test_what_is_no_probe_is_refused_in_one_line(name, tmp_path, capsys, own_probe):
    said = refused(call(capsys, written(tmp_path / "run"), "--probes", name))
    assert said.startswith("error: --probes: ")


def test_help_says_how_a_probe_of_ones_own_is_shown(capsys):
    _, said, _ = call(capsys, "--help")
    assert "package.module.Class" in said


def test_numbers_of_ones_own_probe_that_are_not_shown_are_said_in_one_line(
    tmp_path, capsys, own_probe
):
    runs = [
        written(tmp_path / f"run{i}", key=str(i), spectrum={"largest": 1.0 + i}) for i in (0, 1)
    ]
    out = ("--out", tmp_path / "c.png")
    code, said, err = call(capsys, *runs, *out)
    (line,) = [line for line in said.splitlines() if line.startswith("not shown:")]
    assert code == 0 and "spectrum" in line and "--probes package.module.Class" in line, err
    for shown in ((own_probe,), ("linear",)):
        assert "not shown" not in call(capsys, *runs, *out, "--probes", *shown)[1]
    plain = written(tmp_path / "plain")
    assert "not shown" not in call(capsys, plain, *out)[1]
