"""The rank of a linear probe: BIC against scikit-learn, choices against a known rank."""

import json
import math

import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from core.errors import Unmeasurable
from core.run.features import Features
from probes.labels import rank
from probes.report.store import check


def drawn(n: int, seed: int) -> Features:
    """The label depends on the two strongest of eight directions, and the others are noise."""
    rng = torch.Generator().manual_seed(seed)
    deviation = torch.tensor([4.0, 3.0, *[1.0] * 6])
    z = torch.randn(n, 8, generator=rng)
    y = (1.5 * z[:, 0] + 1.5 * z[:, 1] + torch.randn(n, generator=rng) > 0).long()
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(9))).Q
    return Features((z * deviation) @ turn, y[:, None], (("y", 2),))


@pytest.fixture(scope="module")
def found():
    return rank.rank(drawn(400, 0), drawn(1000, 1), orders=1)


def test_the_components_are_those_of_scikit_learn():
    train, test = drawn(300, 0), drawn(50, 1)
    own, own_test = rank.principal(train, test)
    x = (train.x - train.x.mean(0)) / train.x.std(0)
    theirs = PCA(8).fit(x.numpy())
    expected = theirs.transform(((test.x - train.x.mean(0)) / train.x.std(0)).numpy())
    assert own_test.x.abs().numpy() == pytest.approx(abs(expected), abs=1e-3)
    assert (own.x.var(0).diff() <= 1e-6).all() and torch.equal(own.y, train.y)


def test_bic_is_that_of_an_unpenalised_fit():
    train = drawn(300, 0)
    x = torch.cat([train.x[:, :3], train.x[:, :1] ** 2], 1)
    features = Features(x, train.y, train.factors)
    theirs = LogisticRegression(C=math.inf, tol=1e-10, max_iter=5000).fit(x, train.y[:, 0])
    p = torch.tensor(theirs.predict_proba(x)).gather(1, train.y)
    expected = -p.log().sum().item() + 5 / 2 * math.log(300)
    assert rank._bic(features) == pytest.approx(expected, rel=1e-4)


def test_the_rules_choose_what_test_confirms(found):
    """One component is not enough; from the first ranks that hold the signal, more are noise."""
    test = {point["rank"]: point["test"] for point in found["curve"]}
    assert list(test) == [1, 2, 4, 8]
    for rule in rank.RULES:
        choice = found["chosen"][rule]
        values = {point["rank"]: point[rule] for point in found["curve"]}
        assert choice["rank"] == min(values, key=values.get)
        assert test[choice["rank"]] < min(test.values()) + 0.05
    assert found["chosen"]["bic"]["rank"] <= found["chosen"]["cv"]["rank"]


def test_noise_needs_one_component():
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 8, generator=rng), torch.randint(2, (200, 1), generator=rng)
    noise = Features(x, y, (("y", 2),))
    assert rank.rank(noise, noise, orders=1)["chosen"]["bic"]["rank"] == 1


def test_the_report_and_its_errors(found, tmp_path):
    probe = rank.RankProbe()
    check(probe, found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert len(probe.cells(found)) == len(probe.values(found)) == len(probe.columns)
    assert "by BIC: " in probe.sentences(found)[0]
    from core.frozen import Frozen

    path = probe.figures(rank.Found(found), Frozen, tmp_path)["rank"]
    assert path.read_bytes()[:4] == b"\x89PNG"
    few = drawn(20, 0)
    with pytest.raises(Unmeasurable, match="needs 40 images"):
        rank.rank(few, few)
    assert rank.ranks_of(50_000, 512) == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert rank.ranks_of(100, 24) == [1, 2, 4, 8, 16, 24]


def test_cross_validation_scores_images_that_were_not_fitted(monkeypatch):
    held = []

    def read(train, test, seed):
        seen = set(train.x[:, 0].tolist()), set(test.x[:, 0].tolist())
        assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 43
        held.extend(seen[1])
        return 0.5, 0.0

    monkeypatch.setattr(rank, "_read", read)
    features = Features(torch.arange(43.0)[:, None], torch.zeros(43, 1).long(), (("label", 2),))
    assert rank._cross_validated(features, 0, 5) == pytest.approx(43 * 0.5)
    assert sorted(held) == list(range(43))
