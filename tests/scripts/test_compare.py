"""The comparison of probed checkpoints, as a user calls it, with artificial or damaged reports."""

import copy
import csv
import json
import math
import random

import pytest

from probes.registry import PROBES
from probes.report import comparison, figures, groups, sweep_figures
from probes.report.naming import distinct, names
from probes.session import load_probes
from tests.reports import call, information, rate, refused, written

# of the second seed, on other training images and the same test images
OTHER_TRAIN = {
    "data": {"train": {"fingerprint": "e" * 64}, "test": {"fingerprint": "f" * 64}},
    "run_seed": 1,
    "views": "crop",
}
KNOWN = load_probes(list(PROBES))


def test_seeds_of_one_config_are_mean_and_standard_deviation(tmp_path, capsys):
    runs = [
        written(tmp_path / f"simclr/seed{i}", seed=i, top1=top1)
        for i, top1 in enumerate((0.988, 0.991, 0.994))
    ]
    out, table = tmp_path / "fig.pdf", tmp_path / "t.csv"
    words = (*runs, "--out", out, "--csv", table, "--latex", tmp_path / "t.tex")
    code, said, err = call(capsys, *words)
    assert code == 0, err
    assert "simclr (3 seeds)" in said and "99.1 ± 0.3" in said
    assert "standard deviation over seeds" in " ".join(said.split())
    assert out.read_bytes()[:5] == b"%PDF-"
    (line,) = csv.DictReader(table.open())
    assert float(line["linear %"]) == pytest.approx(99.1)
    assert float(line["linear % sd over seeds"]) == pytest.approx(0.3)
    assert line["seeds"] == "3" and "I(V1;V2) ≥ (nats) low" not in line
    assert (
        r"simclr (3 seeds) & SimCLR & sprites & 99.1 $\pm$ 0.3" in (tmp_path / "t.tex").read_text()
    )
    code, said, _ = call(capsys, *runs, "--each", "--out", out, "--csv", table)
    assert code == 0 and "seeds)" not in said and "seed2" in said
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 3
    assert float(rows[0]["I(V1;V2) ≥ (nats) low"]) < float(rows[0]["I(V1;V2) ≥ (nats)"])


@pytest.mark.parametrize("second", ["crop", "fresh rendering", None])
def test_runs_on_other_views_are_reported_and_named(second, tmp_path, capsys):
    """I(V1; V2) depends on how views are made: crops and colour changes give different
    quantities.
    """
    runs = []
    for name, views in (("a", "simclr"), ("b", second), ("c", "simclr")):
        more = {"information": information() | ({"augmentation": views} if views else {})}
        runs.append(written(tmp_path / name, key=name, **more))
    code, said, _ = call(capsys, *runs, "--out", tmp_path / "fig.png")
    said = " ".join(said.split())
    assert code == 0
    if second is None:  # a report without this key is not treated as different
        assert "a different quantity" not in said and " views" not in said
        return
    assert f"in different ways: simclr (a, c) and {second} (b); I(V1; V2) is a different" in said
    assert "a · simclr views" in said and f"b · {second} views" in said
    code, said, _ = call(capsys, runs[0], runs[2], "--out", tmp_path / "fig.png")
    assert code == 0 and " views" not in said


@pytest.mark.parametrize(
    "other",
    [{"key": "l"}, {"print_": "e"}, {"step": 4}, {"method": "contrastive.moco.MoCo"}, {"seed": 0}]
    + [{"config_key": None}, {"identity": {}}, {"options": {"linear": {"k": 3}}}]
    + [{"identity": OTHER_TRAIN}],
)
def test_runs_that_are_not_seeds_of_one_config_have_separate_lines(tmp_path, other):
    folders = [
        written(tmp_path / "a/s0"),
        written(tmp_path / "b/s1", **({"seed": 1} | other)),
    ]
    reports = [json.loads((f / "probe/probe.json").read_text()) for f in folders]
    assert [len(g.reports) for g in groups.grouped(reports, KNOWN)] == [1, 1]
    both = [json.loads((written(tmp_path / "a/s1", seed=1) / "probe/probe.json").read_text())]
    assert [len(g.reports) for g in groups.grouped(reports[:1] + both, KNOWN)] == [2]


def test_the_mean_over_seeds_has_the_spread_as_its_interval():
    one, two = information(0.0), information(0.4)
    found = groups.mean([one, two])["critics"]["common"]["sweep"][0]
    assert found["K"] == 16 and found["bound"] == pytest.approx(math.log(16) - 0.2)
    assert found["high"] - found["bound"] == pytest.approx(0.4 / math.sqrt(2))
    assert found["seeds"] == 2 and groups.mean([one]) == one
    units = groups.mean([{"units": 3, "of": 8, "low": 1, "x": 2}, {"units": 3, "of": 8, "x": 3}])
    assert units == {"units": 3, "of": 8, "x": 2.5} and type(units["units"]) is int
    for wrong in (information(0.0, truth=5.0), {"truth": 4.0, "critics": 3}):
        with pytest.raises(groups.Unalike):
            groups.mean([one, wrong])


@pytest.mark.parametrize(
    "paths, expected",
    [
        (["/r/x/seed0/last.ckpt", "/r/y/seed0/last.ckpt"], ["x/seed0", "y/seed0"]),
        (["/r/a/last.ckpt", "/r/a/last.ckpt"], ["a", "a #2"]),
        (["/r/a/last.ckpt", "/r/a/best.ckpt"], ["a", "a/best"]),
        (["/model.ckpt", "model.ckpt"], ["/model", "model"]),
        (["/last.ckpt", "last.ckpt"], ["last", "last #2"]),
        (["/r/[b]/\x1b[2J/last.ckpt"], ["\\x1b[2J"]),
    ],
)
def test_names_never_collide(paths, expected):
    found = distinct(paths, [""] * len(paths))
    assert len(set(found)) == len(found)
    if "model.ckpt" not in paths and "last.ckpt" not in paths:
        assert found == expected


def test_thirty_names_and_reports_of_one_checkpoint_on_other_data():
    reports = [{"checkpoint": f"/r/{i % 3}/{i // 3}/last.ckpt", "data": "d"} for i in range(30)]
    assert len(set(names(reports * 2))) == 60
    one = {"checkpoint": "/r/a/last.ckpt"}
    found = names([one | {"data": "mnist"}, one | {"data": "sprites"}])
    assert found == ["a on mnist", "a on sprites"]


def test_the_current_folder_has_a_name(tmp_path, capsys, monkeypatch):
    written(tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    code, said, _ = call(capsys, ".")
    assert code == 0 and "mine" in said and (tmp_path / "mine/compare.png").is_file()


def test_data_of_two_kinds_are_not_drawn_on_one_axis_unless_asked(tmp_path, capsys):
    runs = [written(tmp_path / "a"), written(tmp_path / "b", print_="e")]
    out = tmp_path / "c.png"
    said = refused(call(capsys, *runs, "--out", out))
    assert said and "sprites ffffffff (a)" in said and "sprites eeeeeeee (b)" in said
    assert "--mixed" in said and not out.exists()
    code, told, _ = call(capsys, *runs, "--out", out, "--mixed")
    assert code == 0 and "a · sprites ffffffff" in " ".join(told.split()) and out.is_file()


def test_equal_truths_of_two_data_sets_are_both_drawn():
    import matplotlib.pyplot as plt

    def sweeps(*data):
        entry = figures.Entry("", "", "o", information())
        rows = information()["critics"]["common"]["sweep"]
        return [
            (entry._replace(label=d + str(i), colour=figures.COLOURS[i], data=d), rows)
            for i, d in enumerate(data)
        ]

    for data, count in ((("x", "y"), 2), (("x", "x"), 1)):
        _, axes = plt.subplots()
        sweep_figures.draw_sweeps(axes, sweeps(*data))
        texts = [text.get_text() for text in axes.texts]
        assert sum("truth" in text for text in texts) == count
        assert sum("best" in str(line.get_label()) for line in axes.lines) == count
        first, second = axes.lines[:2]  # they coincide
        assert first.get_linewidth() > second.get_linewidth() and second.is_dashed()
        plt.close("all")


def test_each_checkpoint_has_one_look_and_one_place_in_every_panel(tmp_path):
    folders = [written(tmp_path / f"r{i}", key=str(i)) for i in range(10)]
    reports = [json.loads((f / "probe/probe.json").read_text()) for f in folders]
    del reports[0]["linear"], reports[3]["information"]
    lines = groups.grouped(reports, KNOWN)
    panel = ["linear", "knn"]
    looks = [
        {e.label: (e.colour, e.marker) for e in comparison.entries(lines, probe, [probe])}
        for probe in ("linear", "knn", "information")
    ]
    assert len(set(looks[1].values())) == 10 and len({c for c, _ in looks[1].values()}) == 10
    assert all(look.items() <= looks[1].items() for look in looks)
    assert [e.place for e in comparison.entries(lines, "linear", panel)] == list(range(1, 10))


@pytest.mark.parametrize("name", ["fig.pdf", "fig.svg", "fig.png", "fig.PNG"])
def test_a_picture_has_the_format_of_its_name(tmp_path, capsys, name):
    run = written(tmp_path / "_$a$b$_")
    assert call(capsys, run, "--out", tmp_path / name)[0] == 0
    start = (tmp_path / name).read_bytes()[:8]
    assert start.startswith({"pdf": b"%PDF", "svg": b"<?xml", "png": b"\x89PNG"}[name[-3:].lower()])


@pytest.mark.parametrize(
    "words",
    [
        ("--out", "{t}/a.jpg"),
        ("--out", "{t}/a"),
        ("--out", "{t}"),
        ("--out", "{t}/none/a.png"),
        ("--out", "/proc/a.png"),
        ("--out", "{t}/" + "a" * 250 + ".png"),
        ("--csv", "{t}/run/probe/probe.json"),
        ("--latex", "{t}/a.csv"),
        ("--csv", "{t}/none/a.csv"),
    ],
)
def test_a_file_that_can_not_be_written_is_one_line_before_any_work(tmp_path, capsys, words):
    run = written(tmp_path / "run")
    before = (run / "probe/probe.json").read_bytes()
    said = refused(call(capsys, run, *(word.format(t=tmp_path) for word in words)))
    assert said and words[0] in said
    assert (run / "probe/probe.json").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_a_run_folder_with_several_reports(tmp_path, capsys):
    run = written(tmp_path / "run")
    for name in ("probe-best", "probe-sprites-12345678"):
        (run / name).mkdir()
        (run / name / "probe.json").write_bytes((run / "probe/probe.json").read_bytes())
    (run / "last.ckpt").touch(), (run / "best.ckpt").touch()
    out = ("--out", tmp_path / "c.png")
    _, said, _ = call(capsys, run, *out)
    assert f"uses {run}/probe/probe.json" in said and "probe-best" in said and "12345678" in said
    code, said, _ = call(capsys, run / "last.ckpt", *out)
    assert code == 0 and "probe-best" not in said
    assert call(capsys, run / "best.ckpt", *out)[0] == 0
    code, said, _ = call(capsys, run, run / "probe", run / "probe/probe.json", *out, "--each")
    assert code == 0 and said.count("counts once") == 2


@pytest.mark.parametrize("count", [10, 30])
def test_every_checkpoint_is_seen_in_a_panel_of_bounds(count):
    """Ten coinciding curves have markers at places of their own; thirty are shown side by side."""
    import matplotlib.pyplot as plt

    rows = information()["critics"]["common"]["sweep"]
    looks = [(figures.COLOURS[i % 10], figures.MARKERS[i % 13]) for i in range(count)]
    sweeps = [
        (figures.Entry(f"r{i} (common critic)", *look, information(), place=i), rows)
        for i, look in enumerate(looks)
    ]
    _, axes = plt.subplots()
    sweep_figures.draw_sweeps(axes, sweeps)
    if count == 30:
        shown = [label.get_text() for label in axes.get_xticklabels()]
        assert shown == [f"r{i}" for i in range(30)] and "common critic" in axes.get_ylabel()
        marks = [container.lines[0].get_xydata()[0] for container in axes.containers]
        assert [tuple(mark) for mark in marks] == [(i, rows[-1]["bound"]) for i in range(30)]
    else:
        marks = [tuple(c.get_offsets()[0]) for c in axes.collections if len(c.get_offsets()) == 2]
        assert len({round(x, 6) for x, _ in marks}) == 9
        named = axes.get_legend().get_texts()
        assert sum("critic" in text.get_text() for text in named) == 10
        slope = (rows[1]["bound"] - rows[0]["bound"]) / math.log(rows[1]["K"] / rows[0]["K"])
        for x, y in marks:  # on the curve
            assert y == pytest.approx(rows[0]["bound"] + slope * math.log(x / rows[0]["K"]))
    plt.close("all")


def places(held, path=()):
    """Every place in nested dicts and lists."""
    parts = held.items() if isinstance(held, dict) else enumerate(held)
    for key, part in parts:
        yield (*path, key)
        if isinstance(part, dict | list):
            yield from places(part, (*path, key))


ODD = [None, "x", "\x1b[2J", "[b]x[/c]", [], {}, [1], True, -1, 0, 1e29, 10**40, "9" * 5000]


def mutated(report, rng):
    """The report's text with one or two places changed or dropped."""
    report = copy.deepcopy(report)
    for _ in range(rng.randint(1, 2)):
        *above, last = rng.choice(list(places(report)))
        there = report
        for key in above:
            there = there[key]
        if rng.random() < 0.25:
            del there[last]
        else:
            there[last] = "INSERTED"
            inserted = rng.choice([json.dumps(odd) for odd in ODD] + ["NaN", "1e999", "9" * 400])
            return json.dumps(report).replace('"INSERTED"', inserted)
    return json.dumps(report)


@pytest.mark.filterwarnings("ignore")
def test_a_damaged_report_is_one_line_that_names_its_file(tmp_path, capsys):
    rng = random.Random(0)
    head = {"rate": {"value": 1.0, "low": 0.9, "high": 1.1}}
    point = head | {"distortion": head["rate"], "nelbo": head["rate"]}
    curve = {"points": [point | {"beta": 1.0}], "nothing": point, "train_images": 9}
    curve |= {"likelihood": "normal"}
    run, good = tmp_path / "bad", written(tmp_path / "good", key="g")
    written(run, rate=rate(), rate_head=curve)
    path = run / "probe/probe.json"
    report = json.loads(path.read_text())
    refusals = 0
    for _ in range(FUZZ):
        path.write_text(mutated(report, rng))
        out = ("--out", tmp_path / "c.png", "--csv", tmp_path / "c.csv")
        code, said, err = call(capsys, run, good, "--mixed", *out)
        assert code in (0, 2) and "\x1b[2J" not in said + err, path.read_text()
        if code:
            refusals += 1
            assert len(err.splitlines()) == 1 and "probe.json" in err, err
    assert refusals > FUZZ // 5


FUZZ = 25


@pytest.mark.parametrize("text", ["[" * 900 + "]" * 900, '"' + "a" * 200_000 + '"', "9" * 400])
def test_deep_long_and_huge_values_of_strangers(tmp_path, capsys, text):
    run = written(tmp_path / "run", mine=0)
    path = run / "probe/probe.json"
    path.write_text(path.read_text().replace('"mine": 0', f'"mine": {text}'))
    said = refused(call(capsys, run, "--out", tmp_path / "c.png"))
    assert said and str(path) in said and len(said) < 1000


def test_runs_that_were_probed_with_other_views_are_no_seeds_of_one_config(tmp_path):
    made = [written(tmp_path / f"seed{seed}", seed=seed) for seed in range(2)]
    held = [json.loads((folder / "probe/probe.json").read_text()) for folder in made]
    assert len(groups.grouped(held, PROBES)) == 1
    held[1]["identity"]["views"] = "none"
    assert len(groups.grouped(held, PROBES)) == 2


@pytest.mark.parametrize("other", [{"linear": {"k": 4}}, {"linear": {"k": 3, "m": 1}}, {}, None])
def test_runs_that_were_probed_with_other_options_are_no_seeds_of_one_config(tmp_path, other):
    one, two = (
        json.loads((written(tmp_path / f"s{i}", seed=i) / "probe/probe.json").read_text())
        for i in (0, 1)
    )
    one["options"] = {"linear": {"k": 3}}
    for options, lines in ((other, [1, 1]), ({"linear": {"k": 3}}, [2])):
        two["options"] = options
        assert [len(g.reports) for g in groups.grouped([one, two], KNOWN)] == lines
