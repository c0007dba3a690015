"""Pictures of rate and distortion, and of what each point gives back of an image: a curve with hull
and reference, models side by side.
"""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from probes.report.figures import COLOURS, STYLE, curve, save

GAP = 0.12  # between images, in widths of one
ONE_PERCENT = "#3f9b6c"


def rate_distortion(found: dict[str, Any], shown: list[tuple[str, Tensor]], path: Path) -> None:
    """Left: D against R. Below it, where the source's own curve is known: how far each point stands
    above it. Right: rows of `shown`, a label and images [N, C, H, W] each.
    """
    measured = [
        point
        for c in found["curves"]
        for point in c["points"]
        if "excess" in point and point["reference"]
    ]
    with plt.rc_context(STYLE):
        figure = plt.figure(
            figsize=(13.5 if shown else 8.2, 7.4 if measured else 5.6), layout="constrained"
        )
        left: Any = figure
        if shown:
            sides: Any = figure.subfigures(1, 2, width_ratios=(1.45, 1), wspace=0.03)
            left = sides[0]
            _images(sides[1].subplots(), shown)
        if measured:
            main, below = left.subplots(2, 1, height_ratios=(3, 1), sharex=True)
            _excess(below, measured)
        else:
            main = left.subplots()
        _curves(main, found)
        (below if measured else main).set_xlabel(
            f"rate R, {found['unit']}: upper bound on I(X; Z)   ({found['split']} split, 95%"
            " intervals)"
        )
        save(figure, path)


def plane(found: dict[str, dict[str, Any]], shown: list[tuple[str, Tensor]], path: Path) -> None:
    """Left: models by name, each the report of its rate, as points (R, D) on lines of equal D + R.
    Right: rows of `shown`, as above.
    """
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(13.5, 6.6), layout="constrained")
        sides: Any = figure.subfigures(1, 2, width_ratios=(1.3, 1), wspace=0.03)
        axes: Any = sides[0].subplots()
        for number, rate in enumerate(found.values()):
            (r, r_bar), (d, d_bar) = (
                (rate[key]["value"], rate[key]["high"] - rate[key]["value"])
                for key in ("rate", "distortion")
            )
            colour = COLOURS[number % len(COLOURS)]
            axes.errorbar(r, d, d_bar, r_bar, fmt="o", color=colour, markersize=6)
        axes.set(xlim=(-0.5, 1.25 * max(rate["rate"]["value"] for rate in found.values())))
        low, high = axes.get_ylim()
        ends = np.array(axes.get_xlim())
        _beside(
            axes,
            {f"{name}, D + R {rate['nelbo']['value']:.1f}": rate for name, rate in found.items()},
            0.034 * (high - low),
        )
        for total in range(int(low) // 2 * 2, int(high + ends[1]) + 2, 2):
            axes.plot(ends, total - ends, color="#e4e4e4", linewidth=0.8, zorder=0)
        axes.set(title="Rate and distortion; grey: D + R constant, 2 nats apart", ylim=(low, high))
        axes.set(
            xlabel="rate R, nats an image: upper bound on I(X; Z)   (test split, 95% intervals)",
            ylabel="distortion D, nats an image",
        )
        _images(sides[1].subplots(), shown, "Images, and what their codes give back")
        save(figure, path)


def _beside(axes: Axes, labelled: dict[str, dict[str, Any]], line: float) -> None:
    """A label to the right of each point (R, D), moved up where another stands; `line` is the
    height of one.
    """
    taken: list[tuple[float, float]] = []
    numbers = {label: number for number, label in enumerate(labelled)}
    for label, rate in sorted(labelled.items(), key=lambda item: item[1]["distortion"]["value"]):
        r, d = rate["rate"]["value"], rate["distortion"]["value"]
        while any(abs(r - x) < 0.3 * axes.get_xlim()[1] and abs(d - y) < line for x, y in taken):
            d += 0.2 * line
        taken.append((r, d))
        axes.annotate(
            label,
            (r, d),
            (8, 0),
            textcoords="offset points",
            fontsize=9,
            va="center",
            color=COLOURS[numbers[label] % len(COLOURS)],
        )


def _curves(axes: Axes, found: dict[str, Any]) -> None:
    for number, drawn in enumerate(found["curves"]):
        points = [*([drawn["nothing"]] if "nothing" in drawn else []), *drawn["points"]]
        curve(
            axes,
            points,
            COLOURS[number % len(COLOURS)],
            f"{drawn['name']}: points and their lower convex hull",
        )
    _elbo(axes, found)
    if reference := found["reference"]:
        r, d = ([point[key] for point in reference["points"]] for key in ("rate", "distortion"))
        low, high = _room(found)
        axes.plot(
            r,
            d,
            color="#222222",
            linewidth=1.4,
            label=f"R(D) of the source: {reference['name']}",
            zorder=1,
        )
        axes.fill_between(r, d, low, color="#f2f2f2", linewidth=0, zorder=0)
        axes.annotate(
            "below R(D): no code", (0.02, 0.03), xycoords="axes fraction", color="#777777"
        )
        axes.annotate("above: achievable", (0.5, 0.5), xycoords="axes fraction", color="#777777")
        axes.set_ylim(low, high)
    axes.set(
        title=f"What a code of {found['data']} costs and what it loses",
        ylabel="distortion D, nats an image",
    )
    axes.legend(loc="upper right")


def _room(found: dict[str, Any]) -> tuple[float, float]:
    """The span of D that the points take and half as much above it; a reference climbs far out of
    sight where R nears 0.
    """
    distortions = [
        point["distortion"]["value"] for drawn in found["curves"] for point in drawn["points"]
    ]
    low, high = min(distortions), max(distortions)
    margin = max(high - low, 0.05 * abs(high), 1e-9)
    return low - 0.12 * margin, high + 0.5 * margin


def _elbo(axes: Axes, found: dict[str, Any]) -> None:
    """The line D + R = the least that was found: the same bound on -log p(x) all along, a better
    one below.
    """
    nelbo = min(point["nelbo"]["value"] for drawn in found["curves"] for point in drawn["points"])
    low, high = axes.get_ylim()
    ends = np.array(
        [
            0.0,
            1.06
            * max(point["rate"]["high"] for drawn in found["curves"] for point in drawn["points"]),
        ]
    )
    label = f"D + R = {nelbo:,.2f}: the best ELBO, all along the line".replace("-", "−")
    axes.plot(ends, nelbo - ends, "--", color="#888888", linewidth=1, label=label, zorder=1)
    axes.set(xlim=(-0.02 * ends[1], ends[1]), ylim=(low, high))


def _excess(axes: Axes, points: list[dict[str, Any]]) -> None:
    """R / R(D) - 1 of each point, in percent."""
    r = [point["rate"]["value"] for point in points]
    value, low, high = (
        np.array([100 * p["excess"][key] / p["reference"] for p in points])
        for key in ("value", "low", "high")
    )
    axes.axhspan(0, 1, color=ONE_PERCENT, alpha=0.12, linewidth=0)
    axes.axhline(0, color="#222222", linewidth=1.4)
    axes.errorbar(
        r,
        value,
        [value - low, high - value],
        fmt="o",
        color=COLOURS[0],
        markersize=5,
        capsize=2,
        linewidth=1.2,
    )
    for x, y, top in zip(r, value, high, strict=True):
        text = f"{y:+.2f} %".replace("-", "−")
        axes.annotate(
            text,
            (x, top),
            (0, 3),
            textcoords="offset points",
            fontsize=8,
            ha="center",
            color=COLOURS[0],
        )
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate("within 1 %", (0, 1), (4, -3), va="top", color=ONE_PERCENT, **place)
    axes.set(title="R above the curve, at the point's own distortion", ylabel="% of R(D)")
    axes.set_ylim(min(-0.5, 1.2 * float(low.min())), max(1.3, 1.2 * float(high.max())))


def _images(
    axes: Axes,
    shown: list[tuple[str, Tensor]],
    title: str = "Images, and what each point gives back",
) -> None:
    """Rows of images on one canvas; real values beyond [0, 1] on a scale of two colours about 0."""
    rows = [images.detach().cpu().float().permute(0, 2, 3, 1).numpy() for _, images in shown]
    count, height, width, channels = rows[0].shape
    most = max(float(np.abs(row).max()) for row in rows)
    signed = rows[0].min() < 0
    pitch = 1 + GAP
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            place = (x * pitch, x * pitch + 1, y * pitch + height / width, y * pitch)
            picture = image[..., 0] if channels == 1 else image.clip(0, 1)
            scale: dict[str, Any] = (
                {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
                if signed
                else {"cmap": "gray", "vmin": 0, "vmax": 1}
            )
            axes.imshow(
                picture, extent=place, interpolation="nearest", **(scale if channels == 1 else {})
            )
    axes.set(
        xlim=(0, count * pitch - GAP), ylim=(len(rows) * pitch - GAP, 0), xticks=[], title=title
    )
    axes.set_yticks(
        [y * pitch + 0.5 * height / width for y in range(len(rows))], [label for label, _ in shown]
    )
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
