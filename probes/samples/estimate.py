"""Bounds on the mutual information of paired samples, from cross-fitted critics, with verdicts.

n = pairs, C = candidates (the pairs of one held-out fold).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike

from core.errors import Unmeasurable, UserError, nearest
from core.information import bounds
from core.information.bounds import Bound, Estimate, infonce_sweep, interval
from core.information.scores import Scores, paired
from core.information.standardise import require_finite_numbers
from core.information.verdict import NEAR, is_unknown, verdict, wants_data
from core.numbers import require_seed
from probes.samples.crossfit import FOLDS, Fit, Held, cross_fit
from probes.samples.estimators import CRITICS, DEFAULT, ESTIMATE, SIDES
from probes.samples.ksg import ksg_terms
from probes.samples.normal_scores import normal_scores
from probes.samples.order import said_of_order
from probes.samples.pairs import PairedSamples, Side, check_pairs, varying

# the mean of e^f (f: the critic) is 1; rare pairs that a sample does not contain may make up at
# most this part of it: see `bounds.unseen`
UNSEEN = 0.1
LINEAR = 55.0  # 3.645^2 / (2 x .12): see `at_most`
PLACES = 16  # of a side of an image that is read as a vector
KSG_DIMENSIONS = 10  # of x and y together; with more, the bias makes the estimate useless

Found = dict[str, Any]


def estimate(
    x: ArrayLike,
    y: ArrayLike,
    estimators: tuple[str, ...] = DEFAULT,
    seed: int = 0,
    name: str = "pairs",
    critic: str = "auto",
) -> Found:
    """I(X; Y) of samples x, y in nats, with interval, ceiling, side and verdict. Each side is
    vectors [n, d], labels [n] or images [n, c, h, w].

    - "infonce", the headline: symmetric, C = pairs of a held-out fold; also for smaller C.
    - "alpha": Poole's interpolated bound, which may exceed log C; alpha is chosen on other folds
      and is at least 10 / n.
    - "nwj", "js" (with critics trained on the Jensen-Shannon objective), "dv", "smile": see
      `core.information.bounds`. nwj and js need the mean of e^f, where f is the
      critic's score. Rare pairs that the sample does not contain make up a part of this mean
      (`bounds.unseen` estimates it). If this part is more than 0.1, nwj and js are left out, with a
      remark. The lower ends of alpha, nwj and js are lowered by this part.
    - "anchor": the mean log density ratio of critics trained with an anchor class; no bound.
    - "ksg": nearest neighbours, for up to ten dimensions of x and y together; no bound.

    `critic`: "conv" for convolutional critics (a side has images), "mlp" for small networks on
    vectors (images are averaged down to 256 places and read as vectors), "auto" for the one that
    fits the pairs.

    Every pair is scored by critics that have not seen it (`probes.samples.crossfit`). Raises
    `UserError` if the pairs can not be used (`probes.samples.pairs`).

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(300, 1))
    >>> found = estimate(x, np.sign(x), ("infonce",))  # I(X; Y) = log 2 = 0.69
    >>> 0.5 < found["estimators"]["infonce"]["value"] < 0.72
    True
    """
    _check_names(estimators, critic)
    require_seed(seed)
    pairs = seen_by(critic, check_pairs(x, y, name))
    if remark := said_of_order(pairs.x, pairs.y):
        pairs.remarks.append(remark)
    fit = cross_fit(pairs.x, pairs.y, seed, halves=True)
    sweep = _sweep(fit.folds)
    gain = _gain(fit)
    word = verdict(sweep, len(pairs.x), fit.calibration, gain=gain, single=fit.calibration)
    found = _entries(estimators, pairs, fit, seed, sweep[-1][1], word)
    made = {
        "quantity": "I(X; Y)",
        "unit": "nats",
        "pairs": len(pairs.x),
        "dimensions": tuple(_dimensions(side) for side in (pairs.x, pairs.y)),
        "split": f"held out, {FOLDS} folds",
        "seed": seed,
        "estimators": {key: found[key] for key in found if key in estimators or key == "infonce"},
        "sweep": [_point(candidates, bound) for candidates, bound in sweep],
        "calibration": fit.calibration,
        "doubling": _doubling(gain, sweep[-1][1]),
        "remarks": pairs.remarks,
    }
    return made | {"conclusion": conclusion(made)}


def _entries(
    estimators: tuple[str, ...],
    pairs: PairedSamples,
    fit: Fit,
    seed: int,
    headline: Estimate,
    word: str,
) -> dict[str, Found]:
    """The entry of each estimator, and InfoNCE's; a remark says which is left out and why."""
    found: dict[str, Found] = {}
    for estimator in dict.fromkeys(("infonce", *estimators)):
        if estimator == "ksg":
            found |= _ksg(pairs)
            continue
        objective = estimator if estimator in ("js", "anchor") else "infonce"
        read = fit if objective == "infonce" else cross_fit(pairs.x, pairs.y, seed, objective)
        entry = _bound(estimator, read, headline, word)
        if estimator != "alpha" and entry.get("unseen", 0.0) > UNSEEN:
            pairs.remarks.append(_unseen(estimator, entry["unseen"]))
        else:
            found[estimator] = entry
    return found


def _check_names(estimators: tuple[str, ...], critic: str) -> None:
    for word in estimators:
        if word not in SIDES:
            raise UserError(f"estimators: there is no '{word}'{nearest(word, SIDES)}")
    if critic not in CRITICS:
        raise UserError(f"critic: there is no '{critic}'{nearest(critic, CRITICS)}")


def _ksg(pairs: PairedSamples) -> dict[str, Found]:
    """{"ksg": its entry}, or {} and a remark that says why not."""
    if reason := _no_ksg(pairs):
        pairs.remarks.append(f"ksg left out: {reason}")
        return {}
    terms = ksg_terms(normal_scores(pairs.x, pairs.x), normal_scores(pairs.y, pairs.y))
    value = interval(torch.from_numpy(np.asarray(terms)))
    return {"ksg": _entry(value, ESTIMATE, None, None, "no bound")}


def _point(candidates: int, bound: Estimate) -> Found:
    """InfoNCE with this number of candidates."""
    most = math.log(candidates)
    own = {"bound": bound.mean, "low": bound.low, "high": bound.high}
    return {"candidates": candidates, **own, "ceiling": most}


def _dimensions(side: Side) -> int | str:
    """The dimensions of vectors, or "C x H x W" of images."""
    return side.shape[1] if side.ndim == 2 else " x ".join(map(str, side.shape[1:]))


def _doubling(gain: Estimate, bound: Estimate) -> Found:
    """What the second half of the training pairs added, and the value extrapolated to infinitely
    many pairs.
    """
    return {
        "gain": gain.mean,
        "low": gain.low,
        "high": gain.high,
        "extrapolated": bound.mean + max(0.0, gain.mean),
        "side": ESTIMATE,
    }


def seen_by(critic: str, pairs: PairedSamples) -> PairedSamples:
    """The pairs as the critics read them: "mlp" gets images as vectors."""
    images = max(pairs.x.ndim, pairs.y.ndim) > 2
    if critic == "conv" and not images:
        raise UserError(
            "critic: conv needs images [n, c, h, w]; x and y are vectors, so use auto or mlp"
        )
    if critic != "mlp" or not images:
        return pairs
    remarks = [*pairs.remarks]
    x, y = (
        side if side.ndim == 2 else varying(name, _averaged(side), "pairs", remarks)
        for name, side in (("x", pairs.x), ("y", pairs.y))
    )
    return PairedSamples(x, y, remarks)


def _averaged(images: Side) -> Side:
    """Images [n, C, H, W] as vectors [n, d], averaged to at most 16 x 16 places."""
    size = (min(PLACES, images.shape[2]), min(PLACES, images.shape[3]))
    blocks = torch.from_numpy(images).split(512)
    parts = [F.adaptive_avg_pool2d(block.float(), size).flatten(1) for block in blocks]
    return np.asarray(torch.cat(parts).double().numpy())


def _gain(fit: Fit) -> Estimate:
    """The value at the largest C minus the value of critics that were trained on half of the pairs.
    Both are values of the same number of critics on the same folds.
    """
    parts = [
        [bounds.infonce_symmetric(paired(fold.query, fold.key)) for fold in folds]
        for folds in (fit.matched, fit.halved)
    ]
    terms, influence = (
        torch.cat(
            [getattr(whole, key) - getattr(half, key) for whole, half in zip(*parts, strict=True)]
        )
        for key in ("terms", "influence")
    )
    return interval(terms, influence)


def _sweep(held: list[Held]) -> list[tuple[int, Estimate]]:
    """InfoNCE in both directions for C = 2^4 … the smallest fold, pooled over folds."""
    least = min(len(fold.query) for fold in held)
    counts = sorted({c for c in (2**e for e in range(4, 40)) if c < least} | {least})
    folds: list[list[Bound]] = []  # of each fold, at each C
    for fold in held:
        random = torch.randperm(len(fold.query), generator=torch.Generator().manual_seed(0))
        q, k = fold.query[random], fold.key[random]
        forth, back = (infonce_sweep(*codes, 1.0, counts) for codes in ((q, k), (k, q)))
        folds.append([_mean_bound(*of) for of in zip(forth, back, strict=True)])
    pooled = [Bound(*map(torch.cat, zip(*of, strict=True))) for of in zip(*folds, strict=True)]
    return [(c, interval(*bound)) for c, bound in zip(counts, pooled, strict=True)]


def _mean_bound(first: Bound, second: Bound) -> Bound:
    return Bound((first.terms + second.terms) / 2, (first.influence + second.influence) / 2)


def _bound(estimator: str, fit: Fit, headline: Estimate, word: str) -> Found:
    """One estimator pooled over the folds."""
    read: dict[str, Callable[[Scores], Bound]] = {
        key: getattr(bounds, key) for key in ("nwj", "js", "dv", "smile")
    }
    read |= {"infonce": bounds.infonce_symmetric, "anchor": bounds.log_ratio}
    scores = [paired(fold.query, fold.key) for fold in fit.folds]
    more: Found = {}
    if estimator == "alpha":
        parts = list(map(bounds.alpha_bound, scores, fit.alphas))
        more = {"alpha": min(fit.alphas), "unseen": bounds.unseen(scores, fit.alphas)}
    else:
        parts = [read[estimator](part) for part in scores]
    if estimator in ("nwj", "js"):
        more = {"unseen": bounds.unseen(scores)}
    value = interval(torch.cat([p.terms for p in parts]), torch.cat([p.influence for p in parts]))
    value = value._replace(low=value.low - more.get("unseen", 0.0))
    candidates = min(len(fold.query) for fold in fit.folds)
    ceilings = {"infonce": math.log(candidates)}
    ceilings["alpha"] = 1 + math.log((candidates - 1) / min(fit.alphas))
    ceiling = ceilings.get(estimator)
    if SIDES[estimator] == ESTIMATE:
        word = "no bound"
    elif estimator != "infonce":
        of_pairs = math.log(sum(len(fold.query) for fold in fit.folds))
        word = _other_verdict(value, headline, min(ceiling or math.inf, of_pairs), word)
    return _entry(value, SIDES[estimator], candidates, ceiling, word) | more


def _unseen(estimator: str, share: float) -> str:
    return (
        f"{estimator} left out: {share:.0%} of the pairs score above every negative pair, so the"
        f" sample is too small to compute the mean of e^f (f: the critic) that {estimator} needs,"
        f" and the value of {estimator} would be too high"
    )


def _other_verdict(value: Estimate, headline: Estimate, ceiling: float, word: str) -> str:
    """The verdict of another bound, compared with InfoNCE (verdict `word`) on the same pairs. Both
    bound the same quantity, so the smaller value is loose, and more training pairs would help both
    or neither. `ceiling` is at most log n, because no distribution-free lower bound can be trusted
    above it (McAllester & Stratos 2020). Raises `Unmeasurable` for values that are not finite.
    """
    if not all(map(math.isfinite, (*value, *headline))):
        raise Unmeasurable("estimate: a bound is not a finite number, so it has no verdict")
    if word == "nothing found" and value.low <= 0:
        return word
    if value.mean <= 0 or value.high < headline.low - 0.1:
        return "critic-limited"
    if value.mean > NEAR * ceiling:
        return "saturated"
    return "data-limited" if word == "data-limited" else "converged"


def _no_ksg(pairs: PairedSamples) -> str:
    """The reason if nearest neighbours give no estimate here, else ""."""
    if max(pairs.x.ndim, pairs.y.ndim) > 2:
        return "distances between images, pixel by pixel, say little"
    dimensions = pairs.x.shape[1] + pairs.y.shape[1]
    if dimensions > KSG_DIMENSIONS:
        return f"{dimensions} dimensions are more than its limit of {KSG_DIMENSIONS}"
    if any(len(np.unique(side, axis=0)) < 0.95 * len(side) for side in (pairs.x, pairs.y)):
        return "values repeat, so distances to neighbours are zero"
    return ""


def _entry(
    value: Estimate, side: str, candidates: int | None, ceiling: float | None, word: str
) -> Found:
    found = {"value": value.mean, "error": value.error, "low": value.low, "high": value.high}
    described = {"side": side, "candidates": candidates, "ceiling": ceiling, "verdict": word}
    return found | described


def conclusion(found: Found) -> str:
    """The result in a sentence: the lower end of InfoNCE's interval, and what limits it. Raises
    `Unmeasurable` if a number is not finite.
    """
    require_finite_numbers(found["estimators"], "estimate")
    headline, alpha = found["estimators"]["infonce"], found["estimators"].get("alpha")
    least, word = math.floor(100 * headline["low"]) / 100, headline["verdict"]
    if word == "nothing found":
        return (
            f"nothing found; these critics read at most {at_most(headline, found['pairs']):.3f}"
            " nats: x and y are independent, or depend in a way that the critics can not see"
        )
    if headline["low"] <= 0:
        return (
            f"no information found ({headline['value']:z.3f} ± {1.96 * headline['error']:.3f}"
            " nats), because the critics fit their training pairs and not the others; give more"
            " pairs"
        )
    beyond = ""
    if alpha and word in ("saturated", "K-limited") and alpha["low"] > 0:
        least_alpha = math.floor(100 * alpha["low"]) / 100
        name = f"the alpha-bound ({alpha['alpha']:g}), which log C does not limit"
        beyond = f"; {name}, says at least {least_alpha:.2f}"
    reason = {
        "converged": "neither log C nor the number of pairs limits it",
        "data-limited": _data_limited(found),
        "K-limited": f"the value still rises with C = {headline['candidates']:,}, so more pairs"
        " would show more",
        "saturated": f"InfoNCE can show no more than log C = {headline['ceiling']:.2f} with these"
        " pairs, so the truth may be far above",
        "critic-limited": "the critics do much better on the pairs on which they were chosen, so"
        " more pairs would show more",
    }[word]
    return f"at least {least:.2f} nats; {reason}{beyond}"


def _data_limited(found: Found) -> str:
    """Why more pairs would show more: the second half added much, its gain is not known well, or
    critics differ.
    """
    headline, doubling = found["estimators"]["infonce"], found["doubling"]
    error = (doubling["high"] - doubling["low"]) / (2 * 1.96)
    gain = Estimate(doubling["gain"], error, doubling["low"], doubling["high"])
    if wants_data(headline["value"], gain):
        return (
            f"with half of the training pairs, the value is {gain.mean:.2f} nats lower, so more"
            f" pairs would show more (extrapolated: {doubling['extrapolated']:.2f}, not a bound)"
        )
    if is_unknown(headline["value"], gain):
        return (
            "the pairs are too few to tell what further pairs would add (with half of the training"
            f" pairs, the value is up to {gain.high:.2f} nats lower)"
        )
    less = headline["value"] - found["calibration"]
    return (
        f"critics that were trained on different pairs differ (a single critic finds {less:.2f}"
        " nats less than the mean of the critics), so more pairs would show more"
    )


def at_most(headline: Found, pairs: int) -> float:
    """If nothing was found: the upper 95% limit of what critics read, in nats. It is the end of the
    interval or, if this is larger, 55 / n: the information of the weakest linear dependence that
    critics see with 95% power. (A correlation is kept if its held-out value exceeds
    2 / sqrt(.12 n).)
    """
    return float(max(headline["high"], LINEAR / pairs))
