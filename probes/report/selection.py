"""Which label-free number follows the accuracy of a linear probe? Spearman's correlation over
checkpoints, with bootstrap intervals.

n = checkpoints. Correlations are taken within each data set. The pooled one is the correlation of
the ranks within the data sets, so differences between data sets have no influence.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table
from scipy.stats import rankdata

from core.errors import UserError, legible
from core.run.folder import RunFolder
from probes.report.naming import data_names, names, views_of
from probes.report.schema import Report
from probes.report.table import grid
from probes.report.table import markdown as in_markdown

LEAST = 5  # checkpoints; with fewer, no correlation is given
RESAMPLES = 2000
TARGETS = {"linear": "linear probe", "knn": "kNN, k = 20"}
REFERENCE = "InfoNCE, common critic"
OF_PLACE = ("name", "val/in_batch_bound")  # in these, a copy may differ from the original run
LONGEST = 2**26  # bytes of metrics.jsonl


class Number(NamedTuple):
    """A label-free number. `sign` -1: smaller values should be better, so the number is negated."""

    name: str
    of: Callable[[Report], Any]
    sign: int = 1


def at(*keys: str | int) -> Callable[[Report], Any]:
    """A function that gives a report's value at a path of keys or places in lists, or None."""

    def read(report: Report) -> Any:
        found: Any = report
        for key in keys:
            if isinstance(key, int):
                found = found[key] if isinstance(found, list) and found else None
            else:
                found = found.get(key) if isinstance(found, dict) else None
        return found

    return read


def bound(critic: str) -> Callable[[Report], Any]:
    """The bound of a critic at its largest K."""
    return at("information", "critics", critic, "sweep", -1, "bound")


def from_one(report: Report) -> Any:
    """-|alpha - 1|: the distance from the exponent that the paper of alpha-ReQ finds best."""
    alpha = _number(at("geometry", "features", "spectral_decay")(report))
    return None if alpha is None else -abs(alpha - 1)


def in_batch(report: Report) -> Any:
    """val/in_batch_bound of the validation at the checkpoint's step, from the run's metrics.jsonl;
    None if the run has none.
    """
    path = RunFolder(Path(report["checkpoint"]).parent).metrics
    try:
        if path.stat().st_size > LONGEST:
            return None
        lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except (OSError, ValueError, RecursionError):
        return None
    held = [line for line in lines if isinstance(line, dict)]
    found = [x.get("val/in_batch_bound") for x in held if x.get("step") == report["step"]]
    return next((value for value in reversed(found) if value is not None), None)


CERTIFICATE = ("certificate", "low")
NUMBERS = (
    Number(REFERENCE, bound("common")),
    Number("InfoNCE, own critic", bound("native")),
    Number("InfoNCE, own critic, T refitted", bound("native, refitted scale")),
    Number("certificate, common critic", at("information", "critics", "common", *CERTIFICATE)),
    Number(
        "certificate, own critic",
        at("information", "critics", "native, refitted scale", *CERTIFICATE),
    ),
    Number("val/in_batch_bound", in_batch),
    Number("RankMe", at("geometry", "features", "effective_rank")),
    Number("LiDAR", at("geometry", "features", "lidar")),
    Number("α-ReQ, −|α − 1|", from_one),
    Number("α-ReQ, −α", at("geometry", "features", "spectral_decay"), -1),
    Number("cluster learnability", at("geometry", "features", "cluster_learnability")),
    Number("intrinsic dimension", at("geometry", "features", "intrinsic_dimension")),
    Number("CLID", lambda report: None),  # `_put_clid` computes it from all runs of a data set
    Number("−uniformity", at("geometry", "features", "uniformity"), -1),
    Number("−alignment", at("geometry", "features", "alignment"), -1),
    Number("RankMe of codes", at("geometry", "codes", "effective_rank")),
    Number("LiDAR of codes", at("geometry", "codes", "lidar")),
    Number("−uniformity of codes", at("geometry", "codes", "uniformity"), -1),
    Number("−alignment of codes", at("geometry", "codes", "alignment"), -1),
    Number("rate R", at("rate", "rate", "value")),
    Number("I(X; Z), lower bound", at("rate", "lower", "value")),
    Number("−(D + R)", at("rate", "nelbo", "value"), -1),
)


def collect(reports: Sequence[Report]) -> dict[str, Any]:
    """The correlations of every number with both accuracies, and what they were computed from.

    Raises `UserError` unless a data set has `LEAST` runs with a linear probe.
    """
    runs, without = _runs(reports)
    runs, copies = _distinct(runs)
    per_data = Counter(run["data"] for run in runs)
    kept = [run for run in runs if per_data[run["data"]] >= LEAST]
    left_out = {data: count for data, count in per_data.items() if count < LEAST}
    if not kept:
        said = ", ".join(f"{count} on {data}" for data, count in per_data.items()) or "none"
        lack = f"; without a linear probe: {_listed(without)}"
        again = f"; copies of others: {_listed(copies)}"
        raise UserError(
            f"a correlation needs {LEAST} or more runs of one data set with a linear probe, got"
            f" {said}{lack if without else ''}{again if copies else ''}; probe runs with --probes"
            " linear,knn,information,geometry"
        )
    _put_clid(kept)
    rows = []
    for number in NUMBERS:
        row: dict[str, Any] = {"name": number.name}
        for target in TARGETS:
            row[target] = correlations(kept, number.name, target)
        if any(row[target] for target in TARGETS):
            rows.append(row)
    rows.sort(key=lambda row: -_pooled(row, "linear"))
    return {
        "checkpoints": len(kept),
        "data": dict(Counter(run["data"] for run in kept)),
        "left_out": left_out,
        "without_linear": without,
        "copies": copies,
        "methods": dict(Counter(run["method"] for run in kept)),
        "seeds": sorted({run["seed"] for run in kept}),
        "views": {
            data: sorted({run["views"] for run in kept if run["data"] == data and run["views"]})
            for data in per_data
        },
        "resamples": RESAMPLES,
        "reference": REFERENCE,
        "between": correlations(kept, "knn", "linear"),
        "rows": rows,
        "runs": kept,
    }


def _runs(reports: Sequence[Report]) -> tuple[list[dict[str, Any]], list[str]]:
    """The accuracies and the numbers of each run with a linear probe; the names of the others."""
    found, without = [], []
    for report, name, data in zip(reports, names(reports), data_names(reports), strict=True):
        top1 = _number(at("linear", "top1")(report))
        if top1 is None:
            without.append(name)
            continue
        run: dict[str, Any] = {"name": name, "data": data, "method": _method(report)}
        seed = legible(str(at("identity", "run_seed")(report)), 20)
        run |= {"seed": seed, "views": views_of(report), "config": report.get("config_key")}
        run |= {"linear": top1, "knn": _number(at("knn", "knn20", "top1")(report))}
        for number in NUMBERS:
            value = _number(number.of(report))
            run[number.name] = None if value is None else number.sign * value
        found.append(run)
    return found, without


def _distinct(runs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs without copies, and the names of the copies. A run that was copied, or trained again
    with the same config and seed, has the same numbers; it would make the intervals too narrow.
    """
    found: dict[Any, dict[str, Any]] = {}
    copies = []
    for run in runs:
        facts = {key: held for key, held in run.items() if key not in OF_PLACE}
        if found.setdefault(json.dumps(facts, sort_keys=True), run) is not run:
            copies.append(run["name"])
    return list(found.values()), copies


def _number(value: Any) -> float | None:
    """A finite number, or None for everything else that a file may hold."""
    try:
        made = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return None
    return made if math.isfinite(made) else None


def _listed(words: list[str]) -> str:
    return ", ".join(words[:3]) + (f" and {len(words) - 3} more" if len(words) > 3 else "")


def _method(report: Report) -> str:
    return legible(report["method"].split(".")[-1], 40)


def _put_clid(runs: list[dict[str, Any]]) -> None:
    """CLID: cluster learnability plus intrinsic dimension, each standardised over the checkpoints
    of a data set that have both.
    """
    parts = ("cluster learnability", "intrinsic dimension")
    for data in {run["data"] for run in runs}:
        held = [r for r in runs if r["data"] == data and None not in (r[parts[0]], r[parts[1]])]
        if len(held) < 2:
            continue
        values = np.array([[run[part] for part in parts] for run in held])
        spread = values.std(0)
        scores = ((values - values.mean(0)) / np.where(spread > 0, spread, 1)).sum(1)
        for run, score in zip(held, scores.tolist(), strict=True):
            run["CLID"] = score


def correlations(runs: list[dict[str, Any]], name: str, target: str) -> dict[str, Any] | None:
    """Spearman's correlation of a number with an accuracy: within each data set in which `LEAST`
    checkpoints have both, and pooled over data sets. The pooled correlation is given with that of
    `REFERENCE` on the same checkpoints, and with the difference of the two, from the same
    resamples.

    None if no data set has enough checkpoints, or if the number is the same for all.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run[name] is not None and run[target] is not None:
            groups.setdefault(run["data"], []).append(run)
    groups = {data: held for data, held in groups.items() if len(held) >= LEAST}
    if not groups:
        return None
    drawn = _resamples([len(held) for held in groups.values()])
    found: dict[str, Any] = {"each": {}, "checkpoints": sum(map(len, groups.values()))}
    y = [_column(held, target) for held in groups.values()]
    x = [_column(held, name) for held in groups.values()]
    for place, (data, held) in enumerate(groups.items()):
        made = _interval(*_pooled_over([x[place]], [y[place]], [drawn[place]]))
        if made:
            found["each"][data] = made | {"checkpoints": len(held)}
    value, resampled = _pooled_over(x, y, drawn)
    if not (pooled := _interval(value, resampled)):
        return None
    found["pooled"] = pooled
    if name != REFERENCE and all(run[REFERENCE] is not None for h in groups.values() for run in h):
        others = [_column(held, REFERENCE) for held in groups.values()]
        reference, again = _pooled_over(others, y, drawn)
        difference = _interval(value - reference, resampled - again)
        if difference:
            found["reference"], found["difference"] = reference, difference
    return found


def _column(runs: list[dict[str, Any]], key: str) -> np.ndarray:
    return np.array([run[key] for run in runs], dtype=float)


def _resamples(sizes: list[int]) -> list[np.ndarray]:
    """Indices of a bootstrap over the checkpoints of each data set, [RESAMPLES, n] each."""
    random = np.random.default_rng(0)
    return [random.integers(0, n, (RESAMPLES, n)) for n in sizes]


def _pooled_over(
    x: list[np.ndarray], y: list[np.ndarray], drawn: list[np.ndarray]
) -> tuple[float, np.ndarray]:
    """The correlation of the ranks within the groups, and the same of every resample; NaN if one
    side is constant.
    """
    value = float(_correlation([a[None] for a in x], [b[None] for b in y])[0])
    places = zip(x, y, drawn, strict=True)
    taken = [(a[rows], b[rows]) for a, b, rows in places]
    return value, _correlation([a for a, _ in taken], [b for _, b in taken])


def _correlation(x: list[np.ndarray], y: list[np.ndarray]) -> np.ndarray:
    """The pooled Spearman correlation of groups [R, n_g], for each of R rows."""
    left, right = (np.concatenate([_ranks(group) for group in side], 1) for side in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (left * right).sum(1) / np.sqrt((left**2).sum(1) * (right**2).sum(1))


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks of each row of x [R, n], shifted and scaled to (-1, 1); ties have their mean rank."""
    n = x.shape[1]
    return (rankdata(x, axis=1) - (n + 1) / 2) / (n / 2)


def _interval(value: float, resampled: np.ndarray) -> dict[str, float] | None:
    """The value with its 95% percentile interval. None if it is not a number."""
    finite = resampled[np.isfinite(resampled)]
    if not math.isfinite(value) or len(finite) < RESAMPLES / 2:
        return None
    low, high = np.quantile(finite, (0.025, 0.975)).tolist()
    return {"value": value, "low": low, "high": high}


def _pooled(row: dict[str, Any], target: str) -> float:
    return float(row[target]["pooled"]["value"]) if row[target] else -math.inf


def _text(found: dict[str, Any] | None) -> str:
    if not found:
        return "–"
    return f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _cells(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows of the table."""
    several = len(found["data"]) > 1
    head = ["number", "n", "linear, pooled" if several else "linear"]
    head += list(found["data"]) if several else []
    head += ["kNN, pooled" if several else "kNN", f"difference from {REFERENCE}, same runs"]
    rows = []
    for row in found["rows"]:
        linear = row["linear"] or {"checkpoints": 0, "each": {}}
        cells = [row["name"], str(linear["checkpoints"]), _text(linear.get("pooled"))]
        if several:
            cells += [_text(linear["each"].get(data)) for data in found["data"]]
        cells.append(_text(row["knn"] and row["knn"]["pooled"]))
        rows.append([*cells, _text(linear.get("difference"))])
    return head, rows


def table(found: dict[str, Any]) -> Table:
    """The correlations, the largest first, for the terminal."""
    head, rows = _cells(found)
    return grid(head, rows, ["number"], title="Spearman's correlation with accuracy [95%]")


def sentences(found: dict[str, Any]) -> list[str]:
    """What the table says, and how sure it is."""
    counts = ", ".join(f"{count} on {data}" for data, count in found["data"].items())
    methods = ", ".join(f"{count} {name}" for name, count in found["methods"].items())
    seeds = ", ".join(found["seeds"])
    lines = [
        f"{found['checkpoints']} checkpoints ({counts}): {methods}. Each counts once; seeds of"
        f" training: {seeds}."
    ]
    if between := found["between"]:
        lines.append(
            "For comparison, the accuracy of kNN, which needs labels, has a correlation of"
            f" {_text(between['pooled'])} with that of the linear probe."
        )
    for data, count in found["left_out"].items():
        runs = "run" if count == 1 else "runs"
        lines.append(f"{data} has only {count} {runs} with a linear probe; {LEAST} are needed.")
    if without := found["without_linear"]:
        lines.append(f"Left out, because they have no linear probe: {_listed(without)}.")
    if copies := found["copies"]:
        lines.append(
            "Left out, because they are copies of other runs or repeat the same training:"
            f" {_listed(copies)}."
        )
    whole = [r for r in found["rows"] if _complete(r, found)]
    if whole:
        best = whole[0]
        width = best["linear"]["pooled"]["high"] - best["linear"]["pooled"]["low"]
        lines.append(
            f"Of the numbers that all checkpoints have, {best['name']} follows the linear probe"
            f" best: {_text(best['linear']['pooled'])}. Its interval is {width:.2f} wide, because"
            " there are few checkpoints. If the intervals of two numbers overlap, their order is"
            " uncertain."
        )
    for data, views in found["views"].items():
        if len(views) > 1:
            lines.append(
                f"The views of the bounds on {data} differ ({', '.join(views)}), so I(V1; V2) is"
                " not one quantity; probe all runs with the same data.probe_augment."
            )
    return lines


def _complete(row: dict[str, Any], found: dict[str, Any]) -> bool:
    return bool(row["linear"]) and row["linear"]["checkpoints"] == found["checkpoints"]


def markdown(found: dict[str, Any]) -> str:
    """Both tables as Markdown: the correlations, and the runs."""
    shown = ["linear", "knn", REFERENCE, "RankMe", "LiDAR", "CLID"]
    lines = [*sentences(found), "", *in_markdown(*_cells(found)), ""]
    head = ["run", "linear %", "kNN %", *shown[2:]]
    rows = []
    for run in found["runs"]:
        accuracies = ["–" if run[key] is None else f"{100 * run[key]:.1f}" for key in shown[:2]]
        others = ["–" if run[key] is None else f"{run[key]:.2f}" for key in shown[2:]]
        rows.append([run["name"], *accuracies, *others])
    return "\n".join([*lines, *in_markdown(head, rows), ""])
