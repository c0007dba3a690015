"""The critic in closed form from which the training of a critic of vectors starts. It is chosen on
held-out pairs.

n = pairs, P = code dimensions.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from core.information.bounds import infonce_objective
from probes.samples.canonical import canonical
from probes.samples.noise import Cells, additive
from probes.samples.normal_scores import curves, heavy_radius, ranks, waves
from probes.samples.tables import table

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
Codes = tuple[Array, Array]
WIDEST = 50  # dimensions of a side: with more, waves can not be fitted with a few thousand pairs
MARGIN = 0.005  # nats by which a richer critic has to be better
JUDGED = 600  # at most this many held-out pairs choose the critic
MOST_VARIATES = 8
FEW = 3  # columns of a side, each of which gets steep features: with five, critics overfit
# Scale of these steep features where a side has several columns. Weight decay then keeps the critic
# smooth, unless steepness helps much.
GENTLE = 0.2


class Start(NamedTuple):
    """Codes [n, P] of all pairs, whose inner product plus `cells` is a critic; and features of x
    and y, [n, f], from which a network can improve this critic.
    """

    codes: Codes
    features: Codes
    cells: Cells | None


def start(x: Array, y: Array, used: Rows, random: np.random.Generator) -> Start:
    """The critic that is fitted on the rows `used` of x [n, dx], y [n, dy].

    The candidates are a Gaussian critic, a table of two numbers (`probes.samples.tables`), and the
    sum of both. The Gaussian critic reads normal scores, or scores that are turned and stretched by
    functions of the radius (`waves`). A side's number in the table is its coordinate if it has only
    one, else its radius. For two single coordinates, the critic of a line with noise
    (`probes.samples.noise`) is a candidate, too. The choice is made on a fifth of `used`; a richer
    critic must be better by `MARGIN`.
    """
    order = random.permutation(used)
    held, fitted = order[: len(order) // 5], order[len(order) // 5 :]
    ranked = [ranks(side[fitted], side) for side in (x, y)]
    gaussian, variates, value = _gaussian(ranked, fitted, held)
    best: list[Codes] = [gaussian]
    shares = [_number(side, fitted) for side in ranked]
    made = table(*(share[fitted] for share in shares))
    tabled = made.codes(*shares)
    for tried in ([tabled], [gaussian, tabled]):
        if (now := _value(tried, held)) > value + MARGIN:
            best, value = tried, now
    cells = None
    if x.shape[1] == y.shape[1] == 1:
        (a, b), (u, v) = (x[:, 0], y[:, 0]), shares
        for line in (additive(a, b, u, v, fitted), additive(b, a, v, u, fitted).turned()):
            if (now := _value([], held, line)) > value + MARGIN:
                best, value, cells = [_nothing(len(x))], now, line
    codes = tuple(np.concatenate(parts, 1) for parts in zip(*best, strict=True))
    seen = tuple(
        np.concatenate([of[:, :MOST_VARIATES], _more(*side)], 1)
        for of, *side in zip(variates, ranked, shares, strict=True)
    )
    return Start((codes[0], codes[1]), (seen[0], seen[1]), cells)


def _more(ranked: Array, share: Array) -> Array:
    """Features of a side from its ranks [n, d] and its number [n]: the number itself, and steep
    functions of the coordinates if these are few.
    """
    columns = ranked.shape[1]
    if columns == 1:
        return curves(share[:, None])
    steep = [GENTLE * curves(ranked[:, [column]]) for column in range(columns)]
    return np.concatenate([2 * share[:, None] - 1, *(steep if columns <= FEW else [])], 1)


def _gaussian(ranked: list[Array], fitted: Rows, held: Rows) -> tuple[Codes, Codes, float]:
    """Fit two Gaussian critics to both sides, given as ranks: one without and one with waves.
    Returns the codes, the canonical variates and the value of the better one.
    """
    scores = [np.asarray(ndtri(side)) for side in ranked]
    best, variates, value = None, None, 0.0
    for turning in (False, True):
        widths = [side.shape[1] for side in scores]
        if turning and (max(widths) > WIDEST or max(widths) == 1):
            break
        a, b = (waves(side[fitted], side) if turning else side for side in scores)
        made = canonical(a[fitted], b[fitted], a[held], b[held])
        made = made.strongest() if turning else made
        codes = made.codes(a, b)
        now = _value([codes], held)
        if best is None or now > value + MARGIN:
            best, variates, value = codes, made.variates(a, b), now
    assert best and variates
    return best, variates, value


def _number(share: Array, fitted: Rows) -> Array:
    """A number of each sample, as a rank [n], from the ranks of its coordinates [n, d]: the
    coordinate if there is one, else the radius.
    """
    if share.shape[1] > 1:
        radius = heavy_radius(share)
        share = ranks(radius[fitted], radius)
    return share[:, 0]


def _nothing(n: int) -> Codes:
    return np.zeros((n, 1)), np.zeros((n, 1))


def _value(parts: list[Codes], held: Rows, cells: Cells | None = None) -> float:
    """The InfoNCE value of a sum of critics on held pairs, in nats."""
    rows = held[:JUDGED]
    scores = torch.zeros(len(rows), len(rows))
    for first, second in parts:
        scores += torch.from_numpy(first[rows]).float() @ torch.from_numpy(second[rows]).float().T
    if cells:
        scores += torch.from_numpy(cells.scores(rows)).float()
    return float(infonce_objective(scores))
