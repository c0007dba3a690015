"""The pictures of a report. I(V1; V2) and I(X; Z) are different quantities, so they have panels of
their own.
"""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from core.run.checkpoint import write_atomically

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from probes.report.schema import Report, best_critic, name

COLOURS = ("#3b6fb6", "#d1603d", "#3f9b6c", "#8e5ba6", "#c2a02e", "#5b5b5b")
STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
}


def compare(reports: list[Report], path: Path) -> None:
    """Three panels: accuracy, the InfoNCE bound against K, and the bounds on I(X; Z)."""
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(
            1, 3, figsize=(15, 4.8), gridspec_kw={"width_ratios": [1, 1.6, 1]}, layout="constrained"
        )
        _accuracy(left, reports)
        chosen = {
            name(report): (critic[1], f"{name(report)} ({critic[0]} critic)")
            for report in reports
            if (critic := best_critic(report))
        }
        _sweeps(
            middle,
            chosen,
            reports[0].get("information", {}),
            [COLOURS[i % len(COLOURS)] for i, r in enumerate(reports) if best_critic(r)],
        )
        _rates(right, reports)
        save(figure, path)


def sweep(report: Report, path: Path) -> None:
    """The InfoNCE bound of one checkpoint against K, for each critic."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 4.8), layout="constrained")
        critics = report["information"]["critics"]
        _sweeps(
            axes,
            {key: (found, f"{key} critic: {found['verdict']}") for key, found in critics.items()},
            report["information"],
            list(COLOURS),
        )
        save(figure, path)


def rate_distortion(reports: list[Report], path: Path) -> None:
    """D against R of the rate heads of one or several checkpoints, with the lower convex hull of
    each curve.

    Curves on one data set compare; where there are several, each says its own.
    """
    probed = [(i, report) for i, report in enumerate(reports) if report.get("rate_head")]
    mixed = len({report["data"] for _, report in probed}) > 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7.5, 5.2), layout="constrained")
        for i, report in probed:
            head, colour = report["rate_head"], COLOURS[i % len(COLOURS)]
            label = f"{name(report)}, {report['data']}" if mixed else name(report)
            curve(axes, [head["nothing"], *head["points"]], colour, label)
        axes.set(
            title="What the features keep of an image, and its price",
            xlabel="rate R, nats an image",
            ylabel="distortion D, nats an image",
        )
        axes.legend(
            fontsize=9, title="points and hull: on and above it is achieved", title_fontsize=8
        )
        save(figure, path)


def curve(axes: Axes, points: list[dict[str, Any]], colour: str, label: str) -> None:
    """Points {"rate", "distortion": {"value", "low", "high"}, "beta"?} with intervals, betas and
    the lower convex hull.
    """
    r, d = (
        [[point[key][bound] for bound in ("value", "low", "high")] for point in points]
        for key in ("rate", "distortion")
    )
    axes.errorbar(
        [value for value, _, _ in r],
        [value for value, _, _ in d],
        xerr=[[value - low for value, low, _ in r], [high - value for value, _, high in r]],
        yerr=[[value - low for value, low, _ in d], [high - value for value, _, high in d]],
        fmt="o",
        color=colour,
        markersize=5,
        capsize=2,
        linewidth=1,
        label=label,
    )
    axes.plot(
        *zip(*lower_hull([(x[0], y[0]) for x, y in zip(r, d, strict=True)]), strict=True),
        color=colour,
        linewidth=1.2,
    )
    betas: dict[tuple[float, float], list[str]] = {}  # one model may be the best at several prices
    for point in points:
        if "beta" in point:
            betas.setdefault((point["rate"]["value"], point["distortion"]["value"]), []).append(
                f"{point['beta']:g}"
            )
    for place, prices in betas.items():
        axes.annotate(
            f"β {', '.join(prices)}",
            place,
            (4, 5),
            textcoords="offset points",
            fontsize=8,
            color=colour,
        )


def dimensions(rates: list[float], path: Path) -> None:
    """What each dimension of a code costs, dearest first."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
        axes.bar(
            range(1, len(rates) + 1), sorted(rates, reverse=True), color=COLOURS[0], width=0.85
        )
        axes.set(
            title=f"Where {sum(rates):.2f} nats of rate go",
            xlabel="dimensions of z, sorted",
            ylabel="E KL(q(z_j|x) ‖ p(z_j)), nats",
        )
        save(figure, path)


def lower_hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The lower convex hull of points (R, D) from the left up to the least D: heads used in turn
    reach every point on it.
    """
    hull: list[tuple[float, float]] = []
    for x, y in sorted(points):
        while len(hull) > 1 and (hull[-1][1] - hull[-2][1]) * (x - hull[-2][0]) >= (
            y - hull[-2][1]
        ) * (hull[-1][0] - hull[-2][0]):
            hull.pop()
        if not hull or y < hull[-1][1]:
            hull.append((x, y))
    return hull


def _accuracy(axes: Axes, reports: list[Report]) -> None:
    probed = [(i, r) for i, r in enumerate(reports) if r.get("linear") and r.get("knn")]
    for place, (i, report) in enumerate(probed):
        colour = COLOURS[i % len(COLOURS)]
        for shift, value, alpha in (
            (-0.2, report["linear"]["top1"], 1.0),
            (0.2, report["knn"]["knn200"]["top1"], 0.45),
        ):
            axes.bar(place + shift, 100 * value, 0.38, color=colour, alpha=alpha)
            axes.text(place + shift, 100 * value + 1, f"{100 * value:.1f}", ha="center", fontsize=9)
    axes.set_xticks(range(len(probed)), [name(r) for _, r in probed])
    axes.set(
        title="Labels: linear (solid), kNN (pale)",
        ylabel="top-1 on test, %, mean over factors",
        ylim=(0, 109),
    )


def _sweeps(
    axes: Axes,
    curves: dict[str, tuple[dict[str, Any], str]],
    information: dict[str, Any],
    colours: list[str],
) -> None:
    for (found, label), colour in zip(curves.values(), colours, strict=False):
        rows = found["sweep"]
        k = [row["K"] for row in rows]
        axes.plot(k, [row["bound"] for row in rows], "o-", color=colour, label=label, markersize=4)
        axes.fill_between(
            k,
            [row["low"] for row in rows],
            [row["high"] for row in rows],
            color=colour,
            alpha=0.2,
            linewidth=0,
        )
    if curves:
        rows = next(iter(curves.values()))[0]["sweep"]
        k = [row["K"] for row in rows]
        axes.plot(
            k, [row["ceiling"] for row in rows], ":", color="#888888", label="ceiling log(K + 1)"
        )
        if "best_possible" in rows[0]:
            axes.plot(
                k,
                [row["best_possible"] for row in rows],
                "--",
                color="#222222",
                linewidth=1,
                label="best possible at K",
            )
    if information.get("truth") is not None:
        axes.axhline(information["truth"], color="#222222", linewidth=1)
        axes.annotate(
            f"truth {information['truth']:.2f}",
            (1, information["truth"]),
            (-4, 4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            ha="right",
        )
    lowest = min(
        [row["bound"] for found, _ in curves.values() for row in found["sweep"]], default=0.0
    )
    axes.set(
        title="Between views: lower bound on I(V1; V2)",
        xlabel="negatives K",
        ylabel="nats",
        xscale="log",
    )
    axes.set_ylim(bottom=max(-2.0, min(0.0, lowest)))
    if curves:
        axes.legend(fontsize=9, loc="center right", bbox_to_anchor=(1, 0.42))


def _rates(axes: Axes, reports: list[Report]) -> None:
    probed = [(i, r) for i, r in enumerate(reports) if r.get("rate")]
    axes.set(title="Input and code: bounds on I(X; Z)", ylabel="nats")
    if not probed:
        axes.text(
            0.5,
            0.5,
            "no checkpoint with a rate",
            ha="center",
            transform=axes.transAxes,
            color="#888888",
        )
        axes.set_axis_off()
    for place, (i, report) in enumerate(probed):
        rate, colour = report["rate"], COLOURS[i % len(COLOURS)]
        low, high = rate["lower"]["value"], min(rate["upper"]["value"], rate["rate"]["value"])
        axes.bar(
            place,
            high - low,
            0.5,
            bottom=low,
            color=colour,
            alpha=0.45,
            label="I(X; Z) lies here" if place == 0 else None,
        )
        axes.plot(
            [place - 0.3, place + 0.3],
            [rate["rate"]["value"]] * 2,
            color=colour,
            linewidth=2.5,
            label="rate R, upper bound" if place == 0 else None,
        )
        axes.plot(
            [place - 0.3, place + 0.3],
            [rate["ceiling"]] * 2,
            ":",
            color="#888888",
            label="ceiling of the lower bound, log n" if place == 0 else None,
        )
        for value, text, align in (
            (low, f"lower {low:.2f}", "top"),
            (rate["rate"]["value"], f"R {rate['rate']['value']:.2f}", "bottom"),
        ):
            axes.text(place, value, text, ha="center", va=align, fontsize=9)
    if probed:
        top = max(r["rate"]["rate"]["value"] for _, r in probed)
        axes.set_xticks(range(len(probed)), [name(r) for _, r in probed])
        axes.set(xlim=(-0.8, len(probed) - 0.2), ylim=(0, 1.4 * max(top, 1e-3)))
        axes.legend(fontsize=9, loc="upper center")


def save(figure: Any, path: Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))
    plt.close(figure)
