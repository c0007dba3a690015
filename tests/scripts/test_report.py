"""The page about probed checkpoints: its numbers equal those of the reports, and no text becomes
HTML.
"""

import base64
import hashlib
import json
import os
import re
import struct
import zlib
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from probes.probe import Bound, Entry
from probes.registry import PROBES
from probes.report import groups, store
from probes.report.page import bound_charts, build, content, gallery, lead, rate_charts
from probes.session import load_probes
from scripts import report
from tests.reports import call as call_main
from tests.reports import information, rate, refused, written

KNOWN = load_probes(list(PROBES))
NASTY = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>{{7*7}}${7*7} Ελλάδα 漢字"


class Page(HTMLParser):
    """Elements with their attributes, the texts of the page, and its data."""

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.texts, self.scripts, self._open = [], [], [], ""
        self.feed(text)
        self.data = json.loads(self.scripts[0])

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._open = ""

    def handle_data(self, data):
        if self._open == "script":
            self.scripts[-1] += data
        else:
            self.texts.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(autouse=True)
def _without_vega(monkeypatch):
    """Bundling Vega takes seconds; the tests of the browser use the real one."""
    monkeypatch.setattr(build, "_bundle", lambda: "window.vegaEmbed=null")


call = partial(call_main, main=report.main)


def page(capsys, folder, *words) -> Page:
    out = folder / "page.html"
    code, said, error = call(capsys, *words, "-o", out)
    assert code == 0, error
    assert str(out) in said
    return Page(out.read_text(encoding="utf-8"))


def vae(folder, r=8.0, **more):
    return written(folder, rate=rate(r), method="vae.beta.BetaVAE", key=folder.name, **more)


def test_values_on_the_page_equal_the_reports(tmp_path, capsys):
    runs = [written(tmp_path / "a", top1=0.75), vae(tmp_path / "b", top1=0.5)]
    found = page(capsys, tmp_path, *runs)
    on_disk = [json.loads((run / "probe/probe.json").read_text()) for run in runs]
    for held, own in zip(found.data["reports"], on_disk, strict=True):
        assert {key: held[key] for key in own} | {"checkpoint": 0} == own | {"checkpoint": 0}
    charts = {chart["title"].split(":")[0]: chart["spec"] for chart in found.data["charts"]}
    rows = charts["Between views"]["data"]["values"]
    for place, own in enumerate(on_disk):
        sweep = own["information"]["critics"]["common"]["sweep"]
        shown = [row for row in rows if row["run"] == place]
        for key in ("K", "bound", "low", "high", "ceiling"):
            assert [row[key] for row in shown] == [row[key] for row in sweep]
        assert [row["ideal"] for row in shown] == [row["best_possible"] for row in sweep]
    cells = [a["data-value"] for tag, a in found.elements if tag == "td" and "data-value" in a]
    columns = len(content.claims({k: KNOWN[k] for k in ("linear", "knn", "information", "rate")}))
    last = on_disk[1]["information"]["critics"]["common"]["sweep"][-1]["bound"]
    assert [float(x) for x in cells[columns : columns + 4]] == [50.0, 0.25, 50.0, last]
    r = on_disk[1]["rate"]
    ends = [r["lower"]["value"], r["rate"]["value"], r["nelbo"]["value"]]
    assert [float(x) for x in cells[columns + 5 :]] == ends and cells[4] == ""
    assert cells[5:8] == ["", "", ""]
    (point,) = charts["Rate and distortion of the VAEs"]["data"]["values"]
    assert (point["R"], point["D"]) == (r["rate"]["value"], r["distortion"]["value"])


def test_texts_of_strangers_stay_texts(tmp_path, capsys):
    """Names, configs, reasons, critics and verdicts are data. The policy lets two scripts run."""
    folder = tmp_path / NASTY.replace("/", "")
    known = information()
    known["critics"] = {NASTY: known["critics"]["common"] | {"verdict": NASTY}}
    known["augmentation"] = NASTY
    run = written(folder, information=known, absent={NASTY: NASTY}, data=NASTY)
    (run / "config.yaml").write_text(f"method: {NASTY}\n  a: &a [*a]\n", encoding="utf-8")
    found = page(capsys, tmp_path, run, "--title", NASTY, "--quick")
    assert [tag for tag, _ in found.elements if tag in ("script", "img", "iframe", "object")] == [
        "img",  # of the dialog
        "script",
        "script",
        "script",
    ]
    assert not [a for _, a in found.elements if any(name.startswith("on") for name in a)]
    assert NASTY in found.said and "49" not in found.texts
    assert found.data["charts"][0]["spec"]["data"]["values"][0]["critic"] == NASTY
    (policy,) = [a["content"] for tag, a in found.elements if "http-equiv" in a]
    for script in found.scripts[1:]:
        code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{code}'" in policy
    assert policy.count("sha256") == 2 and policy.startswith("default-src 'none'")
    urls = [a.get(key, "") for _, a in found.elements for key in ("src", "href")]
    assert all(url == "" or url.startswith("data:") for url in urls)


def test_specifications_hold_texts_of_reports_as_values_only(tmp_path, capsys):
    """Without its tables, a specification is the same for harmless and for nasty names."""

    def bare(spec):
        if isinstance(spec, dict):
            return {key: bare(part) for key, part in spec.items() if key != "values"}
        return [bare(part) for part in spec] if isinstance(spec, list) else spec

    made = []
    for name in ("plain", NASTY.replace("/", "")):
        known = information()
        known["critics"] = {name: known["critics"]["common"]}
        run = written(tmp_path / name, information=known)
        found = page(capsys, tmp_path, run)
        made.append([bare(chart["spec"]) for chart in found.data["charts"]])
    assert made[0] == made[1]


def test_pictures_of_strangers_are_decoded_with_limits(tmp_path, capsys):
    run = written(
        tmp_path / "a",
        pictures={"linear": ["good.png", "../secret.png", "bomb.png", "text.png", "x.svg", 3]},
    )
    folder = run / "probe"
    noise = np.random.default_rng(0).integers(0, 255, (300, 2000, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "good.png")
    Image.fromarray(noise).save(run / "secret.png")
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 9_000, 9_000, 8, 2, 0, 0, 0)), (b"IDAT", b"x")]
    bomb = b"\x89PNG\r\n\x1a\n"
    for name, held in chunks:
        bomb += (
            struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))
        )
    (folder / "bomb.png").write_bytes(bomb)
    (folder / "text.png").write_text("<svg onload=alert(1)>")
    (folder / "x.svg").write_text("<svg onload=alert(1)>")
    found = page(capsys, tmp_path, run)
    pictures = [a for tag, a in found.elements if tag == "img" and a.get("src")]
    assert len(pictures) == 1 and pictures[0]["src"].startswith("data:image/webp;base64,")
    assert (pictures[0]["width"], pictures[0]["height"]) == ("960", "144")
    assert "bomb.png has 9000 x 9000 pixels, too many" in found.said
    assert "text.png is not a readable PNG file" in found.said
    assert "svg onload" not in found.said and "secret" not in found.said


def test_a_pipe_in_place_of_a_config_is_not_read(tmp_path, capsys):
    run = written(tmp_path / "a")
    os.mkfifo(run / "config.yaml")
    assert "Config" not in page(capsys, tmp_path, run).texts


def test_the_folder_of_a_sweep_stands_for_its_runs(tmp_path, capsys):
    """Pictures are ordered by rate, with the beta of a config that holds a plain number."""
    for number, (beta, r) in zip(
        (3, 4, 10), (("1.0", 8.0), ("4.0", 3.0), ("<b>", 1.0)), strict=True
    ):
        run = vae(tmp_path / "sweep" / f"beta{number}", r, pictures={"rate": ["traversals.png"]})
        (run / "config.yaml").write_text(f"model:\n  rate: {{}}\n  rate:\n    beta: {beta}\n")
        Image.new("RGB", (20, 20), (number, 0, 0)).save(run / "probe/traversals.png")
    out = tmp_path / "page.html"
    code, said, _ = call(capsys, tmp_path / "sweep", "-o", out)
    assert code == 0 and "sweep: uses its 3 probed runs" in said
    found = Page(out.read_text(encoding="utf-8"))
    assert [row["label"] for row in found.data["checkpoints"]] == ["beta3", "beta4", "beta10"]
    notes = [about["data-note"] for tag, about in found.elements if "data-note" in about]
    assert notes == [
        "beta 1.0, R = 8.00, D = 90.00 nats an image",
        "beta 4.0, R = 3.00, D = 90.00 nats an image",
        "R = 1.00, D = 90.00 nats an image",
    ]
    (tmp_path / "none").mkdir()
    code, said, error = call(capsys, tmp_path / "none")
    assert code == 2 and "not probed, left out" in said and "none of these" in error


def test_thirty_checkpoints_with_large_pictures_fit_into_ten_megabytes(tmp_path, monkeypatch):
    """What has no room is named."""
    monkeypatch.setattr(gallery, "encoded", lambda path, width: (os.urandom(300_000), (480, 600)))
    reports = []
    for number in range(30):
        run = written(tmp_path / f"r{number}", key=f"{number}", pictures={"linear": ["p.png"]})
        (run / "probe/p.png").touch()
        path = run / "probe/probe.json"
        reports.append(store.placed(store.load(path), path))
    text = build.html(groups.grouped(reports, KNOWN), KNOWN, explain=False)
    bundle = 900_000
    assert 4_000_000 < len(text.encode()) + bundle < 10_000_000
    assert text.count("left out, so that the page stays small") == 30 - text.count("image/webp")


def test_seeds_share_a_row_and_every_run_has_its_command(tmp_path, capsys):
    runs = [
        written(tmp_path / f"simclr/seed{i}", seed=i, top1=top1, options={"linear": {"k": 3}})
        for i, top1 in enumerate((0.98, 0.99))
    ]
    found = page(capsys, tmp_path, *runs)
    assert len([1 for tag, a in found.elements if tag == "tr" and "data-run" in a]) == 1
    assert "simclr (2 seeds)" in found.said and "98.5 ± 0.7" in found.said
    for run in runs:
        assert (
            f"twobounds probe {run}/last.ckpt --probes linear,knn,information linear.k=3"
            in found.said
        )
    assert len(page(capsys, tmp_path, *runs, "--each").data["checkpoints"]) == 2


@pytest.mark.parametrize("k", [[0, 0, 0], [-3, 5, 1e29], [1, 1, 1], [0.5, 2, 3]])
def test_odd_numbers_of_strangers_make_a_page(k, tmp_path, capsys, monkeypatch):
    """Whatever a report may hold is drawn, even if no check of contradictions stands before it;
    JSON and specifications stay finite.
    """
    monkeypatch.setattr(store, "contradiction", lambda report, name: "")
    known, low = information(truth=-1e29), rate(0.0)
    for row, odd in zip(known["critics"]["common"]["sweep"], k, strict=True):
        row |= {"K": odd, "bound": 2.0, "low": 2.0, "high": -1e29, "ceiling": -5.0}
    low["distortion"] = {"value": -1e29, "low": 1e29, "high": -1e29}
    low["rate"]["high"] = -3.0
    run = written(tmp_path / "a", information=known, rate=low)
    path = run / "probe/probe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": -(10**290), "step": -1}))
    (run / "features").mkdir()
    (run / "features/features-test-x.safetensors").touch()
    (run / "last.ckpt").write_text("no checkpoint")
    found = page(capsys, tmp_path, run)
    assert "Maps and scores: a:" in found.said
    assert len(found.data["charts"]) == 4


OWN = """
from probes.probe import Found, Probe, Value
class Spectrum(Probe):
    name, summary, columns, across = "spectrum", "decay of eigenvalues", ("decay",), "rank"
    def cells(self, numbers):
        return [f"{numbers['decay']:.2f}"]
    def curves(self, numbers):
        return {"eigenvalues": [(1.0, numbers["decay"]), (16.0, 0.25)]}
    def sentences(self, numbers):
        return [f"the spectrum decays by {numbers['decay']:.2f}"]
"""


def test_a_new_probe_appears_without_a_change_of_the_page(tmp_path, capsys, monkeypatch):
    (tmp_path / "pagespectrum.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    run = written(tmp_path / "a", spectrum={"decay": 0.5})
    found = page(capsys, tmp_path, run, "--probes", "pagespectrum.Spectrum")
    assert "decay" in found.texts and "The spectrum decays by 0.50." in found.said
    (chart,) = [chart for chart in found.data["charts"] if chart["title"] == "Spectrum"]
    values = [(row["x"], row["value"]) for row in chart["spec"]["data"]["values"]]
    assert values == [(1.0, 0.5), (16.0, 0.25)]
    assert "decay" not in page(capsys, tmp_path, run).texts


def bound(value, half=0.01, verdict="converged", truth=None, side="lower", of="I(V1; V2)"):
    return Bound(of, side, "InfoNCE", value, value - half, value + half, verdict, truth, "crop")


def entry(place):
    return Entry("abc"[place], "#000000", "o", {}, ({},), place, "sprites")


def test_a_difference_is_settled_only_beyond_its_interval():
    def said(*bounds):
        return lead.compared([(entry(i), [b]) for i, b in enumerate(bounds)])

    close, far = said(bound(4.00), bound(4.01)), said(bound(4.00), bound(4.10))
    assert close[0].startswith("b shows the most of") and "0.010 ± 0.014" in close[1]
    assert "may be zero" in close[1] and "0.100 ± 0.014" in far[1] and "is larger" in far[1]
    (_, verdict) = said(bound(1.0, verdict="K-limited"))
    assert verdict.startswith("Verdict on I(V1; V2) for a: K-limited. The number of")
    assert any("intervals of a lie above it" in line for line in said(bound(4.2, truth=4.1)))
    other = bound(4.1)._replace(views="fresh rendering")  # another quantity: not compared
    assert not any("shows the most" in line for line in said(bound(4.0), other))


def test_bounds_from_both_sides_are_a_range():
    both = [bound(2.0, of="I(X; Z)", verdict=""), bound(9.0, of="I(X; Z)", side="upper")]
    assert "at least 2.00 and at most 9.00 nats (InfoNCE)" in lead.compared([(entry(0), both)])[0]
    (chart,) = bound_charts.bridge([(entry(0), [*both, bound(90.0, of="I(X; Z)", side="upper")])])
    span = chart.spec["layer"][0]["data"]["values"][0]  # no truth is drawn below it
    assert (span["at_least"], span["at_most"]) == (2.0, 9.0)
    assert [row["value"] for row in chart.spec["data"]["values"]] == [2.0, 9.0]


def test_the_lead_says_what_a_test_can_show_and_whether_training_was_equal():
    both = [bound(7.6, of="I(X; Z)", verdict=""), bound(50.0, of="I(X; Z)", side="upper")]
    (near,) = lead.compared([(entry(0), [both[0]._replace(ceiling=7.62), both[1]])])
    (far,) = lead.compared([(entry(0), [both[0]._replace(ceiling=9.0), both[1]])])
    assert "7.60 is about log n, the most that this bound" in near and "most that" not in far
    (said,) = lead.unequal([("a", 24576), ("b", 65536), ("c", 24576), ("d", None)])
    assert "a and c 24,576; b 65,536." in said
    assert lead.unequal([("a", 5), ("b", 5), ("c", None)]) == []


def test_the_parts_of_a_bound_add_up_as_they_are_written():
    known = information(0.014, truth=4.3004)
    critic = known["critics"]["common"] | {"doubling": {"gain": 0.0126}}
    critic["sweep"][-1] |= {"bound": 4.1004, "best_possible": 4.2506}
    other = {"sweep": [{"bound": 4.05}]}
    lines = bound_charts.said_of_information(
        known | {"critics": {"common": critic, "native": other}}, "common", critic
    )
    said = " ".join(lines)
    assert "at least 4.100 nats of the 4.300 that two views share" in said
    assert "misses 0.200 nats" in said and "reaches 4.251 at this K. The bound is 0.151" in said
    assert "half of the training pairs added 0.013 nats" in said
    assert "other critics give 4.050 (native) nats" in said


def test_lines_of_equal_sums_have_round_values():
    for low, high in ((-3050.0, -2950.0), (0.0, 0.03), (-7.0, 91.0)):
        found = rate_charts._rounds(low, high)
        steps = {round(b - a, 9) for a, b in zip(found, found[1:], strict=False)}
        assert 3 <= len(found) <= rate_charts.LINES and len(steps) == 1
        assert all(low <= value < high for value in found)
        assert f"{steps.pop():e}"[:5] in ("1.000", "2.000", "5.000")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["none"], "none: there is no such file or folder"),
        (["a", "none"], "none: there is no such file or folder"),
        (["a", "-o", "page.txt"], "should end in .html"),
        (["a", "-o", "."], "is a folder"),
        (["a", "-o", "no/page.html"], "there is no folder"),
        (["a", "other"], "on different data"),
        (["a", "--probes", "lineal"], "there is no 'lineal' (did you mean 'linear'?)"),
        (["broken"], "its part 'information' is damaged"),
    ],
)
def test_what_can_not_be_shown_is_refused_in_one_line(words, why, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "a")
    written(tmp_path / "other", print_="e")
    known = information()
    known["critics"]["common"]["sweep"] = []
    written(tmp_path / "broken", information=known)
    code, out, error = call(capsys, *words)
    assert code == 2 and why in error and len(error.strip().splitlines()) == 1, error
    if words != ["none"]:
        assert refused((code, out, error))
    assert not list(tmp_path.glob("*.html"))


def test_the_script_has_no_way_to_make_html_of_texts():
    script = build._own("page.js")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch", script)


def test_numbers_of_ones_own_probe_that_are_not_shown_are_said(tmp_path, capsys):
    run = written(tmp_path / "run", spectrum={"largest": 1.0})
    code, said, err = call(capsys, run, "-o", tmp_path / "page.html")
    assert code == 0 and "not shown: numbers of probes of your own ('spectrum')" in said, err
