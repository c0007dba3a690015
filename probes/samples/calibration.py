"""Estimates compared with the truth: a row for each source, and numbers over all of them."""

import math
from typing import Any

import numpy as np

from probes.report.table import markdown as in_markdown
from probes.samples.benchmark_sources import Known
from probes.samples.estimate import DEFAULT, estimate

Row = dict[str, Any]
TRUSTED = 3.0  # standard errors by which a lower bound may exceed the sample's information
TITLES = {
    "suite": "# Estimates on sources of known information",
    "benchmark-mi": "# Estimates on the catalogue of benchmark-mi",
}
LEGEND = (
    "All values are in nats, with half of the 95% interval. *Sample's own* is the mean of"
    " log p(x, y) / (p(x) p(y)) over the pairs. `infonce`, `alpha` and `nwj` are lower bounds;"
    " `ksg` is an estimate, no bound. `ksg` is left out (–) if values repeat, or if x and y"
    " together have more than ten dimensions."
)


def measure(name: str, source: Known, seed: int = 0) -> Row:
    """The default estimate of one source, with its truth and the sample's own information."""
    found = estimate(source.x, source.y, DEFAULT, seed, name)
    own = source.pointwise
    return {
        "source": name,
        "dimensions": found["dimensions"],
        "truth": source.information,
        "own": float(own.mean()),
        "own_error": float(own.std() / math.sqrt(len(own))),
        "estimators": found["estimators"],
        "doubling": found["doubling"],
        "conclusion": found["conclusion"],
    }


def excess(row: Row, estimator: str) -> float:
    """By how many standard errors an estimate exceeds the sample's own information, which differs
    from the truth only by chance.
    """
    entry = row["estimators"][estimator]
    # the error is 0 if a critic gives every pair the score 0
    return float((entry["value"] - row["own"]) / max(entry["error"], 1e-9))


def collect(rows: list[Row], pairs: int, seed: int, sources: str) -> dict[str, Any]:
    """All rows, with numbers over all of them: the mean absolute error where I < 4 nats, and the
    largest excess of a lower bound.
    """
    close = [row for row in rows if row["truth"] < 4]
    lower = [
        (excess(row, key), key, row["source"])
        for row in rows
        for key, e in row["estimators"].items()
        if e["side"] == "lower bound"
    ]
    found: dict[str, Any] = {"sources": sources, "pairs": pairs, "seed": seed, "unit": "nats"}
    found |= {"rows": rows, "mean_absolute_error": {}}
    for key in DEFAULT:
        having = [(row["estimators"], row["truth"]) for row in close if key in row["estimators"]]
        if having:
            errors = [abs(entries[key]["value"] - truth) for entries, truth in having]
            found["mean_absolute_error"][key] = float(np.mean(errors))
    worst = zip(("standard_errors", "estimator", "source"), max(lower), strict=True)
    found["largest_excess"] = dict(worst)
    found["seconds"] = _times([row["seconds"] for row in rows])
    if all("peer" in row for row in rows):
        errors = [abs(row["peer"] - row["truth"]) for row in close]
        found["mean_absolute_error"]["benchmark-mi infonce"] = float(np.mean(errors))
        found["peer_seconds"] = _times([row["peer_seconds"] for row in rows])
        ratios = [row["peer_seconds"] / row["seconds"] for row in rows]
        found["peer_time_over_ours"] = float(np.median(ratios))
    return found | {"distinct": _distinct(close), "verdicts": verdicts(rows)}


def _distinct(rows: list[Row]) -> dict[str, Any]:
    """The number of rows with different estimates, and the mean absolute errors over these.

    Critics of vectors read ranks, so sources that differ by monotone maps of their columns get the
    same estimates and count once. Only the critic for two single numbers (`probes.samples.noise`)
    reads the values themselves. Where this critic is chosen, such sources may count separately.
    """
    kept: dict[tuple[float, ...], Row] = {}
    for row in rows:
        values = [entry["value"] for entry in row["estimators"].values()]
        kept.setdefault(tuple(round(value, 3) for value in (row["truth"], *values)), row)
    found: dict[str, Any] = {"sources": len(kept)}
    errors = [abs(row["estimators"]["infonce"]["value"] - row["truth"]) for row in kept.values()]
    found["infonce"] = float(np.mean(errors)) if errors else 0.0
    if all("peer" in row for row in rows):
        peer = [abs(row["peer"] - row["truth"]) for row in kept.values()]
        found["benchmark-mi infonce"] = float(np.mean(peer)) if peer else 0.0
    return found


def verdicts(rows: list[Row]) -> dict[str, Any]:
    """How often the verdict on InfoNCE is "converged", for values far from the truth and for values
    near it; and how often the truth is outside of the interval.
    """
    judged = [(row["source"], row["truth"], row["estimators"]["infonce"]) for row in rows]
    known = [(name, e["value"] / truth, e["verdict"]) for name, truth, e in judged if truth > 0]
    short = [(name, word) for name, share, word in known if share < 0.9]
    near = [word for _, share, word in known if share >= 0.95]
    return {
        "short": len(short),
        "short_converged": [name for name, word in short if word == "converged"],
        "near": len(near),
        "near_converged": near.count("converged"),
        "outside": sum(abs(e["value"] - truth) > 1.96 * e["error"] for _, truth, e in judged),
    }


def _times(seconds: list[float]) -> dict[str, float]:
    return {"median": float(np.median(seconds)), "most": max(seconds)}


def with_error(entry: dict[str, float]) -> str:
    """A value and half of its 95% interval."""
    return f"{entry['value']:z.3f} ± {1.96 * entry['error']:.3f}"


def line(row: Row) -> str:
    """The line that is printed when a source is done."""
    parts = [f"{key} {with_error(entry)}" for key, entry in row["estimators"].items()]
    peer = ""
    if "peer" in row:
        peer = f" · benchmark-mi {row['peer']:z.3f} in {row['peer_seconds']:.0f} s"
    verdict = row["estimators"]["infonce"]["verdict"]
    found = f"{row['source']}: truth {row['truth']:.3f} · {' · '.join(parts)} · {verdict}"
    return f"{found}, {row['seconds']:.0f} s{peer}"


def summary(found: dict[str, Any]) -> str:
    """The numbers over all sources, in words."""
    worst, seconds = found["largest_excess"], found["seconds"]
    most, own = worst["standard_errors"], 'the information of its sample ("sample\'s own")'
    errors = ", ".join(f"{key} {value:.3f}" for key, value in found["mean_absolute_error"].items())
    where = f"{worst['estimator']} on {worst['source']}"
    said = f"A lower bound is {most:.1f} standard errors above {own}: {where}."
    if most <= TRUSTED:
        side = "above" if most > 0 else "below"
        said = f"No lower bound is more than {TRUSTED:g} standard errors above {own}. The closest"
        said += f" one, {where}, is {abs(most):.1f} standard errors {side} it."
    lines = [
        f"{len(found['rows'])} sources, {found['pairs']:,} pairs each, seed {found['seed']}.",
        f"Mean absolute error on sources below 4 nats: {errors}.",
        said,
        f"Time for a source: median {seconds['median']:.1f} s, at most {seconds['most']:.1f} s.",
    ]
    verdicts, distinct = found["verdicts"], found["distinct"]
    names = ", ".join(verdicts["short_converged"])
    lines.append(
        f"InfoNCE is more than 10 % below the truth on {verdicts['short']} sources; the verdict is"
        f" converged on {len(verdicts['short_converged'])} of them{f' ({names})' if names else ''}."
        f" It is at most 5 % below the truth, or above it, on {verdicts['near']} sources; the"
        f" verdict is converged on {verdicts['near_converged']} of them."
    )
    lines.append(
        "The interval is that of the bound's own mean, so it need not contain the truth. On"
        f" {verdicts['outside']} of {len(found['rows'])} sources it does not."
    )
    if 0 < distinct["sources"] < len(found["rows"]):
        means = ", ".join(f"{k} {v:.3f}" for k, v in distinct.items() if k != "sources")
        lines.append(
            "Critics read ranks, so sources that differ only by monotone maps get the same"
            " estimates. (One critic, for two single numbers with y = a + b x + noise, reads the"
            f" values themselves.) Below 4 nats, {distinct['sources']} sources are distinct. The"
            f" mean absolute error on these: {means}."
        )
    if "peer_seconds" in found:
        peer = found["peer_seconds"]
        ratio = f"the median ratio of its time to ours is {found['peer_time_over_ours']:.2f}"
        times = f"median {peer['median']:.1f} s, at most {peer['most']:.1f} s"
        lines.append(f"Time of benchmark-mi's InfoNCE for a source: {times}; {ratio}.")
    return "\n".join(lines)


def markdown(found: dict[str, Any]) -> str:
    """The table for a page: truth, the sample's own information, each estimate with its 95%
    interval, and the verdict.
    """
    rows = found["rows"]
    columns = [key for key in DEFAULT if any(key in row["estimators"] for row in rows)]
    peer = ["benchmark-mi infonce"] if "peer" in rows[0] else []
    head = ["source", "dimensions", "truth", "sample's own", *columns, "verdict", *peer]
    table = []
    for row in rows:
        entries, dimensions = row["estimators"], " x ".join(map(str, row["dimensions"]))
        cells = [row["source"], dimensions, f"{row['truth']:.3f}", f"{row['own']:z.3f}"]
        cells += [with_error(entries[key]) if key in entries else "–" for key in columns]
        table.append([*cells, entries["infonce"]["verdict"]])
        table[-1] += [f"{row['peer']:z.3f}"] if peer else []
    title, text = TITLES[found["sources"]], summary(found).replace("\n", "  \n")
    return "\n".join([title, "", text, "", LEGEND, "", *in_markdown(head, table)]) + "\n"
