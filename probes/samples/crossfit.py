"""Cross-fitted critics for paired samples: every pair is scored by critics that have not seen it.

n = pairs, F = folds, E = critics that are trained in parallel, B = batch, P = code dimensions.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.console import steps_left
from core.information import scores
from core.information.bounds import (
    anchor_objective,
    best_alpha,
    infonce_objective,
    infonce_symmetric,
    js_objective,
)
from probes.samples.centring import centred
from probes.samples.conv import Images
from probes.samples.panel import Panel, Vectors

Array = NDArray[np.float64]
Rows = NDArray[np.int64]
# two folds that training does not use. One of them chooses a step of training, and the critic of
# that step scores the other fold; then the two change roles.
Member = tuple[int, int]
Codes = tuple[Tensor, Tensor]
FOLDS, WARMUP, MOST_CHECKED = 5, 20, 1024
OBJECTIVES = {"infonce": infonce_objective, "js": js_objective, "anchor": anchor_objective}
ALPHAS = (0.001, 0.01, 0.1, 0.5, 0.9)
PART = 0.1  # nats: the most by which one anchor may lower the alpha-bound of all pairs
EVERY: list[Member] = list(itertools.combinations(range(FOLDS), 2))
RING: list[Member] = [(0, 1), (1, 2), (2, 3), (3, 4), (0, 4)]  # each fold twice


class Held(NamedTuple):
    """One fold and its codes [n_f, P], whose inner product is the score, centred so that it
    estimates a log density ratio.
    """

    rows: Rows
    query: Tensor
    key: Tensor


class Fit(NamedTuple):
    """Folds with the codes of the mean of their critics.

    `halved`: folds with the codes of critics that were trained on half of the training pairs.
    `matched`: the same folds with the codes of critics that were trained on all training pairs,
    equally many critics for each fold. The difference between the bounds of both is the gain from
    more training pairs. Both are empty if `cross_fit` is called without `halves`.
    """

    folds: list[Held]
    calibration: float  # InfoNCE on the folds that chose the critics, mean over critics
    # alpha for each fold: the best one for the critics that score the fold, on the folds that chose
    # their training step
    alphas: list[float]
    steps: int
    matched: list[Held]
    halved: list[Held]


class Trained(NamedTuple):
    """The codes of each fold by each critic that may score it.

    `judged`: for each such critic, the number of the fold that it scores, and its scores of another
    fold, namely the one that chose its training step.
    """

    codes: dict[int, dict[Member, Codes]]
    judged: list[tuple[int, scores.Scores]]
    steps: int


def cross_fit(
    x: Array,
    y: Array,
    seed: int = 0,
    objective: str = "infonce",
    memorise: bool = False,
    halves: bool = False,
) -> Fit:
    """For every two folds, train a critic on the other folds. One of the two chooses the training
    step, and the critic of that step scores the other; then the two change roles.

    So each fold is scored by the mean of F - 1 critics, and none of these used it for training or
    for the choice of the step. This mean is better than a single critic, because critics make
    different errors. Critics of images cost more, so each fold of images is scored by the mean of
    two critics. `objective` is "infonce", "js" (Jensen-Shannon) or "anchor". `halves`: also train
    on half of the pairs. `memorise` is for tests: it keeps the last step instead of the best, so
    that the critic overfits. Then the value on held-out pairs must be low.
    """
    seen = max(x.ndim, y.ndim) > 2
    every, some = (RING, [RING[0], RING[2]]) if seen else (EVERY, RING)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        folds = np.array_split(random.permutation(len(x)), FOLDS)

        def trained(members: list[Member], share: int) -> Trained:
            used = [random.permutation(_others(folds, pair)) for pair in members]
            used = [rows[: len(rows) // share] for rows in used]
            groups = [[place] for place in range(len(members))] if seen else [range(len(members))]
            parts = []
            for group in groups:
                own = [used[place] for place in group]
                panel: Panel = Images(x, y, own[0]) if seen else Vectors(x, y, own, random)
                chosen = [members[place] for place in group]
                parts.append(_train(panel, folds, chosen, own, seed, objective, memorise))
            return _joined(parts)

        full = trained(every, 1)
        half = trained(some, 2) if halves else None
    values = [infonce_symmetric(judged).terms.mean().item() for _, judged in full.judged]
    alphas = [
        best_alpha([judged for scored, judged in full.judged if scored == fold], choices(len(x)))
        for fold in range(FOLDS)
    ]
    matched = _held(folds, full.codes, some) if half else []
    halved = _held(folds, half.codes, some) if half else []
    whole = _held(folds, full.codes, every)
    return Fit(whole, float(np.mean(values)), alphas, full.steps, matched, halved)


def choices(pairs: int) -> tuple[float, ...]:
    """The values of alpha to choose from. One anchor can lower the mean of the alpha-bound by at
    most 1 / (alpha n), where n is the number of all pairs; the least alpha makes this 0.1 nats.
    With a smaller alpha, the second expectation of the bound (`bounds.alpha_bound`) would depend on
    a few anchors with large scores. Most samples do not contain such anchors, so its normal
    interval would be too narrow. (A lower limit on the effective sample size of the second
    expectation does not help: a sample without such anchors has a large effective size, so exactly
    these samples would be accepted.)
    """
    least = float(f"{1 / (PART * pairs):.2g}")
    return tuple(sorted({least, *(alpha for alpha in ALPHAS if alpha > least)}))


def _others(folds: list[Rows], pair: Member) -> Rows:
    """The rows of all folds but these two."""
    return np.concatenate([fold for number, fold in enumerate(folds) if number not in pair])


def _joined(parts: list[Trained]) -> Trained:
    codes: dict[int, dict[Member, Codes]] = {}
    for part in parts:
        for fold, of in part.codes.items():
            codes[fold] = {**codes.get(fold, {}), **of}
    judged = [judged for part in parts for judged in part.judged]
    return Trained(codes, judged, max(part.steps for part in parts))


def _held(
    folds: list[Rows], codes: dict[int, dict[Member, Codes]], members: list[Member]
) -> list[Held]:
    """The folds that critics of `members` may score, with the mean of these critics."""
    made = []
    for fold, rows in enumerate(folds):
        chosen = [codes[fold][member] for member in members if fold in member]
        if chosen:
            q, k = (torch.cat(side, 1) for side in zip(*chosen, strict=True))
            made.append(Held(rows, q / len(chosen), k))
    return made


def _train(
    panel: Panel,
    folds: list[Rows],
    members: list[Member],
    used: list[Rows],
    seed: int,
    objective: str,
    memorise: bool,
) -> Trained:
    """Train a critic for each member, on its rows in `used`."""
    plan = panel.plan
    optimizer = torch.optim.AdamW(panel.parameters(), lr=plan.rate, weight_decay=plan.decay)
    least, checked = min(map(len, used)), min(MOST_CHECKED, *map(len, folds))
    rows = torch.from_numpy(np.stack([part[:least] for part in used]))
    judges = [
        torch.from_numpy(np.stack([folds[pair[side]][:checked] for pair in members]))
        for side in (0, 1)
    ]
    score = OBJECTIVES[objective]

    @torch.no_grad()
    def judged() -> list[Tensor]:
        panel.eval()
        values = [score(panel.scores(judge)) for judge in judges]
        panel.train()
        return values

    best, kept, worse, step = judged(), [_copy(panel), _copy(panel)], 0, 0
    batches = _batches(rows, plan.batch, torch.Generator().manual_seed(seed))
    several = f"{len(members)} critics" if len(members) > 1 else "a critic"
    line = steps_left(plan.steps, f"training {several}, at most")
    for step, chosen in zip((done + 1 for done in line), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min(1.0, step / WARMUP) * (1 - (step - 1) / plan.steps)
        optimizer.zero_grad()
        (-score(panel.scores(chosen))).sum().backward()
        optimizer.step()
        if step % plan.check_every == 0 and not memorise:
            now = judged()
            improved = [_keep(panel, kept[side], now[side], best[side]) for side in (0, 1)]
            worse = 0 if any(improved) else worse + 1
            if worse == plan.patience:
                break
    if memorise:
        kept = [_copy(panel), _copy(panel)]
    return _score(panel, kept, folds, members, judges, step, centre=objective != "anchor")


def _batches(rows: Tensor, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches [E, B] of the training rows [E, m] of each critic, in a new order for every epoch."""
    critics, m = rows.shape
    while True:
        order = rows.gather(1, torch.rand(critics, m, generator=generator).argsort(1))
        for place in range(0, m - batch + 1, batch):
            yield order[:, place : place + batch]


@torch.no_grad()
def _score(
    panel: Panel,
    kept: list[dict[str, Tensor]],
    folds: list[Rows],
    members: list[Member],
    judges: list[Tensor],
    steps: int,
    centre: bool,
) -> Trained:
    """Codes of every fold by each of its critics. A critic is centred on the fold that chose its
    step, unless its objective centres it already.
    """
    codes: dict[int, dict[Member, Codes]] = {}
    judged: list[tuple[int, scores.Scores]] = []
    longest = max(map(len, folds))
    panel.eval()
    for side in (0, 1):  # fold members[e][side] chose these weights; they score the other fold
        panel.load_state_dict(kept[side])
        scored = [np.resize(folds[pair[1 - side]], longest) for pair in members]
        chosen_q, chosen_k = panel.codes(judges[side])
        served_q, served_k = panel.codes(torch.from_numpy(np.stack(scored)))
        for number, pair in enumerate(members):
            fold = pair[1 - side]
            length = len(folds[fold])
            chosen = chosen_q[number], chosen_k[number]
            served = served_q[number, :length], served_k[number, :length]
            if centre:
                chosen, served = centred(chosen, served)
            judged.append((fold, scores.paired(*chosen)))
            codes.setdefault(fold, {})[pair] = served
    return Trained(codes, judged, steps)


def _copy(panel: Panel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in panel.state_dict().items()}


def _keep(panel: Panel, kept: dict[str, Tensor], value: Tensor, best: Tensor) -> bool:
    """Keep the critics that are better now than at their best step. Returns whether there is such a
    critic.
    """
    better = value > best
    best[better] = value[better]
    if found := bool(better.any()):
        panel.keep(better, kept)
    return found
