"""Cross-fitted critics for paired samples: every pair is scored by critics that have not seen it.

n = pairs, F = folds, E = F (F - 1) / 2 critics that are trained in parallel, B = batch, P = code
dimensions.
"""

import itertools
import math
from collections.abc import Iterator
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
    """One fold and its codes [n_f, P], whose inner product is the score, centred so that it
    estimates a log density ratio.
    """

    rows: Rows
    query: Tensor
    key: Tensor


class Fit(NamedTuple):
    folds: list[Held]
    calibration: float  # InfoNCE on the folds that chose the critics, mean over critics
    alpha: float  # the best of the interpolated bound on those folds
    steps: int


class Towers(nn.Module):
    """E critics f(x, y) = base + <g(x), h(y)> + a(x) + b(y), each with its own weights.

    `base` is the Gaussian critic, with the bilinear term in closed form; the rest starts at zero.
    """

    def __init__(self, critics: int, dx: int, dy: int):
        super().__init__()
        self.of_x, self.of_y = (
            nn.ModuleList(
                Stacked(critics, *widths)
                for widths in ((d, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, CODES + 1))
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
        of_y = torch.cat([h[..., :-1], one, h[..., -1:], base_y], -1)
        return torch.cat([g, one, base_x], -1), of_y


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
    """For every two folds, train a critic on the other folds. One of the two chooses the training
    step, and the critic of that step scores the other; then the two change roles.

    So each fold is scored by the mean of F - 1 critics, and none of these used it for training or
    for the choice of the step. This mean is better than a single critic, because errors differ.
    `objective` is "infonce" or "js" (Jensen-Shannon). `memorise` is for tests: it keeps the last
    step instead of the best, so that the critic overfits, which must give a low value on held-out
    pairs.
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
    """The input of each critic for all pairs: features and base codes of x and y, [E, n, d] each.
    Maps and base are fitted on the critic's training folds.
    """
    made = []
    for pair in members:
        used = _others(folds, pair)
        scores_x, scores_y = normal_scores(x[used], x), normal_scores(y[used], y)
        base = canonical(scores_x[used], scores_y[used], random).codes(scores_x, scores_y)
        made.append((features(x[used], x, scores_x), features(y[used], y, scores_y), *base))
    sides = []
    for arrays in zip(*made, strict=True):
        width = max(array.shape[1] for array in arrays)
        tensors = (torch.from_numpy(array).float() for array in arrays)
        sides.append(torch.stack([F.pad(x, (0, width - x.shape[1])) for x in tensors]))
    return sides


def _others(folds: list[Rows], pair: tuple[int, int]) -> Rows:
    """The rows of all folds but these two."""
    return np.concatenate([fold for number, fold in enumerate(folds) if number not in pair])


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
    used = [_others(folds, pair) for pair in members]
    least, checked = min(map(len, used)), min(MOST_CHECKED, *map(len, folds))
    rows = torch.from_numpy(np.stack([part[:least] for part in used]))
    judges = [
        torch.from_numpy(np.stack([folds[pair[side]][:checked] for pair in members]))
        for side in (0, 1)
    ]
    each, batch = torch.arange(critics)[:, None], min(BATCH, least)
    steps = int(min(MOST_STEPS, max(LEAST_STEPS, STEPS_A_PAIR * n)))
    score = _infonce if objective == "infonce" else js_objective

    def value(chosen: Tensor) -> Tensor:
        q, k = towers(*(side[each, chosen] for side in sides))
        return score(q @ k.mT)

    @torch.no_grad()
    def judged() -> list[Tensor]:
        return [value(judge) for judge in judges]

    best, kept, worse, step = judged(), [_copy(towers), _copy(towers)], 0, 0
    batches = _batches(rows, batch, torch.Generator().manual_seed(seed))
    for step, chosen in zip(range(1, steps + 1), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / WARMUP) * (1 - (step - 1) / steps)
        optimizer.zero_grad()
        (-value(chosen)).sum().backward()
        optimizer.step()
        if step % CHECK_EVERY == 0 and not memorise:
            now = judged()
            improved = [_keep(towers, kept[side], now[side], best[side]) for side in (0, 1)]
            worse = 0 if any(improved) else worse + 1
            if worse == PATIENCE:
                break
    if memorise:
        kept = [_copy(towers), _copy(towers)]
    return _score(towers, kept, sides, folds, members, judges, step)


def _batches(rows: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches [E, B] of the training rows [E, m] of each critic, in a new order for every epoch."""
    critics, m = rows.shape
    while True:
        order = rows.gather(1, torch.rand(critics, m, generator=generator).argsort(1))
        for place in range(0, m - batch + 1, batch):
            yield order[:, place : place + batch]


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
    """Codes of every fold for the mean of its critics. A critic is centred on the fold that chose
    its step.
    """
    gathered: list[list[tuple[Tensor, Tensor]]] = [[] for _ in folds]
    calibration: list[scores.Scores] = []
    each, longest = torch.arange(len(members))[:, None], max(map(len, folds))
    for side in (0, 1):  # fold members[e][side] chose these weights; they score the other fold
        towers.load_state_dict(kept[side])
        scored = [np.resize(folds[pair[1 - side]], longest) for pair in members]
        served = torch.from_numpy(np.stack(scored))
        chosen_q, chosen_k = towers(*(part[each, judges[side]] for part in sides))
        served_q, served_k = towers(*(part[each, served] for part in sides))
        for number, pair in enumerate(members):
            fold = pair[1 - side]
            chosen = scores.paired(chosen_q[number], chosen_k[number])
            negatives = math.log(len(chosen.own) * chosen.negatives)
            # E_p(x)p(y)[e^f] = 1 on the fold that chose, as for a log density ratio
            offset = chosen.others.logsumexp(0).item() - negatives
            calibration.append(chosen.shifted(-offset))
            q, k = served_q[number, : len(folds[fold])], served_k[number, : len(folds[fold])]
            constant = torch.full_like(q[:, :1], -offset)
            one = torch.ones_like(constant)
            gathered[fold].append((torch.cat([q, constant], 1), torch.cat([k, one], 1)))
    held = []
    for rows, pairs in zip(folds, gathered, strict=True):
        q, k = (torch.cat(side, 1) for side in zip(*pairs, strict=True))
        held.append(Held(rows, q / len(pairs), k))
    values = [infonce_symmetric(chosen).terms.mean().item() for chosen in calibration]
    return Fit(held, float(np.mean(values)), best_alpha(calibration, ALPHAS), steps)


def _infonce(matrix: Tensor) -> Tensor:
    """Symmetric InfoNCE value of score matrices [E, B, B], in nats [E]."""
    own, ceiling = matrix.diagonal(dim1=-2, dim2=-1), math.log(matrix.shape[-1])
    return (own - (matrix.logsumexp(-1) + matrix.logsumexp(-2)) / 2).mean(-1) + ceiling


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers[:-1]:
        x = F.silu(layer(x))
    return layers[-1](x)


def _copy(towers: Towers) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in towers.state_dict().items()}


def _keep(towers: Towers, kept: dict[str, Tensor], value: Tensor, best: Tensor) -> bool:
    """Keep the critics that are better now than at their best step. Returns whether there is
    one.
    """
    better = value > best
    best[better] = value[better]
    for name, tensor in towers.state_dict().items():
        kept[name][better] = tensor[better]
    return bool(better.any())
