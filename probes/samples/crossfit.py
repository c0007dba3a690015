"""Critics for paired samples, cross-fitted: every pair is scored by critics that never saw it.

n = pairs, F = folds, E = F (F - 1) / 2 critics trained side by side, B = batch, P = code
dimensions.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from core.information import scores
from core.information.bounds import best_alpha, infonce_symmetric, js_objective
from probes.samples.canonical import canonical
from probes.samples.normal_scores import features, normal_scores

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
FOLDS, BATCH, HIDDEN, CODES = 5, 300, 64, 32
RATE, DECAY, WARMUP = 3e-3, 1e-2, 20
CHECK_EVERY, PATIENCE, MOST_CHECKED = 20, 5, 1024
ALPHAS = (0.01, 0.1, 0.5, 0.9)
STEPS_A_PAIR = 0.12  # 600 steps for 5,000 pairs …
LEAST_STEPS, MOST_STEPS = 600, 3000


class Held(NamedTuple):
    """One fold and what scores it: codes [n_f, P] whose inner product is the score, centred so that
    it estimates a log density ratio.
    """

    rows: Rows
    query: Tensor
    key: Tensor


class Fit(NamedTuple):
    folds: list[Held]
    calibration: float  # InfoNCE on the folds that chose the critics, mean over critics
    alpha: float  # of the interpolated bound, best on those folds
    steps: int


class Towers(nn.Module):
    """E critics at once, f(x, y) = base + <g(x), h(y)> + a(x) + b(y), each with weights of its own.

    `base` is the Gaussian critic, which holds the bilinear term in closed form; the networks g and
    h start at zero beside it.
    """

    def __init__(self, critics: int, dx: int, dy: int):
        super().__init__()
        self.of_x, self.of_y = (
            nn.ModuleList(
                [
                    Stacked(critics, d, HIDDEN),
                    Stacked(critics, HIDDEN, HIDDEN),
                    Stacked(critics, HIDDEN, CODES + 1),
                ]
            )
            for d in (dx, dy)
        )
        with torch.no_grad():
            self.of_x[-1].weight[..., -1] = 0  # type: ignore[index, operator]
            self.of_y[-1].weight.zero_()  # type: ignore[operator, union-attr]

    def forward(
        self, x: Tensor, y: Tensor, base_x: Tensor, base_y: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Codes [E, B, P] of both sides."""
        g, h = _through(self.of_x, x), _through(self.of_y, y)
        one = torch.ones_like(g[..., :1])
        return torch.cat([g, one, base_x], -1), torch.cat(
            [h[..., :-1], one, h[..., -1:], base_y], -1
        )


class Stacked(nn.Module):
    """A linear map for each of E critics, [E, B, in] to [E, B, out]."""

    def __init__(self, critics: int, width_in: int, width_out: int):
        super().__init__()
        self.weight = nn.Parameter(
            torch.randn(critics, width_in, width_out) * math.sqrt(2 / width_in)
        )
        self.bias = nn.Parameter(torch.zeros(critics, 1, width_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


def cross_fit(
    x: Array, y: Array, seed: int = 0, objective: str = "infonce", memorise: bool = False
) -> Fit:
    """Train a critic for every pair of folds on the other folds; its best step on one of the two
    serves the other, and back.

    So each fold is scored by the mean of F - 1 critics that saw it neither in training nor in any
    choice: the step is chosen on another fold. The mean of critics is better than each, as their
    errors differ. `objective` is "infonce" or "js" (the Jensen-Shannon one); `memorise` keeps the
    last step instead of the best, to show that a held-out value forgives nothing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        folds = np.array_split(random.permutation(len(x)), FOLDS)
        members = list(itertools.combinations(range(FOLDS), 2))
        sides = _read(x, y, folds, members, random)
        return _train(sides, folds, members, seed, objective, memorise)


def _read(
    x: Array,
    y: Array,
    folds: list[Rows],
    members: list[tuple[int, int]],
    random: np.random.Generator,
) -> list[Tensor]:
    """Features and base codes of all pairs as each critic reads them, [E, n, d] each; maps and base
    are fitted on its training folds.
    """
    parts: list[list[Array]] = [[], [], [], []]
    width_x = width_y = 0
    for pair in members:
        used = np.concatenate([fold for number, fold in enumerate(folds) if number not in pair])
        scores_x, scores_y = normal_scores(x[used], x), normal_scores(y[used], y)
        base = canonical(scores_x[used], scores_y[used], random).codes(scores_x, scores_y)
        made = (features(x[used], x, scores_x), features(y[used], y, scores_y), *base)
        width_x, width_y = max(width_x, made[0].shape[1]), max(width_y, made[1].shape[1])
        for part, array in zip(parts, made, strict=True):
            part.append(array)
    widths = (width_x, width_y, *[max(array.shape[1] for array in parts[side]) for side in (2, 3)])
    return [
        torch.stack(
            [F.pad(torch.from_numpy(array).float(), (0, width - array.shape[1])) for array in part]
        )
        for part, width in zip(parts, widths, strict=True)
    ]


def _train(
    sides: list[Tensor],
    folds: list[Rows],
    members: list[tuple[int, int]],
    seed: int,
    objective: str,
    memorise: bool,
) -> Fit:
    n, critics = sides[0].shape[1], len(members)
    towers = Towers(critics, sides[0].shape[2], sides[1].shape[2])
    optimizer = torch.optim.AdamW(towers.parameters(), lr=RATE, weight_decay=DECAY)
    used = [
        np.concatenate([fold for number, fold in enumerate(folds) if number not in pair])
        for pair in members
    ]
    least = min(map(len, used))
    rows = torch.from_numpy(np.stack([part[:least] for part in used]))
    checked = min(MOST_CHECKED, min(map(len, folds)))
    judges = [
        torch.from_numpy(np.stack([folds[pair[side]][:checked] for pair in members]))
        for side in (0, 1)
    ]
    each, batch = torch.arange(critics)[:, None], min(BATCH, least)
    steps = int(min(MOST_STEPS, max(LEAST_STEPS, STEPS_A_PAIR * n)))
    score = _infonce if objective == "infonce" else js_objective

    def codes(chosen: Tensor) -> tuple[Tensor, Tensor]:
        return towers(*(side[each, chosen] for side in sides))

    @torch.no_grad()
    def judged(side: int) -> Tensor:
        q, k = codes(judges[side])
        return score(q @ k.mT)

    best = [judged(0), judged(1)]
    kept = [_copy(towers), _copy(towers)]
    generator, order, place, worse, step = (
        torch.Generator().manual_seed(seed),
        torch.empty(0),
        least,
        0,
        0,
    )
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / WARMUP) * (1 - (step - 1) / steps)
        if place + batch > least:
            order, place = (
                rows.gather(1, torch.rand(critics, least, generator=generator).argsort(1)),
                0,
            )
        q, k = codes(order[:, place : place + batch])
        place += batch
        optimizer.zero_grad()
        (-score(q @ k.mT)).sum().backward()
        optimizer.step()
        if step % CHECK_EVERY == 0 and not memorise:
            improved = [_keep(towers, kept[side], judged(side), best[side]) for side in (0, 1)]
            worse = 0 if any(improved) else worse + 1
            if worse == PATIENCE:
                break
    if memorise:
        kept = [_copy(towers), _copy(towers)]
    return _score(towers, kept, sides, folds, members, judges, step)


@torch.no_grad()
def _score(
    towers: Towers,
    kept: list[dict[str, Tensor]],
    sides: list[Tensor],
    folds: list[Rows],
    members: list[tuple[int, int]],
    judges: list[Tensor],
    steps: int,
) -> Fit:
    """Codes of every fold under the mean of its critics, each centred on the fold that chose it."""
    gathered: list[list[tuple[Tensor, Tensor]]] = [[] for _ in folds]
    calibration: list[scores.Scores] = []
    each, longest = torch.arange(len(members))[:, None], max(map(len, folds))
    for side in (
        0,
        1,
    ):  # the snapshot that members[e][side] chose serves the other fold of the pair
        towers.load_state_dict(kept[side])
        served = torch.from_numpy(
            np.stack([np.resize(folds[pair[1 - side]], longest) for pair in members])
        )
        chosen_q, chosen_k = towers(*(part[each, judges[side]] for part in sides))
        served_q, served_k = towers(*(part[each, served] for part in sides))
        for number, pair in enumerate(members):
            fold = pair[1 - side]
            chosen = scores.paired(chosen_q[number], chosen_k[number])
            offset = chosen.others.logsumexp(0).item() - math.log(
                len(chosen.own) * chosen.negatives
            )
            calibration.append(chosen.shifted(-offset))
            q, k = served_q[number, : len(folds[fold])], served_k[number, : len(folds[fold])]
            constant = torch.full_like(
                q[:, :1], -offset
            )  # E_p(x)p(y)[e^f] = 1 on the fold that chose, as of a log density ratio
            gathered[fold].append(
                (torch.cat([q, constant], 1), torch.cat([k, torch.ones_like(constant)], 1))
            )
    held = [
        Held(
            rows,
            torch.cat([q for q, _ in pairs], 1) / len(pairs),
            torch.cat([k for _, k in pairs], 1),
        )
        for rows, pairs in zip(folds, gathered, strict=True)
    ]
    value = float(
        np.mean([infonce_symmetric(chosen).terms.mean().item() for chosen in calibration])
    )
    return Fit(held, value, best_alpha(calibration, ALPHAS), steps)


def _infonce(matrix: Tensor) -> Tensor:
    """Symmetric InfoNCE value of matrices [E, B, B], in nats [E]."""
    own = matrix.diagonal(dim1=-2, dim2=-1)
    return (own - (matrix.logsumexp(-1) + matrix.logsumexp(-2)) / 2).mean(-1) + math.log(
        matrix.shape[-1]
    )


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x = F.silu(layer(x))
    return layers[-1](x)


def _copy(towers: Towers) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in towers.state_dict().items()}


def _keep(towers: Towers, kept: dict[str, Tensor], value: Tensor, best: Tensor) -> bool:
    """Take over the critics that are better now than at their best step; whether there is one."""
    better = value > best
    best[better] = value[better]
    for name, tensor in towers.state_dict().items():
        kept[name][better] = tensor[better]
    return bool(better.any())
