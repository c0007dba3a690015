"""Probes as functions of plain arrays, for features and codes of any origin.

n, m = images of train and test, D = dimensions. Arrays are of numpy or torch, on any device.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import UserError, shown
from core.information.standardise import unit_rows
from core.numbers import lost_in_float32, means_unlabelled, plain, require_seed
from core.randomness import KeyedRNG
from core.run.features import Features
from probes.labels import knn as neighbours
from probes.labels import linear as regression
from probes.samples.pairs import LEAST, without_copies
from probes.views.critic import refit_scale
from probes.views.sweep import sweep_over

START = 0.1  # the first temperature of the search


def linear(train_x: Any, train_y: Any, test_x: Any, test_y: Any, seed: int = 0) -> dict[str, float]:
    """Linear probe: multinomial logistic regression on standardised features, by L-BFGS.

        information = H(Y) - CE,   in nats (usable information, Xu et al. 2020)

    train_x [n, D], test_x [m, D]: finite features of a frozen encoder. train_y [n], test_y [m]:
    labels, whole numbers or text. Returns "top1", "information" and "lambda". "top1" is the
    accuracy on test. "information" is how many nats about a label a linear classifier gains from
    the features, compared with the class frequencies of train. "lambda" is the weight decay. It is
    chosen on a random tenth of train (`seed`) or, if n < 100, on each tenth in turn. Nothing is
    chosen on test. `UserError` names an array that can not be used.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> x = rng.normal(size=(400, 3)) + 4 * y[:, None]
    >>> linear(x[:300], y[:300], x[300:], y[300:])["top1"]
    1.0
    """
    require_seed(seed)
    train, test = _labelled(train_x, train_y, test_x, test_y)
    return _of_one_label(regression.linear(train, test, seed))


def knn(
    train_x: Any, train_y: Any, test_x: Any, test_y: Any, k: int = 200, temperature: float = 0.1
) -> dict[str, float]:
    """kNN probe: the k nearest training features vote by cosine similarity (Wu et al. 2018).

        vote(c) = sum over the k nearest with label c of exp( cos(x, x_i) / temperature )

    train_x [n, D], test_x [m, D]: finite features of a frozen encoder. train_y [n], test_y [m]:
    labels, whole numbers or text. If k exceeds n, all of train votes. Returns "top1", the accuracy
    on test, and the "k" and "temperature" that were used. `UserError` names an array or number that
    can not be used.

    >>> import torch
    >>> x, y = torch.eye(3).repeat(20, 1), torch.arange(3).repeat(20)
    >>> knn(x[:30], y[:30], x[30:], y[30:], k=5)["top1"]
    1.0
    """
    if not isinstance(k, int | np.integer) or k < 1:
        raise UserError(f"k: must be 1 or more, a whole number, got {shown(k)}")
    _require_above_zero("temperature", temperature)
    train, test = _labelled(train_x, train_y, test_x, test_y)
    return _of_one_label(neighbours.knn(train, test, int(k), float(temperature)))


@torch.no_grad()
def infonce_bound(
    first_codes: Any, second_codes: Any, temperature: float | None = None, seed: int = 0
) -> dict[str, Any]:
    """InfoNCE lower bound on I(X; Y) of paired codes, with the critic of contrastive encoders.

        I(X; Y) >= log C + E[ s(x, y) - log sum_c exp s(x, y_c) ],   s(x, y) = cos(x, y) / T

    first_codes, second_codes [n, D], n >= 50: row i of both is a pair; rows are independent, and
    the encoder was not trained on them. A bound needs a critic that was fixed before the pairs were
    seen. So give the `temperature` of training, or None: then a random fifth of the pairs (`seed`)
    chooses the temperature, and the bound is computed on the other pairs.

    Returns numbers in nats: "value" at the largest C = n, its standard "error", "low" and "high"
    (95% interval), "ceiling" (log C), and "cap" (the largest value that this critic can reach).
    "verdict" is converged, K-limited, saturated, critic-limited or nothing found (see
    docs/information.md). No other critic is tried, so converged means only that more candidates
    would add little; a trained critic (`probes.estimate`) may find more. "sweep" is the bound at
    every C. Copies of a pair are left out, except if values repeat, as in discrete codes; "remark"
    says what was done. `UserError` names what can not be used. Source: van den Oord et al. 2018;
    Poole et al. 2019. For samples that are not codes, use `probes.estimate`, which trains a critic.

    >>> import torch
    >>> rng = torch.Generator().manual_seed(0)
    >>> x = torch.randn(1000, 8, generator=rng)
    >>> y = x + 0.5 * torch.randn(1000, 8, generator=rng)
    >>> found = infonce_bound(x, y)  # I(X; Y) = 4 log 5 = 6.4, near the ceiling of log 800 = 6.7
    >>> 2 < found["low"] < found["value"] < found["high"] < found["ceiling"]
    True
    """
    require_seed(seed)
    if temperature is not None:
        _require_above_zero("temperature", temperature)
    first, second = (
        _matrix(x, name)
        for x, name in ((first_codes, "first_codes"), (second_codes, "second_codes"))
    )
    if first.shape != second.shape:
        raise UserError(
            f"first_codes {tuple(first.shape)} and second_codes {tuple(second.shape)}: row i of"
            " both is a pair, so their shapes must be equal"
        )
    kept, remark = without_copies(first.numpy(), second.numpy())
    if kept is not None:
        first, second = first[kept], second[kept]
    if len(first) < LEAST:
        raise UserError(f"first_codes: {len(first)} pairs are too few; give at least {LEAST}")
    order = KeyedRNG(seed, 0).permutation("infonce bound", len(first))
    query, key = (unit_rows(x).float()[order] for x in (first, second))
    if temperature is not None:
        return _swept(query, key, 1 / temperature, None) | {"remark": remark}
    fifth = len(query) // 5
    chosen_on = query[:fifth], key[:fifth]
    scale = refit_scale(*chosen_on, 1 / START)
    return _swept(query[fifth:], key[fifth:], scale, chosen_on) | {"remark": remark}


def _swept(
    query: Tensor, key: Tensor, scale: float, calibration: tuple[Tensor, Tensor] | None
) -> dict[str, Any]:
    """The bound at every C, with side, unit, interval, ceiling, cap and verdict."""
    swept, n = sweep_over(query, key, scale, calibration), len(query)
    last = swept.bounds[-1][1]
    return {
        "quantity": "I(X; Y)",
        "estimator": "InfoNCE, one-sided",
        "side": "lower bound",
        "unit": "nats",
        "pairs": n,
        "value": last.mean,
        "error": last.error,
        "low": last.low,
        "high": last.high,
        "candidates": n,
        "ceiling": math.log(n),
        "cap": swept.cap,
        "temperature": 1 / scale,
        "verdict": swept.verdict,
        "sweep": [
            {"candidates": c, "bound": e.mean, "low": e.low, "high": e.high, "ceiling": math.log(c)}
            for c, e in swept.bounds
        ],
    }


def _matrix(values: Any, name: str) -> Tensor:
    """Finite real numbers [n, D] on the CPU: float32, or float64 if float32 would lose them."""
    array = plain(values, f"{name}:")
    if array.dtype.kind not in "fiub" or array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{name}: has shape {array.shape} of {array.dtype}; give numbers [n, D]")
    x = torch.from_numpy(array)
    wide = x.double() if lost_in_float32(x) is not None else x.float()
    if not wide.isfinite().all():
        row = int((~wide.isfinite()).any(1).nonzero()[0])
        raise UserError(f"{name}: row {row} holds a value that is not finite in {_word(wide)}")
    return wide


def _word(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _labelled(train_x: Any, train_y: Any, test_x: Any, test_y: Any) -> tuple[Features, Features]:
    """Both splits with their labels numbered from 0."""
    x, x_test = _matrix(train_x, "train_x"), _matrix(test_x, "test_x")
    if x.shape[1] != x_test.shape[1]:
        raise UserError(
            f"train_x has {x.shape[1]} dimensions and test_x {x_test.shape[1]}; both must be"
            " features of one encoder"
        )
    y, y_test = _labels(train_y, "train_y", len(x)), _labels(test_y, "test_y", len(x_test))
    if (y.dtype.kind == "U") != (y_test.dtype.kind == "U"):
        raise UserError("train_y, test_y: one holds text and the other numbers")
    names, number = np.unique(np.concatenate([y, y_test]), return_inverse=True)
    if means_unlabelled(names):
        name = "train_y" if (np.asarray(y).astype(str) == "-1").any() else "test_y"
        raise UserError(
            f"{name}: has the label -1, which usually means that a row has no label; leave such"
            " rows out. If it is a class, give it another number"
        )
    labels, factors = torch.from_numpy(number.reshape(-1, 1)), (("label", len(names)),)
    return Features(x, labels[: len(x)], factors), Features(x_test, labels[len(x) :], factors)


def _labels(values: Any, name: str, n: int) -> np.ndarray:
    y = plain(values, f"{name}:")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dtype.kind not in "iubU" or y.shape != (n,):
        raise UserError(
            f"{name}: has shape {y.shape} of {y.dtype}; give {n} labels, whole numbers or text,"
            " one for each row of the features"
        )
    return y if y.dtype.kind == "U" else y.astype(np.int64)


def _require_above_zero(name: str, value: Any) -> None:
    if not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise UserError(f"{name}: must be above 0, got {shown(value)}")


def _of_one_label(found: dict[str, float]) -> dict[str, float]:
    """The numbers, with the name of the only factor removed from their keys."""
    return {name.removesuffix("/label"): value for name, value in found.items()}
