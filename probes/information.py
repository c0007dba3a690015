"""The InfoNCE bound of a frozen encoder on held-out images: how many nats two views have in common,
at least.

    I(V1; V2) >= log C - L,   C = K + 1 candidates, K of them independent negatives

n = images of the test split, D = feature dimensions, P = code dimensions.
"""

from core.data.datasets import open_source
from core.data.source import Source, eval_sampler
from core.data.sprites import Sprites, best_infonce
from core.errors import Unmeasurable
from core.information.bounds import infonce_terms, interval
from core.information.verdict import cosine_cap, verdict
from core.method import Method, PairCritic
from core.randomness import KeyedRNG
from core.run.config import RunConfig

import math
from typing import Any

import torch
from torch import Tensor

from probes.critic import refit_scale, train_critic
from probes.duplicates import duplicates
from probes.estimate import estimate

__all__ = ["estimate", "information"]  # of any paired samples; of a checkpoint

TRAIN_PAIRS = 16384  # for the common critic


def information(
    method: Method, run: RunConfig, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Sweeps over C for each critic, on fresh views of the test split.

    - "native": the method's own projection and temperature, where it has one; nothing is fitted.
    - "native, refitted scale": the same codes, the temperature refitted on the calibration split
      (val).
    - "common": one small critic, trained on frozen features of the training split and chosen on
      val; the same for every family.

    The test split is read once and chooses nothing; copies of an image in it are left out. The
    encoder has seen neither val nor test.
    """
    val, test = (open_source(run.data, split, run.seed) for split in ("val", "test"))
    native = isinstance(method, PairCritic)
    duplicated = duplicates(open_source(run.data, "test", run.seed, augmented=False), device)
    read_val = encode_pairs(method, val, seed, device, native)
    read_test = encode_pairs(method, test, seed, device, native, leave_out=duplicated)
    train = encode_pairs(
        method,
        open_source(run.data, "train", run.seed),
        seed,
        device,
        native=False,
        most=TRAIN_PAIRS,
    )
    critics = {}
    if native:
        assert isinstance(method, PairCritic)
        scale = 1 / method.temperature
        critics["native"] = sweep(*read_test.codes, scale, test)
        refitted = refit_scale(*read_val.codes, scale)
        critics["native, refitted scale"] = sweep(*read_test.codes, refitted, test, read_val.codes)
    common = train_critic(*train.features, *read_val.features, seed)
    codes = [[common(x) for x in pairs] for pairs in (read_test.features, read_val.features)]
    critics["common"] = sweep(
        codes[0][0], codes[0][1], common.scale, test, (codes[1][0], codes[1][1])
    )
    surpassed(critics)
    return {
        "quantity": "I(V1; V2), between two views of an image",
        "estimator": "InfoNCE, log C - L, one-sided, fresh views, frozen encoder",
        "side": "lower bound",
        "split": "test",
        "unit": "nats",
        "images": len(test) - len(duplicated),
        "copies_left_out": len(duplicated),
        "augmentation": "fresh rendering" if isinstance(test, Sprites) else run.data.augment,
        "truth": test.information,
        "critics": critics,
    }


def surpassed(critics: dict[str, Any]) -> None:
    """Every critic bounds the same I(V1; V2) from below, so one that another surpasses on the same
    pairs is loose, flat in K or not.
    """
    ends = [found["sweep"][-1][end] for found in critics.values() for end in ("low", "high")]
    if not all(map(math.isfinite, ends)):
        raise Unmeasurable("a bound is not a finite number, so critics can not be compared")
    best = max(found["sweep"][-1]["low"] for found in critics.values())
    for found in critics.values():
        if found["sweep"][-1]["high"] < best - 0.1:
            found["verdict"] = "critic-limited"


class Pairs:
    """What a checkpoint makes of two views of each image: features [n, D], and its own codes [n, P]
    where it has them.
    """

    def __init__(self, features: tuple[Tensor, Tensor], codes: tuple[Tensor, Tensor]):
        self.features, self.codes = features, codes


@torch.no_grad()
def encode_pairs(
    method: Method,
    source: Source,
    seed: int,
    device: torch.device | str,
    native: bool,
    most: int | None = None,
    leave_out: Tensor | None = None,
) -> Pairs:
    """Two fresh views of every image (but those to `leave_out`), in random order, so that any run
    of pairs holds independent images.
    """
    parts: list[list[Tensor]] = [[], [], [], []]
    for batch in source.batches(
        eval_sampler(len(source), seed, device=device, purpose="information", most=most), 2
    ):
        made = [method.embed(view) for view in batch.views]
        if native:
            assert isinstance(method, PairCritic)
            made += list(method.codes(*batch.views))
        kept = (
            slice(None)
            if leave_out is None
            else ~torch.isin(batch.index, leave_out.to(batch.index.device))
        )
        for part, x in zip(parts, made, strict=False):
            part.append(x[kept].float().cpu())
    order = KeyedRNG(seed, 0).permutation("pairs", sum(map(len, parts[0])))
    read = [torch.cat(part)[order] if part else torch.empty(0) for part in parts]
    return Pairs((read[0], read[1]), (read[2], read[3]))


def sweep(
    query: Tensor,
    key: Tensor,
    scale: float,
    source: Source,
    calibration: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Any]:
    """The bound for C = 2^4 + 1 … n on test codes, with intervals, ceilings and the verdict at the
    largest C.
    """
    n = len(query)
    negatives = [k for k in (2**e for e in range(4, 40)) if k < n - 1] + [n - 1]
    estimates = [
        interval(row) for row in infonce_terms(query, key, scale, [k + 1 for k in negatives])
    ]
    rows = []
    for k, found in zip(negatives, estimates, strict=True):
        row = {
            "K": k,
            "candidates": k + 1,
            "loss": math.log(k + 1) - found.mean,
            "bound": found.mean,
            "low": found.low,
            "high": found.high,
        }
        row["ceiling"] = math.log(k + 1)
        if isinstance(source, Sprites):
            row["best_possible"] = best_infonce(k, source.combinations)
        rows.append(row)
    calibrated = None
    if calibration is not None:
        size = max((k + 1 for k in negatives if k + 1 <= len(calibration[0])), default=None)
        if size:
            on_val = infonce_terms(*calibration, scale, [size]).mean().item()
            on_test = next(
                e.mean for k, e in zip(negatives, estimates, strict=True) if k + 1 == size
            )
            calibrated = (
                estimates[-1].mean + on_val - on_test
            )  # the gap between the splits, at one C
    pairs = [(k + 1, e) for k, e in zip(negatives, estimates, strict=True)]
    cap = cosine_cap(scale, n)
    return {
        "scale": scale,
        "temperature": 1 / scale,
        "cap": cap,
        "verdict": verdict(pairs, n, calibrated, cap),
        "sweep": rows,
    }
