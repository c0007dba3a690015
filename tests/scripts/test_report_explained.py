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
from torch.nn import functional as F

from core.errors import Unmeasurable
from core.frozen import Frozen
from core.randomness import KeyedRNG
from probes.report import groups, store
from probes.report.page import explore
from scripts import probe, report
from tests import browser
from tests.in_process import train
from tests.reports import rate, written

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
    assert "another one" in explore.explored([other]).missing[0]


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
    vaes = [
        written(folder / name, rate=rate(r), method="vae.beta.BetaVAE", key=name, top1=0.6)
        for name, r in (("</script>\"'<b>漢", 8.0), ("beta4", 4.0))
    ]
    words = [str(run), *map(str, vaes), "--mixed", "-o", str(folder / "page.html")]
    report.main(words)
    return folder / "page.html"


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_a_browser_draws_everything_and_asks_for_nothing(tab, pages, tmp_path, width, dark):
    tab.events.clear()
    tab.open(pages, width, dark, READY)
    text = pages.read_text(encoding="utf-8")
    charts = text.count('class="chart"')
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
        assert f"= {math.log(k + 1) - loss[pair]:.2f} nats" in said
        assert f"pairs: {math.log(k + 1) - loss.mean():.2f}; ceiling: {math.log(k + 1):.2f}" in said
    saved = tab.run(f"{data}.reports[1].rate")
    assert saved == json.loads(json.dumps(rate(8.0)))
    assert tab.problems() == []


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
