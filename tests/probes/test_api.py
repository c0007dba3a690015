"""The probes of plain arrays: their numbers equal those of checkpoints and of plain formulas."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from core.errors import UserError
from core.run.features import Features
from probes import infonce_bound, knn, linear
from probes.labels import knn as neighbours
from probes.labels import linear as regression


def clouds(n: int = 300, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return (rng.normal(size=(n, 6)) + 1.5 * np.eye(6)[y]).astype(np.float32), y


def paired(n: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=rng)
    return x, x + noise * torch.randn(n, 6, generator=rng)


def test_linear_and_knn_are_those_of_a_checkpoint():
    x, y = clouds()
    splits = [
        Features(torch.from_numpy(x[part]), torch.from_numpy(y[part])[:, None], (("label", 4),))
        for part in (slice(200), slice(200, None))
    ]
    given = (x[:200], y[:200], x[200:], y[200:])
    expected = regression.linear(*splits, seed=3)
    found = linear(*given, seed=3)
    assert found == {key: expected[f"{key}/label"] for key in ("top1", "information", "lambda")}
    votes = neighbours.knn(*splits, 7, 0.2)
    assert knn(*given, k=7, temperature=0.2) == {
        "top1": votes["top1"],
        "k": 7.0,
        "temperature": 0.2,
    }


def test_knn_is_sklearns_vote():
    x, y = clouds(400)
    peer = KNeighborsClassifier(15, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1))
    expected = (peer.fit(x[:300], y[:300]).predict(x[300:]) == y[300:]).mean()
    assert 0.4 < expected < 1
    assert knn(x[:300], y[:300], x[300:], y[300:], k=15)["top1"] == pytest.approx(expected)


@pytest.mark.parametrize("probe", [linear, knn])
def test_arrays_and_labels_of_every_kind_give_the_same(probe):
    x, y = clouds(200)
    given = (x[:150], y[:150], x[150:], y[150:])
    expected = probe(*given)
    names = np.array(["ant", "bee", "cat", "dog"])
    assert probe(given[0], names[given[1]], given[2], names[given[3]]) == expected
    assert probe(given[0], 7 * given[1] - 3, given[2], 7 * given[3] - 3) == expected
    tensors = [torch.from_numpy(a) for a in given]
    assert probe(tensors[0].requires_grad_(), *tensors[1:]) == expected
    assert (
        probe(given[0].astype(np.float64), list(given[1]), given[2], given[3][:, None]) == expected
    )


def test_the_bound_is_the_plain_formula():
    x, y = paired(600, 0.5)
    found = infonce_bound(x, y, temperature=0.2)
    scores = F.normalize(x, dim=1).double() @ F.normalize(y, dim=1).double().T / 0.2
    own = scores.diag() - scores.logsumexp(1) + math.log(600)
    assert found["value"] == pytest.approx(own.mean().item(), abs=1e-5)
    share = scores.softmax(1).fill_diagonal_(0)  # of a key among the candidates of others
    influence = own - share.sum(0)
    assert found["error"] == pytest.approx(influence.std().item() / math.sqrt(600), rel=1e-4)
    assert (found["pairs"], found["candidates"]) == (600, 600)
    assert found["ceiling"] == pytest.approx(math.log(600))
    assert found["sweep"][-1]["bound"] == found["value"]
    assert [row["candidates"] for row in found["sweep"]] == [17, 33, 65, 129, 257, 513, 600]
    assert infonce_bound(3 * x, y.numpy() / 7, temperature=0.2)["value"] == pytest.approx(
        found["value"], abs=1e-5
    )


def test_the_temperature_is_chosen_on_other_pairs_than_those_of_the_bound():
    x, y = paired(500, 0.5)
    found = infonce_bound(x, y)
    assert found["pairs"] == 400 and 0.01 < found["temperature"] < 1
    assert found["value"] > infonce_bound(x, y, temperature=1.0)["value"] + 0.5
    independent = [infonce_bound(x, paired(500, 0.5, seed)[1]) for seed in range(1, 11)]
    assert all(b["verdict"] == "critic-limited" or b["low"] < 0.05 for b in independent)
    assert np.mean([bound["value"] for bound in independent]) < 0.01


def test_a_bound_at_its_ceiling_says_so():
    x, y = paired(400, 0.01)
    found = infonce_bound(x, y)
    assert found["value"] < found["ceiling"] and found["verdict"] == "saturated"
    warm = infonce_bound(x, y, temperature=1.0)  # cos / 1 can not exceed its cap
    assert warm["value"] < warm["cap"] < 2


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"train_x": np.zeros((150, 6, 1))}, r"train_x: has shape \(150, 6, 1\)"),
        ({"train_x": np.full((150, 6), np.nan)}, "train_x: row 0 holds a value that is not finite"),
        ({"test_x": np.full((50, 6), 1e300)}, "test_x: row 0 holds a value that is not finite"),
        ({"test_x": np.zeros((50, 5))}, "train_x has 6 dimensions and test_x 5"),
        ({"train_x": np.zeros((150, 6), complex)}, "train_x: has shape"),
        ({"train_x": [[1.0], [1.0, 2.0]]}, "train_x: is not a rectangular array"),
        (
            {"train_x": np.zeros((0, 6)), "train_y": np.zeros(0, int)},
            r"train_x: has shape \(0, 6\)",
        ),
        ({"train_y": np.zeros(149, int)}, "train_y: has shape .* give 150 labels"),
        ({"train_y": np.zeros(150)}, "train_y: has shape .* float64; give 150 labels"),
        ({"test_y": np.zeros((50, 2), int)}, "test_y: has shape"),
        ({"test_y": np.array(["a"] * 50)}, "one holds text and the other numbers"),
    ],
)
@pytest.mark.parametrize("probe", [linear, knn])
def test_a_checkpoint_that_can_not_be_probed_is_named(probe, change, line):
    x, y = clouds(200)
    given = {"train_x": x[:150], "train_y": y[:150], "test_x": x[150:], "test_y": y[150:]}
    with pytest.raises(UserError, match=line):
        probe(**(given | change))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda x, y: infonce_bound(x, y[:-1]), "row i of both is a pair"),
        (lambda x, y: infonce_bound(x, y[:, :-1]), "row i of both is a pair"),
        (lambda x, y: infonce_bound(x[:40], y[:40]), "40 pairs are too few; give at least 50"),
        (lambda x, y: infonce_bound(x, y, temperature=0.0), "temperature: must be above 0"),
        (lambda x, y: infonce_bound(x, y, temperature=math.nan), "temperature: must be above 0"),
        (lambda x, y: infonce_bound(x / 0, y), "first_codes: row 0"),
        (lambda x, y: knn(x, y, x, y, k=0), "k: must be 1 or more"),
        (lambda x, y: knn(x, y, x, y, temperature=-1), "temperature: must be above 0"),
    ],
)
def test_inputs_without_a_bound_are_named(call, line):
    with pytest.raises(UserError, match=line):
        call(*paired(60, 0.5))
