"""Pictures of rate and distortion, beside images and their reconstructions at each point."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from torch import Tensor

from probes.report.figures import BLACK, COLOURS, DISTORTION, GREY, STYLE, curve, note, save

Shown = list[tuple[str, Tensor]]  # rows of images: a label, and images [N, C, H, W]
GAP = 0.12  # between images, in widths of an image
ONE_PERCENT = "#3f9b6c"
RATE = "rate R, {unit}: upper bound on I(X; Z)   ({split} split, 95% intervals)"


def curves_and_images(found: dict[str, Any], shown: Shown, path: Path) -> None:
    """Left: D against R and, if R(D) of the source is known, the distance of each point from this
    curve. Right: rows of images.
    """
    points = [point for drawn in found["curves"] for point in drawn["points"]]
    measured = [point for point in points if "excess" in point and point["reference"]]
    filed = [point for point in points if "file" in point]
    more = bool(measured) + bool(filed)
    size = (13.5 if shown else 8.2, 5.6 + 1.8 * more)
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=size, layout="constrained")
        left: Any = figure
        if shown:
            sides: Any = figure.subfigures(1, 2, width_ratios=(1.45, 1), wspace=0.03)
            left = sides[0]
            _images(sides[1].subplots(), shown)
        rows = left.subplots(1 + more, 1, height_ratios=(3, *[1] * more), squeeze=False)[:, 0]
        main = below = rows[0]
        if measured:
            below = rows[1]
            below.sharex(main)
            main.tick_params(labelbottom=False)
            _excess(below, measured)
        if filed:
            _files(rows[-1], filed)
        _curves(main, found, points)
        below.set_xlabel(RATE.format(**found))
        save(figure, path)


def _files(axes: Axes, points: list[dict[str, Any]]) -> None:
    """The length of the lossless file of each point against beta, and D + R."""
    betas = [point["beta"] for point in points]
    gross, bound = ([point["file"][key] for point in points] for key in ("gross", "floored"))
    axes.plot(betas, bound, "--", color=GREY, linewidth=1, label="D + R as a file codes it")
    label = f"file of {points[0]['file']['images']:,} images"
    axes.plot(betas, gross, "o-", color=COLOURS[1], markersize=5, label=label)
    for beta, value in zip(betas, gross, strict=True):
        note(axes, f"{value:.4f}", (beta, value), (0, 5), fontsize=8, ha="center", color=COLOURS[1])
    axes.set(title="A lossless file over β", xlabel="β", ylabel="bits/dim", xscale="log")
    axes.set_xticks(betas, [f"{beta:g}" for beta in betas])
    axes.minorticks_off()
    axes.margins(y=0.3)
    axes.legend()


def plane(found: dict[str, dict[str, Any]], shown: Shown, path: Path) -> None:
    """Left: models as points (R, D), by name, on lines of equal D + R. Right: rows of images."""
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
        labels = {f"{name}, D + R {r['nelbo']['value']:.1f}": r for name, r in found.items()}
        _beside(axes, labels, 0.034 * (high - low))
        for total in range(int(low) // 2 * 2, int(high + ends[1]) + 2, 2):
            axes.plot(ends, total - ends, color="#e4e4e4", linewidth=0.8, zorder=0)
        axes.set(title="Rate and distortion; grey: D + R constant, 2 nats apart", ylim=(low, high))
        axes.set(xlabel=RATE.format(unit="nats an image", split="test"), ylabel=DISTORTION)
        _images(sides[1].subplots(), shown, "Images and their reconstructions")
        save(figure, path)


def _beside(axes: Axes, labelled: dict[str, dict[str, Any]], line: float) -> None:
    """A label to the right of each point (R, D), moved up if it would cover another label; `line`
    is the height of a label.
    """
    taken: list[tuple[float, float]] = []
    colours = {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labelled)}
    for label, rate in sorted(labelled.items(), key=lambda item: item[1]["distortion"]["value"]):
        r, d = rate["rate"]["value"], rate["distortion"]["value"]
        while any(abs(r - x) < 0.3 * axes.get_xlim()[1] and abs(d - y) < line for x, y in taken):
            d += 0.2 * line
        taken.append((r, d))
        note(axes, label, (r, d), (8, 0), fontsize=9, va="center", color=colours[label])


def _curves(axes: Axes, found: dict[str, Any], points: list[dict[str, Any]]) -> None:
    for number, drawn in enumerate(found["curves"]):
        nothing = [drawn["nothing"]] if "nothing" in drawn else []
        label = f"{drawn['name']}: points and their lower convex hull"
        curve(axes, [*nothing, *drawn["points"]], COLOURS[number % len(COLOURS)], label)
    _elbo(axes, points)
    if reference := found["reference"]:
        r, d = ([point[key] for point in reference["points"]] for key in ("rate", "distortion"))
        # the reference is very large where R is near 0, so the points set the limits of the axes
        distortions = [point["distortion"]["value"] for point in points]
        low, high = min(distortions), max(distortions)
        margin = max(high - low, 0.05 * abs(high), 1e-9)
        low, high = low - 0.12 * margin, high + 0.5 * margin
        label = f"R(D) of the source: {reference['name']}"
        axes.plot(r, d, color=BLACK, linewidth=1.4, label=label, zorder=1)
        axes.fill_between(r, d, low, color="#f2f2f2", linewidth=0, zorder=0)
        words: Any = {"xycoords": "axes fraction", "color": "#777777"}
        axes.annotate("below R(D): impossible", (0.02, 0.03), **words)
        axes.annotate("above: achievable", (0.5, 0.5), **words)
        axes.set_ylim(low, high)
    axes.set(title=f"Rate and distortion of codes of {found['data']}", ylabel=DISTORTION)
    axes.legend(loc="upper right")


def _elbo(axes: Axes, points: list[dict[str, Any]]) -> None:
    """The line on which D + R, a bound on -log p(x), equals that of the best point."""
    nelbo = min(point["nelbo"]["value"] for point in points)
    low, high = axes.get_ylim()
    ends = np.array([0.0, 1.06 * max(point["rate"]["high"] for point in points)])
    label = f"D + R = {nelbo:,.2f}: the best ELBO, constant on this line".replace("-", "−")
    axes.plot(ends, nelbo - ends, "--", color=GREY, linewidth=1, label=label, zorder=1)
    axes.set(xlim=(-0.02 * ends[1], ends[1]), ylim=(low, high))


def _excess(axes: Axes, points: list[dict[str, Any]]) -> None:
    """R / R(D) - 1 of each point, in percent."""
    r = [point["rate"]["value"] for point in points]
    value, low, high = (
        np.array([100 * p["excess"][key] / p["reference"] for p in points])
        for key in ("value", "low", "high")
    )
    axes.axhspan(0, 1, color=ONE_PERCENT, alpha=0.12, linewidth=0)
    axes.axhline(0, color=BLACK, linewidth=1.4)
    look: Any = {"color": COLOURS[0], "markersize": 5, "capsize": 2, "linewidth": 1.2}
    axes.errorbar(r, value, [value - low, high - value], fmt="o", **look)
    for x, y, top in zip(r, value, high, strict=True):
        text = f"{y:+.2f} %".replace("-", "−")
        note(axes, text, (x, top), (0, 3), fontsize=8, ha="center", color=COLOURS[0])
    place: Any = {"xycoords": ("axes fraction", "data"), "va": "top", "color": ONE_PERCENT}
    note(axes, "within 1 %", (0, 1), (4, -3), **place)
    axes.set(title="R above the curve, at the point's own distortion", ylabel="% of R(D)")
    axes.set_ylim(min(-0.5, 1.2 * float(low.min())), max(1.3, 1.2 * float(high.max())))


def _images(
    axes: Axes, shown: Shown, title: str = "Images, and reconstructions of each point"
) -> None:
    """Rows of images on one canvas. If some values are negative, red is above 0 and blue below."""
    rows = [images.detach().cpu().float().permute(0, 2, 3, 1).numpy() for _, images in shown]
    count, height, width, channels = rows[0].shape
    most = max(float(np.abs(row).max()) for row in rows)
    scale: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    if rows[0].min() < 0:
        scale = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
    pitch, tall = 1 + GAP, height / width
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            place = (x * pitch, x * pitch + 1, y * pitch + tall, y * pitch)
            grey = channels == 1
            pixels = image[..., 0] if grey else image.clip(0, 1)
            axes.imshow(pixels, extent=place, interpolation="nearest", **(scale if grey else {}))
    labels = [label for label, _ in shown]
    axes.set(xlim=(0, count * pitch - GAP), ylim=(len(rows) * pitch - GAP, 0), xticks=[])
    axes.set_yticks([y * pitch + 0.5 * tall for y in range(len(rows))], labels)
    axes.set_title(title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
