"""The maps of features and the scores of candidates on the page, from a run that was trained and
probed; and the page in a browser.
"""

import json
import math
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from core.errors import Unmeasurable, UserError
from core.frozen import Frozen
from core.randomness import KeyedRNG
from probes.probe import Entry
from probes.report import groups, store
from probes.report.page import bits_back, class_charts, explore, rate_charts
from scripts import probe, report
from tests import browser
from tests.in_process import train
from tests.reports import compression, rate, written

READY = "document.documentElement.dataset.drawn !== undefined"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """SimCLR after one epoch on 256 images, with the numbers of two probes."""
    folder = tmp_path_factory.mktemp("report") / "simclr"
    small = ("optim.epochs=1", "model.hidden=16", "model.projection=8", "data.sprites.test=128")
    assert train("simclr", folder, *small).code == 0
    probe.main([str(folder), "--probes", "knn,geometry", "--device", "cpu"])
    return folder


def group(folder: Path) -> groups.Group:
    path = folder / "probe/probe.json"
    found = store.placed(store.load(path), path)
    return groups.Group("simclr", "sprites", (found,))


def test_scores_are_those_of_the_checkpoints_own_critic(run):
    """The first column holds the scores of the right views, the others those of other images."""
    (scores,) = explore.explored([group(run)]).scores
    table = torch.tensor(scores["table"])
    frozen = Frozen.load(run / "last.ckpt")
    query, key = frozen.pairs("test").codes
    every = query @ key.T / 0.1
    order = KeyedRNG(0, 0).permutation("pairs", len(every))
    anchors, others = order[: explore.ANCHORS], order[explore.ANCHORS :]
    assert torch.allclose(table[:, 0], every.diagonal()[anchors], atol=1e-3)
    assert torch.allclose(table[:, 1:], every[anchors][:, others], atol=1e-3)
    assert table.shape == (10, 119) and scores["temperature"] == 0.1


def test_a_map_keeps_near_images_together(run):
    """Images with the same colour and shape have features that t-SNE puts side by side."""
    found = explore.explored([group(run)])
    (chart,) = found.charts
    rows = chart.spec["data"]["values"]
    assert len(rows) == 128 and "colour" in chart.choices
    assert found.sheets[0].startswith("data:image/webp;base64,")
    apart = torch.cat([torch.randn(40, 8), torch.randn(40, 8) + 20])
    plane = torch.from_numpy(explore.flat(apart.numpy()))
    distances = torch.cdist(plane, plane) + 1e9 * torch.eye(80)
    assert ((distances.argmin(1) < 40) == (torch.arange(80) < 40)).all()


def test_nothing_is_encoded_and_every_reason_is_said(run, tmp_path):
    copied = tmp_path / "simclr"
    shutil.copytree(run, copied)
    for file in (copied / "features").glob("pairs-test-*"):
        file.unlink()
    (why,) = explore.explored([group(copied)]).missing
    assert why == "simclr: no features are kept beside its checkpoint"
    shutil.rmtree(copied / "features")
    assert explore.explored([group(copied)]).missing == [why]
    frozen = explore.Kept.load(copied / "last.ckpt")
    with pytest.raises(Unmeasurable, match="no features are kept"):
        frozen.features("test")
    other = group(run)
    other.reports[0]["digest"] = "0" * 64
    assert "not the one that was measured" in explore.explored([other]).missing[0]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if not browser.CHROMIUM:
        pytest.skip(browser.WHY)
    made = browser.Browser(tmp_path_factory.mktemp("profile"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def pages(run, tmp_path_factory) -> Path:
    """The page about this run and two VAEs, one with a name that is no harmless text."""
    pytest.importorskip("vl_convert")
    folder = tmp_path_factory.mktemp("pages")
    labels = {"top1": 0.6, "information": 0.3}
    labels["confusion"] = {"class": [[0.75, 0.25], [0.5, 0.5]], "</script>": [[1.0, 0.0]] * 2}
    more = {"linear": labels, "compression": compression(), "method": "vae.beta.BetaVAE"}
    more["pictures"] = {
        "rate": ["traversals.png", "samples.png"],
        "compression": ["compression_stops.png"],
    }
    vaes = [
        written(folder / name, rate=rate(r), key=name, top1=0.6, **more)
        for name, r in (("</script>\"'<b>漢", 8.0), ("beta4", 4.0))
    ]
    for number, vae in enumerate(vaes):
        Image.new("RGB", (80, 40)).save(vae / "probe/compression_stops.png")  # four rows
        for name in ("traversals", "samples"):
            Image.new("RGB", (40, 20), (90 * number, 0, 0)).save(vae / f"probe/{name}.png")
    words = [str(run), *map(str, vaes), "--mixed", "-o", str(folder / "page.html")]
    report.main(words)
    return folder / "page.html"


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_a_browser_draws_everything_and_asks_for_nothing(tab, pages, tmp_path, width, dark):
    tab.events.clear()
    tab.open(pages, width, dark, READY)
    text = pages.read_text(encoding="utf-8")
    charts = text.count('data-chart="')
    assert tab.run("document.documentElement.dataset.drawn") == str(charts)
    assert tab.run("document.querySelectorAll('.chart svg').length") == charts
    assert tab.run("document.documentElement.scrollWidth") <= width
    shade = tab.run("getComputedStyle(document.body).backgroundColor")
    assert (shade == "rgb(255, 255, 255)") != dark
    kept = Path(os.environ.get("TWOBOUNDS_SHOTS", tmp_path))
    assert tab.picture(kept / f"report-{width}.png").stat().st_size > 20_000
    assert tab.problems() == []


def test_a_reader_sorts_marks_and_moves_the_sliders(tab, pages):
    tab.events.clear()
    tab.open(pages, 1200, False, READY)
    names = "[...document.querySelectorAll('#table tbody tr')].map(r => r.cells[0].dataset.text)"
    before = tab.run(names)
    column = "document.querySelectorAll('#table th button')[{}].click()"
    heads = tab.run("[...document.querySelectorAll('#table th')].map(h => h.textContent)")
    rates = heads.index("R (nats)")
    tab.run(column.format(rates))
    assert tab.run(names) == [before[1], before[2], before[0]]  # 8 nats, 4 nats, no rate
    tab.run(column.format(rates))
    assert tab.run(names) == [before[2], before[1], before[0]]
    assert "\"'<b>漢" in before[1]
    assert tab.run("document.querySelectorAll('main b, nav b').length") == 0
    tab.run("document.querySelectorAll('.chip')[1].click()")
    faint = "[...document.querySelectorAll('tr[data-run]')].filter(r => r.matches('.faint')).length"
    assert tab.run(faint) == 2
    assert tab.run("document.querySelectorAll('.card.on').length") == 1
    data = "JSON.parse(document.getElementById('data').textContent)"
    table = torch.tensor(tab.run(f"{data}.scores[0].table"))
    for power, pair in ((0, 0), (4, 3), (6, 9)):
        for name, value in (("k", power), ("pair", pair)):
            tab.run(
                f"(() => {{ const c = document.getElementById('k-{name}'); c.value = {value};"
                " c.dispatchEvent(new Event('input')); })()"
            )
        k = 2**power
        right = torch.zeros(len(table), dtype=torch.long)
        loss = F.cross_entropy(table[:, : k + 1], right, reduction="none")
        said = tab.run("document.getElementById('k-said').textContent")
        top, lost = round(math.log(k + 1), 3), round(float(loss[pair]), 3)
        assert f"= {top:.3f} − {lost:.3f} = {top - lost:.3f} nats" in said
        assert f"pairs: {math.log(k + 1) - loss.mean():.2f}; ceiling: {math.log(k + 1):.2f}" in said
    saved = tab.run(f"{data}.reports[1].rate")
    assert saved == json.loads(json.dumps(rate(8.0)))
    assert tab.problems() == []


def moved(tab, name: str, value: int) -> None:
    """Move a slider as a reader does."""
    tab.run(
        f"(() => {{ const c = document.getElementById('{name}'); c.value = {value};"
        " c.dispatchEvent(new Event('input')); })()"
    )


def test_sliders_through_the_same_checkpoints_move_together_and_mark(tab, pages):
    tab.open(pages, 1200, False, READY)
    outputs = "[...document.querySelectorAll('.slides output')].map(o => o.textContent)"
    first = "1 of 2: R = 8.00, D = 90.00 nats an image"
    assert tab.run(outputs) == [first, first]
    tab.run(
        "(() => { const c = document.querySelector('.slides input'); c.value = 1;"
        " c.dispatchEvent(new Event('input')); })()"
    )
    assert tab.run(outputs) == ["2 of 2: R = 4.00, D = 90.00 nats an image"] * 2
    on = "[...document.querySelectorAll('.chip[aria-pressed=true]')].map(c => c.dataset.run)"
    assert tab.run(on) == ["2"]
    shown = "[...document.querySelectorAll('.slides figure:not(.away)')].map(f => f.dataset.runs)"
    assert tab.run(shown) == ["2", "2"]


def test_the_stack_shows_the_bits_of_the_chain(tab, pages):
    tab.events.clear()
    tab.open(pages, 1200, False, READY)
    said = "document.getElementById('{}').textContent"
    for step, words, total in (
        (
            0,
            "Image 1: pop its code z with q(z|x), −90.0 bits. The stack is too short, so 128.0",
            "",
        ),
        (4, "Image 2: push its pixels with p(x|z), +101.0 bits.", "net 40.0 bits = 0.625 bits a"),
        (11, "Net: 103.0 + 30.0 − 90.0 = 43.0; its D + R is 42.0.", "pushed 526.0, popped 360.0"),
    ):
        moved(tab, "b-step", step)
        assert words in tab.run(said.format("b-said")), step
        assert total in tab.run(said.format("b-total"))
        assert tab.run(said.format("b-step-out")) == f"{step + 1} of 12"
    moves = compression()["moves"]
    left = sum(one["start"] + one["pixels"] + one["prior"] - one["popped"] for one in moves)
    assert f"{left:.1f} bits on the stack" in tab.run(said.format("b-stack"))
    for place, words in (
        (0, "knows 0 of 4 dimensions"),
        (2, "knows 4 of 4 dimensions of the code of this image (4"),
    ):
        moved(tab, "b-stop", place)
        assert words in tab.run(said.format("b-stop-said"))
    assert "40.0 bits of the pixels are still missing" in tab.run(said.format("b-stop-said"))
    look = "(() => {{ const s = document.getElementById('{}').style; return s.{}; }})()"
    assert tab.run(look.format("b-known", "aspectRatio")) == "80 / 10"
    for place, share in ((0, "33.3"), (2, "100%")):
        moved(tab, "b-stop", place)
        assert share in tab.run(look.format("b-known", "backgroundPosition"))
    assert tab.run(look.format("b-images", "backgroundPosition")).startswith("0px 0%")
    moved(tab, "b-step", 0)
    tab.run("document.getElementById('b-play').click()")
    until = "new Promise(r => setTimeout(() => r(document.getElementById('b-step').value), 3500))"
    assert int(tab.run(until)) >= 1
    assert tab.run(said.format("b-play")) == "Pause"
    assert tab.problems() == []


def test_a_chain_that_is_no_chain_is_refused(tmp_path, capsys):
    for part in ({"moves": [{"popped": 1.0}]}, {"moves": 3.0}, {"moves": [], "partial": [[1.0]]}):
        bad = compression() | part
        run = written(tmp_path / "a", rate=rate(), compression=bad)
        kept = {"compression": json.loads((run / "probe/probe.json").read_text())["compression"]}
        one = groups.Group("a", "sprites", ({"checkpoint": str(run / "last.ckpt")} | kept,))
        if not part["moves"]:
            assert bits_back.chains([one]) == []
            continue
        with pytest.raises(UserError, match="its part 'compression' is damaged"):
            bits_back.chains([one])


def test_the_picture_of_a_chain_is_of_the_run_that_was_compressed(tmp_path):
    """The first seed of the group was not."""
    named = {"compression": ["compression_stops.png"]}
    runs = [
        written(tmp_path / "a", rate=rate()),
        written(tmp_path / "b", seed=1, rate=rate(), compression=compression(), pictures=named),
    ]
    Image.new("RGB", (80, 20)).save(runs[1] / "probe" / "compression_stops.png")
    files = [run / "probe" / "probe.json" for run in runs]
    both = groups.Group("x", "sprites", tuple(store.placed(store.load(f), f) for f in files))
    (found,) = bits_back.chains([both])
    assert found["width"] == 80 and found["picture"].startswith("data:image/webp")


def test_confusions_begin_with_the_table_that_has_most_of_them():
    entries = [
        Entry("a", "", "", {"confusion": {"x": [[1.0, 0.0], [0.0, 1.0]]}}, place=0),
        Entry("b", "", "", {"confusion": {"x": [[0.9, 0.1], [0.3, 0.7]]}}, place=1),
        Entry("c", "", "", {}, place=2),
    ]
    (chart,) = class_charts.confusions(entries)
    assert chart.choices == ("b: x", "a: x")
    rows = [row for row in chart.spec["data"]["values"] if row["shown"] == "b: x"]
    assert {(row["true"], row["read"]): row["text"] for row in rows} == {
        (0, 0): "90 %", (0, 1): "10 %", (1, 0): "30 %", (1, 1): "70 %",
    }  # fmt: skip
    (said,) = class_charts.said_of_confusion(entries[1].numbers["confusion"])
    assert said == "The most frequent confusion: 30 % of the images with x 1 are read as 0."
    assert class_charts.said_of_confusion(entries[0].numbers["confusion"]) == []
    two = {"x": [[1.0, 0.0]] * 2, "y": [[1.0] * 4] * 4}
    (said,) = class_charts.said_of_labels({"confusion": two, "top1/x": 0.5, "top1/y": 0.75})
    assert said == (
        "Label by label: x 50.0 % (random guess 50.0 %), y 75.0 % (random guess 25.0 %)."
    )
    assert class_charts.said_of_labels({"confusion": {}}) == []
    (said,) = class_charts.said_of_labels({"confusion": {"y": two["y"]}, "top1/y": 0.75})
    assert said == "A random guess finds 25.0 % of the labels."


def test_the_plane_has_lengths_of_files_and_the_known_curve():
    known = {"quantity": "R(D)", "points": [{"rate": 0.0, "distortion": 99.0}]}
    numbers = rate() | {"reference": known}
    files = {"compression": compression()}
    (chart,) = rate_charts.plane([Entry("a", "", "", numbers, place=0, other=files)])
    held = [layer["data"]["values"] for layer in chart.spec["layer"] if "data" in layer]
    assert [{"R": 0.0, "D": 99.0}] in held
    (ends,) = [rows for rows in held if "file" in rows[0]]
    length = 0.7 * 64 * math.log(2)
    assert all(row["R"] + row["D"] == pytest.approx(length) for row in ends) and len(ends) == 2
    (other,) = rate_charts.plane([Entry("a", "", "", rate(), place=0)])
    assert "dashed" in chart.about and "dashed" not in other.about


def test_the_page_is_whole_and_small(pages):
    text = pages.read_text(encoding="utf-8")
    assert text.lower().count("</script>") == 3 and text.endswith("</html>")
    assert 800_000 < len(text.encode()) < 3_000_000


def test_without_vega_the_remedy_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "vl_convert", None)
    with pytest.raises(SystemExit) as end:
        report.main([str(written(tmp_path / "a")), "-o", str(tmp_path / "page.html")])
    assert end.value.code == 2
    assert "pip install vl-convert-python" in capsys.readouterr().err
