"""Description length of labels and usable information: codes against their definition, readers
against scikit-learn.
"""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from core.errors import Unmeasurable
from core.information.bounds import interval
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels import knn_reader, mdl, usable
from probes.labels import variational as code
from probes.labels.linear import linear
from probes.labels.linear import readings as linear_readings
from probes.labels.logistic import Logistic
from probes.labels.variational import length, variational
from probes.report.groups import Group
from probes.report.orders import said_of_orders
from probes.report.page import build
from probes.report.store import check
from scripts import report
from tests.reports import call, written


def features(x: torch.Tensor, *labels: torch.Tensor, classes: int = 4) -> Features:
    factors = tuple((f"label{column}", classes) for column in range(len(labels)))
    return Features(x.float(), torch.stack(labels, 1), factors)


@pytest.fixture(scope="module")
def digits() -> tuple[Features, Features]:
    x, y = load_digits(n_class=4, return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.tensor(PCA(5).fit_transform(x)[order]), torch.tensor(y[order])
    return features(x[:400], y[:400]), features(x[400:], y[400:])


def test_blocks_end_where_the_published_schedule_says():
    assert mdl.block_ends(50_000)[:4] == [50, 100, 200, 400]
    assert mdl.block_ends(50_000)[-4:] == [6250, 12_500, 25_000, 50_000]
    assert mdl.block_ends(20) == [2, 5, 10, 20]


def test_the_code_is_the_sum_of_its_blocks(digits):
    """Each block costs what the linear probe loses on it, fitted to all blocks before it."""
    train = Features(digits[0].x[:120], digits[0].y[:120], digits[0].factors)
    found = mdl.prequential(train, seed=3, orders=1, tolerance=0.5)
    rows = KeyedRNG(3, 0).permutation("description length", 120)
    x, y = train.x[rows], train.y[rows]
    length, surplus = 2 * math.log(4), 2 * (math.log(4) - 0.5)
    ends = mdl.block_ends(120)
    for end, after in zip(ends, ends[1:], strict=False):
        past = Features(x[:end], y[:end], train.factors)
        block = Features(x[end:after], y[end:after], train.factors)
        counts = torch.bincount(y[:end, 0], minlength=4).double() + 1
        entropy = -(counts / counts.sum()).log()[block.y[:, 0]].mean().item()
        loss = entropy - linear(past, block, 3)["information"]
        length += (after - end) * loss
        surplus += (after - end) * max(0.0, loss - 0.5)
    part = found["factor"]["label0"]
    assert found["nats"] == part["nats"] == pytest.approx(length, rel=1e-9)
    assert part["sdl"] == pytest.approx(surplus, rel=1e-9) and part["sd"] == 0
    assert found["compression"] == pytest.approx(120 * math.log(4) / length)
    assert found["kbits"] == pytest.approx(length / math.log(2) / 1000)
    assert [end for end, _ in part["curve"]] == ends[:-1]


def test_random_labels_are_not_shorter_than_the_uniform_code():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 4, generator=rng), torch.randint(4, (200,), generator=rng)
    found = mdl.prequential(features(x, y), orders=2)
    assert found["compression"] < 1 + 2 * found["sd"] / found["nats"] and found["nats"] > 260
    assert not found["factor"]["label0"]["reached"]
    # without features, only the unknown frequencies cost something
    assert 0 < found["alone"] - found["uniform"] < 10


def test_a_perfect_feature_costs_its_sample_complexity():
    """No code of an unknown one-to-one map of Y values costs less than log Y!; each class must be
    seen once, which costs another log Y for a few images. It does not grow with n.
    """
    rng, lengths = torch.Generator().manual_seed(0), []
    for n in (100, 200):
        y = torch.randint(4, (n,), generator=rng)
        found = mdl.prequential(features(torch.eye(4)[y], y), orders=8)
        lengths.append(found["nats"])
        assert found["factor"]["label0"]["reached"] and found["compression"] > 6
        assert math.log(math.factorial(4)) < found["nats"] < 6 * math.log(4) + 10
    assert abs(lengths[1] - lengths[0]) < 8


def test_better_features_have_a_shorter_code_and_orders_are_averaged(digits):
    train = Features(digits[0].x[:80], digits[0].y[:80], digits[0].factors)
    worse = Features(train.x[:, 3:].contiguous(), train.y, train.factors)
    good, bad = (mdl.prequential(part, orders=2) for part in (train, worse))
    assert good["nats"] < min(bad["nats"], good["uniform"])
    one = mdl.prequential(train, 0, 1)["nats"]
    two = 2 * good["nats"] - one
    assert good["sd"] == pytest.approx(abs(one - two) / math.sqrt(2)) and good["sd"] > 0


def test_seeds_share_no_orders(digits, monkeypatch):
    """Means over seeds would vary too little if two seeds had orders in common."""
    train = Features(digits[0].x[:80], digits[0].y[:80], digits[0].factors)
    orders = set()

    def noted(features, rows, ends, seed):
        orders.add(tuple(rows.tolist()))
        return [[0.0] * (len(ends) - 1)]

    monkeypatch.setattr(mdl, "_of_one_order", noted)
    for seed in range(3):
        mdl.prequential(train, seed, 3)
    assert len(orders) == 9


def test_several_factors_add_up_and_a_single_class_costs_nothing():
    y = torch.arange(40) % 2
    found = mdl.prequential(features(torch.eye(2)[y], y, torch.zeros_like(y), classes=2), orders=1)
    assert found["nats"] == pytest.approx(sum(p["nats"] for p in found["factor"].values()))
    lone = Features(torch.eye(2)[y], torch.zeros(40, 1, dtype=torch.int64), (("one", 1),))
    found = mdl.prequential(lone, orders=1)
    assert found["nats"] == 0 and "compression" not in found
    assert mdl.MDLProbe().cells(found) == ["0.00", "–"]
    assert "a single class" in mdl.MDLProbe().sentences(found)[0]
    few = Features(lone.x[:5], lone.y[:5], lone.factors)
    with pytest.raises(Unmeasurable, match="needs 20 images, got 5"):
        mdl.prequential(few)
    with pytest.raises(Unmeasurable, match="NaN"):
        mdl.prequential(Features(lone.x * math.nan, lone.y, lone.factors))


def test_a_variational_code_is_longer_than_the_evidence_and_not_by_much():
    """-log p(y | x) by a million draws from the prior."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(30, 2, generator=rng)
    x = (x - x.mean(0)) / x.std(0)
    y = (x[:, 0] + 0.5 * torch.randn(30, generator=rng) > 0).long()
    model = Logistic(x)
    w = model.parameters(model.fit(y, 2, (1 / 30,)))
    found = length(x, y, (w[0][0], w[1][0]), 1.0, KeyedRNG(0, 0))
    weight = torch.randn(200_000, 2, 2, generator=rng)
    bias = 3 * torch.randn(200_000, 1, 2, generator=rng)
    likelihood = F.log_softmax(x @ weight + bias, 2)[:, torch.arange(30), y].double().sum(1)
    evidence = -(likelihood.logsumexp(0) - math.log(200_000)).item()
    assert evidence < found < evidence + 2.5


def test_variational_codes_are_ordered_as_they_should_be(digits):
    train = digits[0]
    worse = Features(train.x[:, 3:].contiguous(), train.y, train.factors)
    noise = train.y[torch.randperm(len(train.y), generator=torch.Generator().manual_seed(0))]
    n = len(train.y)
    good, bad, random = (variational(part)[0] for part in (train, worse, train._replace(y=noise)))
    assert good < bad < n * math.log(4) < random < n * math.log(4) + 40
    lone = Features(train.x, torch.zeros_like(train.y), (("one", 1), ("three", 3))[:1])
    assert variational(lone) == [0.0]


def test_neighbours_vote_as_in_scikit_learn(digits):
    train, test = digits
    x, x_test = (F.normalize(part.x, dim=1).double().numpy() for part in digits)

    def weights(distance):  # cosine distance = 1 - similarity
        return np.exp((distance[:, :1] - distance) / 0.1)

    theirs = KNeighborsClassifier(20, weights=weights, metric="cosine", algorithm="brute")
    theirs.fit(x, train.y[:, 0].numpy())
    near = knn_reader.search(train.x, test.x, 20)
    choice = knn_reader.Choice(20, 0.1, 1e-9)
    own = knn_reader.probabilities(
        near.similarity, train.y[:, 0][near.place], torch.full((4,), 0.25).double(), choice
    )
    assert np.abs(own.numpy() - theirs.predict_proba(x_test)).max() < 1e-4
    reading = knn_reader.readings(train, test)[0]
    assert reading.log_probabilities.exp().sum(1).numpy() == pytest.approx(1)
    assert reading.top1(test.y[:, 0]) > 0.95
    with pytest.raises(Unmeasurable, match="needs 20 training images"):
        knn_reader.readings(Features(train.x[:9], train.y[:9], train.factors), test)


def test_usable_information_has_the_values_of_its_readers(digits):
    train, test = digits
    found = usable.usable(train, test, epochs=5)
    assert found["linear"]["value"] == pytest.approx(linear(train, test)["information"], abs=1e-9)
    terms = linear_readings(train, test)[0].information(test.y[:, 0])
    expected = interval(terms)
    assert found["linear"]["low"] == pytest.approx(expected.low)
    assert found["linear"]["factor"]["label0"]["high"] == pytest.approx(expected.high)
    for reader in usable.READERS:
        part = found[reader]
        assert part["low"] < part["value"] < part["high"] < math.log(4) + 0.2
        assert part["extrapolated"] == pytest.approx(part["value"] + part["gain"]["value"])


def test_a_sample_that_is_too_small_is_said_to_be_the_limit():
    """The label is the sign of one of 60 features: 80 images do not show which, 4,000 do."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(6000, 60, generator=rng)
    y = (x[:, 0] + 0.3 * torch.randn(6000, generator=rng) > 0).long()
    both, test = features(x, y, classes=2), slice(4000, None)
    held = Features(both.x[test], both.y[test], both.factors)
    limited = []
    for n in (160, 4000):
        train = Features(both.x[:n], both.y[:n], both.factors)
        half = Features(train.x[: n // 2], train.y[: n // 2], train.factors)
        parts = [linear_readings(part, held) for part in (train, half)]
        limited.append(usable._numbers(*parts, held))
    assert [part["limited"] for part in limited] == [1, 0]
    truth = limited[1]["value"]
    assert limited[0]["value"] < limited[0]["extrapolated"] < truth + 0.02
    assert abs(limited[1]["gain"]["value"]) < 0.02
    with pytest.raises(Unmeasurable, match="needs 40 training images"):
        usable.usable(Features(x[:20], both.y[:20], both.factors), held)


def test_the_numbers_are_strict_json_with_sentences_and_pictures(digits, tmp_path):
    train = Features(digits[0].x[:60], digits[0].y[:60], digits[0].factors)
    found = mdl.prequential(train, orders=1)
    probe = mdl.MDLProbe()
    check(probe, found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(probe.headline(found)) == {"mdl/nats", "mdl/kbits", "mdl/compression", "mdl/sdl"}
    assert "kbit for 60 labels" in probe.sentences(found)[0]
    assert len(probe.cells(found)) == len(probe.values(found)) == len(probe.columns)
    picture = mdl.draw_curves(found, tmp_path / "learning.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert probe.curves(found)["nats an image, label0"][0][0] == 2
    information, reader = usable.usable(train, digits[1], epochs=2), usable.UsableProbe()
    assert json.loads(json.dumps(information, allow_nan=False)) == information
    check(reader, information)
    assert len(reader.sentences(information)) == len(reader.columns) == 3
    picture = usable.draw_readers(information, tmp_path / "usable.png")
    assert picture.read_bytes()[:4] == b"\x89PNG"


def test_the_orders_by_accuracy_and_by_code_are_compared():
    def group(name, top1, kbits, data="d"):
        return Group(name, data, ({"linear": {"top1": top1}, "mdl": {"kbits": kbits}},))

    one, two, three = group("a", 0.9, 5.0), group("b", 0.8, 4.0), group("c", 0.7, 6.0)
    lines = said_of_orders([three, two, one])
    assert lines[0].endswith("a (90.0 %), b (80.0 %), c (70.0 %)")
    assert lines[1].endswith("b (4.00 kbit), a (5.00 kbit), c (6.00 kbit)")
    assert lines[2] == "the orders disagree: a is more accurate, but b has the shorter code"
    assert said_of_orders([one, three])[2] == "both orders agree"
    assert said_of_orders([one, Group("x", "d", ({"linear": {"top1": 1.0}},))]) == []
    assert said_of_orders([one, group("b", 0.8, 4.0, "other")]) == []


def test_compare_and_report_print_both_orders(digits, tmp_path, capsys, monkeypatch):
    found = mdl.prequential(Features(digits[0].x[:60], digits[0].y[:60], digits[0].factors), 1)
    runs = [
        written(tmp_path / name, key=name, top1=top1, mdl=found | {"kbits": kbits})
        for name, top1, kbits in (("a", 0.9, 5.0), ("b", 0.8, 4.0))
    ]
    code, said, error = call(capsys, *runs, "--out", tmp_path / "c.png")
    assert code == 0, error
    lines = " ".join(said.split())
    assert "by accuracy of the linear probe: a (90.0 %), b (80.0 %)" in lines
    assert "by description length of the labels: b (4.00 kbit), a (5.00 kbit)" in lines
    assert "the orders disagree: a is more accurate, but b has the shorter code" in lines
    monkeypatch.setattr(build, "_bundle", lambda: "")
    report.main([*map(str, runs), "-o", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<li>The orders disagree: a is more accurate, but b has the shorter code.</li>" in page


def test_a_variational_code_pays_for_the_choice_of_its_prior(monkeypatch):
    monkeypatch.setattr(code, "length", lambda x, y, centre, prior, rng: 10 * prior)
    x, y = torch.randn(40, 2), torch.arange(40)[:, None] % 2
    for classes, told in ((2, 0.0), (3, 3 * math.log(2))):  # which of three classes occur
        found = code.variational(Features(x, y, (("label", classes),)))
        assert found == [pytest.approx(10 * min(code.PRIORS) + math.log(6) + told)]


def test_the_deviation_of_a_sum_over_factors_is_that_of_independent_parts(monkeypatch):
    """Two factors, whose last block costs 1, 2 or 6 nats more an image, and 3, 2 or 1."""
    more = iter([(1.0, 3.0), (2.0, 2.0), (6.0, 1.0)])

    def of_one_order(of, rows, ends, seed):
        return [[0.5] * (len(ends) - 2) + [0.5 + extra] for extra in next(more)]

    monkeypatch.setattr(mdl, "_of_one_order", of_one_order)
    monkeypatch.setattr(mdl, "variational", lambda of, seed: [0.0, 0.0])
    y = torch.arange(40) % 2
    found = mdl.prequential(features(torch.eye(2)[y], y, y, classes=2), orders=3)
    size = found["ends"][-1] - found["ends"][-2]
    parts = [np.std(extra, ddof=1) * size for extra in ([1, 2, 6], [3, 2, 1])]
    assert [part["sd"] for part in found["factor"].values()] == pytest.approx(parts)
    assert found["sd"] == pytest.approx(math.hypot(*parts))
