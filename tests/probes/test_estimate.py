"""`probes.estimate` and scripts/information.py: pairs of a user whose information is known, and
pairs that must be refused.
"""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.feature_selection import mutual_info_regression
from torch.nn.functional import cross_entropy

from core.errors import Unmeasurable, UserError
from core.information import bounds
from core.information.bounds import Estimate, alpha_bound
from core.information.scores import of_matrix
from probes.samples import estimate as tool
from probes.samples import panel
from probes.samples.canonical import canonical
from probes.samples.crossfit import Fit, Held, cross_fit
from probes.samples.estimate import estimate
from probes.samples.ksg import ksg_terms
from probes.samples.normal_scores import features, normal_scores
from probes.samples.pairs import check_pairs, load_pairs
from tests.front_door import ROOT, Done, run_code
from tests.quick import QUICK
from tests.sources import gaussian_pairs


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """Most pairs here are Gaussian, so critics start at their optimum. Stop soon at no progress."""
    monkeypatch.setattr(panel, "LEAST_STEPS", 150)
    monkeypatch.setattr(panel, "BATCH", 128)
    monkeypatch.setattr(panel, "Plan", partial(panel.Plan, check_every=10, patience=2))


def pairs_of(
    information: float, n: int = 1500, d: int = 3, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, float, float]:
    """x, y, and the mean and standard error of the sample's own pointwise information."""
    made = gaussian_pairs(n, d, information, seed)
    return (
        made.x.numpy(),
        made.y.numpy(),
        made.pointwise.mean().item(),
        made.pointwise.std().item() / math.sqrt(n),
    )


@pytest.mark.parametrize("information, d", [(0.0, 2), (0.5, 1), (1.5, 5), (3.0, 10)])
def test_every_lower_bound_is_one_and_close(information, d):
    x, y, own, error = pairs_of(information, d=d)
    found = estimate(x, y, ("infonce", "alpha", "nwj", "js", "ksg"))
    for name in ("infonce", "alpha", "nwj", "js"):
        entry = found["estimators"][name]
        assert entry["side"] == "lower bound"
        assert entry["value"] <= own + 3 * entry["error"] + 1e-3
        assert (
            entry["value"] >= own - 0.08 - 0.12 * information
        )  # of 300 candidates and 1,500 pairs
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert ("ksg" in found["estimators"]) == (2 * d <= tool.KSG_DIMENSIONS)
    if information == 0:
        assert found["conclusion"].startswith("nothing found; these critics read at most 0.03")
        assert found["estimators"]["infonce"]["verdict"] == "nothing found"
    else:
        assert found["conclusion"].startswith("at least ")


def test_ten_nats_are_called_saturated_and_alpha_says_more():
    x, y, _, _ = pairs_of(10.0, n=2000, d=20)
    found = estimate(x, y, ("infonce", "alpha", "nwj"))
    infonce, alpha = found["estimators"]["infonce"], found["estimators"]["alpha"]
    assert infonce["verdict"] == "saturated" and infonce["value"] < infonce[
        "ceiling"
    ] == pytest.approx(math.log(400))
    assert alpha["alpha"] == 0.005 and alpha["low"] > infonce["ceiling"]  # 10 / n
    assert alpha["low"] == pytest.approx(alpha["value"] - 1.96 * alpha["error"] - alpha["unseen"])
    assert alpha["verdict"] == "saturated"  # no lower bound above log n can be trusted
    assert "says at least" in found["conclusion"]


def test_nwj_is_left_out_where_its_mean_is_not_sampled(monkeypatch):
    x, y, _, _ = pairs_of(1.0, n=300)
    found = estimate(x, y, ("infonce", "nwj", "js"))["estimators"]
    for name in ("nwj", "js"):
        error = 1.96 * found[name]["error"] + found[name]["unseen"]
        assert found[name]["low"] == pytest.approx(found[name]["value"] - error)
    monkeypatch.setattr(bounds, "unseen", lambda scores: 0.11)
    found = estimate(x, y, ("infonce", "nwj"))
    assert set(found["estimators"]) == {"infonce"}
    assert any(r.startswith("nwj left out: 11% of the pairs") for r in found["remarks"])


def test_the_alpha_bounds_ceiling_is_the_value_of_a_perfect_critic():
    """The ceiling is 1 + log(m / alpha) for m negatives; values may exceed log(m / alpha)."""
    perfect = of_matrix(torch.eye(60) * 2000 - 1000)
    read = alpha_bound(perfect, 0.1).terms
    torch.testing.assert_close(read, torch.full_like(read, 1 + math.log(59 / 0.1)))
    x, y, _, _ = pairs_of(1.0, n=300)
    found = estimate(x, y)["estimators"]["alpha"]
    assert found["ceiling"] == pytest.approx(1 + math.log(59 / found["alpha"]))
    assert found["candidates"] == 60


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite_have_no_verdict_and_no_conclusion(bad):
    good = Estimate(2.0, 0.1, 1.8, 2.2)
    assert tool._other_verdict(good, good, 9.0, "K-limited") == "converged"
    assert tool._other_verdict(good, good, 9.0, "data-limited") == "data-limited"
    for field in Estimate._fields:
        spoiled = good._replace(**{field: bad})
        for pair in ((spoiled, good), (good, spoiled)):
            with pytest.raises(Unmeasurable):
                tool._other_verdict(*pair, 9.0, "converged")
    x, y, _, _ = pairs_of(1.0, n=100, d=1)
    found = estimate(x, y, ("infonce", "alpha"))
    for name in ("infonce", "alpha"):
        entry = dict(found["estimators"][name], low=bad)
        spoiled = {"estimators": {**found["estimators"], name: entry}}
        with pytest.raises(Unmeasurable, match=f"^estimate, {name}: low"):
            tool.conclusion(spoiled)


def test_a_memorising_critic_finds_nothing_in_independent_pairs(monkeypatch):
    """The last step of overtrained critics, which have memorised their training pairs: on held-out
    pairs they find nothing.
    """
    monkeypatch.setattr(panel, "LEAST_STEPS", 200)
    g = np.random.default_rng(0)
    x, y = g.normal(size=(300, 10)), g.normal(size=(300, 10))
    fit = cross_fit(x, y, memorise=True)
    for name in ("infonce", "alpha", "nwj", "js"):
        entry = tool._bound(name, fit, tool._sweep(fit.folds)[-1][1], "")
        assert entry["value"] <= 3 * entry["error"]
    assert cross_fit(x, y).steps < fit.steps == panel.LEAST_STEPS
    found = estimate(x, y, ("infonce",))["estimators"]["infonce"]
    assert found["value"] <= 3 * found["error"] + 1e-3


def test_every_pair_is_scored_once_by_critics_that_never_saw_it():
    """Pairs of a fold do not influence the critics that score this fold."""
    x, y, _, _ = pairs_of(1.0, n=400, d=2)
    fit = cross_fit(x, y)
    assert sorted(np.concatenate([held.rows for held in fit.folds]).tolist()) == list(range(400))
    fold, order = fit.folds[2].rows, np.random.default_rng(1).permutation(80)
    spoiled = y.copy()
    spoiled[fold] = y[fold[order]]  # same marginals, another pairing
    before, after = (of.folds[2].query @ of.folds[2].key.T for of in (fit, cross_fit(x, spoiled)))
    torch.testing.assert_close(after, before[:, order], rtol=1e-4, atol=1e-4)


def test_a_constant_in_the_critic_is_removed(monkeypatch):
    """A constant does not change InfoNCE, but NWJ and alpha. Scores estimate a log density ratio,
    whose exponential has the mean 1 over independent pairs.
    """
    monkeypatch.setattr(panel, "LEAST_STEPS", 40)
    monkeypatch.setattr(panel, "MOST_STEPS", 40)
    x, y, _, _ = pairs_of(1.0, n=300, d=2)
    plain, codes = cross_fit(x, y), panel.Towers.forward

    def shifted(self, *parts):
        q, k = codes(self, *parts)
        return torch.cat([q, 3 * torch.ones_like(q[..., :1])], -1), torch.cat(
            [k, torch.ones_like(k[..., :1])], -1
        )

    monkeypatch.setattr(panel.Towers, "forward", shifted)
    for before, after in zip(plain.folds, cross_fit(x, y).folds, strict=True):
        matrix = before.query @ before.key.T
        torch.testing.assert_close(after.query @ after.key.T, matrix, rtol=1e-3, atol=1e-3)
        assert matrix.exp().mean() == pytest.approx(1, abs=0.5)


def test_the_gain_compares_as_many_critics_with_all_pairs_and_with_half():
    """The value of means of two critics against that of means of two, by torch's cross entropy."""
    g, own = torch.Generator().manual_seed(0), torch.arange(8)

    def held():
        sides = (torch.randn(8, 3, dtype=torch.float64, generator=g) for _ in range(2))
        return Held(own.numpy(), *sides)

    def value(fold):
        scored = fold.query @ fold.key.T
        return (cross_entropy(scored, own) + cross_entropy(scored.T, own)).item() / -2

    whole, matched, halved = ([held(), held()] for _ in range(3))
    found = tool._gain(Fit(whole, 0.0, [], 0, matched, halved))
    each = [value(full) - value(half) for full, half in zip(matched, halved, strict=True)]
    assert found.mean == pytest.approx(sum(each) / 2)


def test_seeds_repeat_and_differ():
    x, y, _, _ = pairs_of(1.0, n=300)
    found, again, other = (estimate(x, y, seed=seed) for seed in (0, 0, 1))
    assert found == again
    assert found["estimators"]["infonce"]["value"] != other["estimators"]["infonce"]["value"]


def test_invertible_maps_of_columns_change_little():
    x, y, own, _ = pairs_of(1.0, d=2)
    plain = estimate(x, y)["estimators"]["infonce"]["value"]
    mapped = estimate(np.sign(x) * np.abs(x) ** 3, np.exp(y))["estimators"]["infonce"]["value"]
    assert mapped == pytest.approx(plain, abs=0.01)


def test_discrete_columns():
    """A symmetric channel over four letters, written as numbers: I = log 4 - H(0.7, 0.1, 0.1,
    0.1).
    """
    g = np.random.default_rng(0)
    x = g.integers(4, size=2000)
    y = np.where(g.random(2000) < 0.6, x, g.integers(4, size=2000))
    truth = math.log(4) + 0.7 * math.log(0.7) + 3 * 0.1 * math.log(0.1)
    found = estimate(x, y)
    entry = found["estimators"]["infonce"]
    assert truth - 0.03 < entry["value"] < truth + 3 * entry["error"]
    assert "repeat" in found["remarks"][0] and "ksg left out" in found["remarks"][1]


def test_ksg_equals_scikit_learn():
    x, y, _, _ = pairs_of(0.7, d=1)
    ours = ksg_terms(x / x.std(), y / y.std()).mean()
    assert ours == pytest.approx(
        mutual_info_regression(x, y[:, 0], n_neighbors=3, random_state=0)[0], abs=2e-3
    )


def test_the_canonical_critic_is_the_gaussian_one():
    """It is close to log p(x, y) / p(x) p(y) for many pairs, and 0 for independent pairs in many
    dimensions.
    """
    made = gaussian_pairs(20_000, 3, 1.2, 0)
    x, y = made.x.numpy(), made.y.numpy()
    fitted = canonical(x[4000:], y[4000:], x[:4000], y[:4000])
    assert fitted.information() == pytest.approx(1.2, abs=0.05)
    q, k = fitted.codes(x, y)
    assert np.abs((q * k).sum(1) - made.pointwise.numpy()).mean() < 0.05
    noise = np.random.default_rng(0).normal(size=(2, 1000, 50))
    (x, y), used = noise, slice(200, None)
    assert canonical(x[used], y[used], x[:200], y[:200]).information() < 0.05


def test_normal_scores_depend_only_on_the_reference():
    g = np.random.default_rng(0)
    reference, x = g.exponential(size=(5000, 2)), g.exponential(size=(200, 2))
    scores = normal_scores(reference, x)
    assert abs(scores.mean()) < 0.15 and abs(scores.std() - 1) < 0.1
    np.testing.assert_array_equal(scores[:7], normal_scores(reference, x[:7]))
    np.testing.assert_allclose(normal_scores(reference**3, x**3), scores)
    symbols = g.integers(3, size=(100, 1)).astype(float)
    assert features(symbols, symbols, normal_scores(symbols, symbols)).shape == (100, 1 + 2 + 3)


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.zeros((60, 2)), np.arange(60.0), "x is constant"),
        (np.arange(60.0), np.arange(59.0), "x has 60 rows and y 59"),
        (np.arange(49.0), np.arange(49.0), "49 distinct pairs are too few"),
        (np.full(60, np.nan), np.arange(60.0), "x holds nan in row 0, column 0"),
        (np.arange(60.0), np.r_[np.arange(59.0), np.inf], "y holds inf in row 59, column 0"),
        (np.arange(60) + 1j, np.arange(60.0), "x holds complex128"),
        (np.array([object()] * 60), np.arange(60.0), "x holds object"),
        (np.zeros((60, 2, 2, 2, 2)), np.arange(60.0), r"x has shape \(60, 2, 2, 2, 2\)"),
        (np.zeros((60, 8, 8, 3)), np.arange(60.0), r"looks like \[n, H, W, C\]"),
        (np.zeros((60, 1, 8, 8)), np.arange(60.0), "x is constant"),
        (np.full((60, 8, 8), np.inf), np.arange(60.0), r"x holds inf in row 0, pixel \(0, 0, 0\)"),
        (np.zeros((60, 0)), np.arange(60.0), r"x has shape \(60, 0\)"),
        ([[1, 2], [3]] * 30, np.arange(60.0), "x is not a rectangular array"),
    ],
)
def test_impossible_pairs_are_refused(x, y, message):
    with pytest.raises(UserError, match=message):
        estimate(x, y)


def test_copies_of_rows_are_left_out_and_reported():
    x, y, _, _ = pairs_of(0.0, n=300)
    checked = check_pairs(np.concatenate([x, x[:100]]), np.concatenate([y, y[:100]]))
    assert len(checked.x) == 300 and "100 rows are copies" in checked.remarks[0]
    np.testing.assert_array_equal(checked.x, x)
    with pytest.raises(UserError, match="40 distinct pairs are too few"):
        check_pairs(np.tile(x[:40], (5, 1)), np.tile(y[:40], (5, 1)))


def test_a_dependence_above_the_stated_limit_is_found(monkeypatch):
    """`at_most`: a linear dependence of 55 / n nats is seen with 95% power."""
    monkeypatch.setattr(panel, "LEAST_STEPS", 1)
    monkeypatch.setattr(panel, "MOST_STEPS", 1)
    n = 400
    found = []
    for seed in range(8):
        x, y, _, _ = pairs_of(tool.LINEAR / n, n=n, d=1, seed=seed)
        found.append(tool._sweep(cross_fit(x, y).folds)[-1][1].low > 0)
    assert sum(found) >= 7
    assert tool.at_most({"high": 0.001}, n) == tool.LINEAR / n
    assert tool.at_most({"high": 0.4}, n) == 0.4


def test_constant_columns_are_left_out_with_a_remark():
    x, y, _, _ = pairs_of(1.0, n=300, d=2)
    wide = np.insert(x, [0, 2], 7.0, axis=1)
    checked = check_pairs(wide, np.insert(y, 1, 0.0, axis=1))
    np.testing.assert_array_equal(checked.x, x)
    np.testing.assert_array_equal(checked.y, y)
    assert checked.remarks == [
        "2 of 4 columns of x are constant and were left out",
        "column 1 of y is constant and was left out",
    ]


def test_an_unknown_estimator_or_critic_is_named():
    for critic, message in (("cnv", "did you mean 'conv'"), ("conv", "needs images")):
        with pytest.raises(UserError, match=message):
            estimate(np.arange(60.0), np.arange(60.0), critic=critic)
    with pytest.raises(UserError, match="no 'infonc'.*did you mean 'infonce'"):
        estimate(np.arange(60.0), np.arange(60.0), ("infonc",))


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("bomb"),))


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "can not be read"),
        (lambda path: path.write_bytes(b""), "can not be read"),
        (lambda path: path.write_bytes(b"not a zip"), "can not be read|refused"),
        (lambda path: np.savez(path, a=np.zeros(3), y=np.zeros(3)), "its arrays: a, y"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "not an npz"),
        (lambda path: np.savez(path, x=np.array([Bomb()] * 60), y=np.zeros(60)), "refused"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)), "can not be read"),
    ],
)
def test_files_that_hold_no_pairs_are_refused_and_run_nothing(
    tmp_path, monkeypatch, write, message
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pairs.npz"
    write(path)
    with pytest.raises(UserError, match=message):
        load_pairs(path)
    assert not (tmp_path / "bomb").exists()


def script(*words: str, cwd: Path) -> Done:
    return run_code(QUICK, ROOT / "scripts/information.py", *words, cwd=cwd)


def test_the_script_prints_a_table_or_json(tmp_path):
    x, y, own, _ = pairs_of(1.0, n=500, d=1)
    np.savez(tmp_path / "pairs.npz", x=x, y=y)
    told = script("pairs.npz", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert all(
        word in told.stdout
        for word in ("infonce", "alpha", "nwj", "ksg", "lower bound", "ceiling", "500 pairs")
    )
    assert "\nat least 0." in told.stdout
    assert "nats, an estimate, no bound" in " ".join(told.stdout.split())
    found = json.loads(
        script("pairs.npz", "--json", "--estimators", "nwj,ksg", cwd=tmp_path).stdout
    )
    assert set(found["estimators"]) == {"infonce", "nwj", "ksg"}
    assert found["estimators"]["infonce"]["value"] == pytest.approx(own, abs=0.1)
    assert [row["candidates"] for row in found["sweep"]] == [16, 32, 64, 100]


@pytest.mark.parametrize(
    "words, message",
    [
        (("none.npz",), "no such file"),
        (("pairs.npz", "--seed", "-1"), "--seed"),
        (("pairs.npz", "--seed", str(2**70)), "--seed"),
        (("x.npz",), "is constant"),
    ],
)
def test_the_script_answers_bad_input_in_one_line(tmp_path, words, message):
    np.savez(tmp_path / "x.npz", x=np.zeros(60), y=np.arange(60.0))
    np.savez(tmp_path / "pairs.npz", x=np.arange(60.0), y=np.arange(60.0))
    told = script(*words, cwd=tmp_path)
    assert (
        told.returncode == 2
        and len(told.stderr.strip().splitlines()) == 1
        and message in told.stderr
    )
    assert not told.stdout
