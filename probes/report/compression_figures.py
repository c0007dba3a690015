"""The pictures of the compression probe."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from probes.probe import Numbers
from probes.report.figures import BLACK, COLOURS, GREY, note, picture

Images = NDArray[Any]  # [n, C, H, W]
OURS, BACK, CODE = COLOURS[0], COLOURS[1], COLOURS[5]
THUMB = 0.62  # inches


def formats(numbers: Numbers, path: Path) -> Path:
    """Bars of bits/dim: the file, and the other formats one by one and as a mosaic."""
    rows = [("this model", numbers["gross"], numbers["gross"])]
    rows += [(one["name"], one["each"], one["mosaic"]) for one in numbers["baselines"]]
    names, each, together = zip(*rows, strict=True)
    with picture(path, figsize=(7.2, 0.42 * len(rows) + 1.4)) as (_, axes):
        places = np.arange(len(rows))
        axes.barh(places, together, 0.7, color=[OURS] + ["#b5b5b5"] * (len(rows) - 1))
        look: Any = {"marker": "|", "s": 160, "color": BLACK, "zorder": 3}
        axes.scatter(each[1:], places[1:], label="one by one", **look)
        axes.axvline(numbers["bound"], color=BACK, linestyle="--", linewidth=1.2, label="D + R")
        axes.set_yticks(places, names)
        axes.invert_yaxis()
        for place, value in zip(places, together, strict=True):
            note(axes, f"{value:.3f}", (value, place), (4, 0), va="center", fontsize=8)
        axes.set_title("A lossless file, and other formats")
        axes.set_xlabel(f"bits/dim, {numbers['images']:,} test images (bars: as one file)")
        axes.margins(x=0.12)
        axes.legend(loc="center right", fontsize=8)
    return path


def chain(numbers: Numbers, path: Path) -> Path:
    """Bits/dim of files of 1, 10, 100 ... images, above D + R."""
    counts, gross = ([one[key] for one in numbers["sizes"]] for key in ("images", "gross"))
    with picture(path, figsize=(6.4, 3.8)) as (_, axes):
        axes.plot(counts, gross, "o-", color=OURS, markersize=5, label="file")
        for x, y in zip(counts, gross, strict=True):
            note(axes, f"{y:.3f}", (x, y), (4, 5), fontsize=8, color=OURS)
        floored = numbers["floored"]
        axes.axhline(
            floored, color=BACK, linestyle="--", linewidth=1.2, label=f"D + R = {floored:.4f}"
        )
        axes.set(xscale="log", yscale="log", title="Start-up bits and headers are needed once")
        axes.set(xlabel="images in the chain", ylabel="bits/dim")
        axes.minorticks_off()
        axes.set_xticks(counts, [f"{count:,}" for count in counts])
        ticks = np.geomspace(min(*gross, floored), max(gross), 5)
        axes.set_yticks(ticks, [f"{tick:.2f}" for tick in ticks])
        axes.margins(x=0.1, y=0.1)
        axes.legend()
    return path


def moves(numbers: Numbers, images: Images, path: Path) -> Path:
    """For some images: the bits that each image pushes and pops, the net bits, and D + R."""
    rows = [row | {"bound": row["d"] + row["r"]} for row in numbers["moves"]]
    with picture(path, figsize=(8.6, 0.6 * len(rows) + 1.5)) as (_, axes):
        places = np.arange(len(rows))
        pixels, prior, popped, net, bound = (
            np.array([row[key] for row in rows])
            for key in ("pixels", "prior", "popped", "net", "d")
        )
        bound = bound + np.array([row["r"] for row in rows])
        axes.barh(places, pixels, 0.34, color=OURS, label="pixels pushed, −log₂ p(x|z)")
        label = "code pushed, −log₂ p(z)"
        axes.barh(places, prior, 0.34, left=pixels, color=CODE, label=label)
        label = "popped before, −log₂ q(z|x): these bits come back"
        axes.barh(places + 0.36, popped, 0.3, left=net, color=BACK, alpha=0.75, label=label)
        axes.barh(places + 0.36, net, 0.3, color=BLACK, label="net")
        axes.plot(bound, places + 0.36, "d", color="white", markeredgecolor=BLACK, markersize=5,
                  label="D + R of the image")  # fmt: skip
        for place, row in zip(places, rows, strict=True):
            start = f", {row['start']:.0f} start-up bits" if row["start"] else ""
            said = f"net {row['net']:,.0f}{start}"
            note(axes, said, (row["net"] + row["popped"], place + 0.18), (6, 0), fontsize=8,
                 va="center")  # fmt: skip
        _thumbs(axes, [images[int(row["image"])] for row in rows])
        axes.set(yticks=[], title="Bits that each image pops and pushes, in the order of coding")
        axes.set_xlabel("bits")
        axes.invert_yaxis()
        axes.margins(x=0.16)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=8)
    return path


def _thumbs(axes: Axes, images: list[Any]) -> None:
    """An image to the left of each row."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    for place, image in enumerate(images):
        box = OffsetImage(_canvas(image), zoom=26 / image.shape[1], cmap="gray")
        where: Any = {"xycoords": ("axes fraction", "data"), "boxcoords": "offset points"}
        axes.add_artist(
            AnnotationBbox(box, (0, place + 0.18), (-18, 0), frameon=False, **where)
        )  # fmt: skip


def _canvas(image: Any) -> Any:
    """[C, H, W] as matplotlib reads it; unless there are 3 channels, the first is shown in grey."""
    scaled = image / 255.0 if image.dtype == np.uint8 else np.clip(image, 0, 1)
    if len(scaled) != 3:
        return np.repeat(scaled[0][..., None], 3, 2)
    return scaled.transpose(1, 2, 0)


def partial(numbers: Numbers, images: Images, pictures: Images, path: Path) -> Path:
    """Left: the bits that are still missing after each number of dimensions. Right: `pictures`
    [stops, n, C, H, W] from these dimensions alone.
    """
    stops = numbers["partial"]
    shown = images[: pictures.shape[1]]
    height = max(3.6, THUMB * (len(stops) + 1) + 0.8)
    with picture(path, 1, 2, figsize=(12.5, height), width_ratios=(1, 1.15)) as (_, (left, right)):
        rates, missing = ([stop[key] for stop in stops] for key in ("rate", "distortion"))
        left.plot(
            rates, missing, "o-", color=OURS, markersize=5, label="pixels, given these dimensions"
        )
        total = [r + d for r, d in zip(rates, missing, strict=True)]
        left.plot(rates, total, "o--", color=GREY, markersize=4, label="sum of both")
        last = -math.inf
        for stop in stops:
            if stop["rate"] - last > 0.03 * max(rates):  # else it would cover the one before
                last, place = stop["rate"], (stop["rate"], stop["distortion"])
                note(left, f"{stop['dimensions']}", place, (4, 4), fontsize=8, color=OURS)
        left.set(title="Bits of the pixels after the first dimensions of the code", ylim=(0, None))
        left.set(xlabel="net bits of the dimensions that were read", ylabel="bits an image")
        left.legend()
        rows = [np.stack([_canvas(image) for image in row]) for row in (shown, *pictures)]
        right.imshow(np.concatenate([np.concatenate(list(row), 1) for row in rows], 0))
        tall = rows[0].shape[1]
        labels = [f"{counted(s['dimensions'])}, {s['rate']:.1f} bits" for s in stops]
        right.set_yticks([(i + 0.5) * tall for i in range(len(rows))], ["images", *labels])
        right.set_xticks([])
        right.tick_params(length=0)
        right.spines[:].set_visible(False)
        right.set_title("From these dimensions alone")
    return path


def counted(dimensions: int) -> str:
    return "1 dimension" if dimensions == 1 else f"{dimensions} dimensions"
