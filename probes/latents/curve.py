"""A rate-distortion curve: reports of checkpoints as points (R, D), with the reference curve where
the data's own is known.

R bounds I(X; Z) from above and D = E -log p(x|z) is a cross-entropy, both in nats an image: each
point is achieved, so that the region above the curve is, and a better model may find a curve below
(Alemi et al. 2018). What is written:

    {
      "format": "twobounds-rate-distortion/1", "data": name, "unit", "split", "dimensions",
      "curves": [{"name", "method", "images", "estimator", "points": [POINT],
                  "nothing"? (of a rate head: R = 0)}],
      "reference": null | {"name", "sigma", "points": [{"rate", "distortion", "squared_error"}]}
    }
    POINT: {"beta", "rate" | "distortion" | "nelbo": {"value", "low", "high"}, "checkpoint",
            "digest", "started_from"? (a warm start), "squared_error"?,
            "reference"? R at that squared error,
            "excess"?: {"value", "low", "high", "share"} R above it}   (? if known)

Intervals are 95%, over the test images.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from core.data.datasets import open_source
from core.data.source import eval_sampler
from core.information.rate_distortion import WaterFilling
from core.method import LatentModel
from core.run.config import RunConfig
from probes.report.schema import Report
from probes.report.table import names

FORMAT = "twobounds-rate-distortion/1"
BOUNDS = ("value", "low", "high")
SMOOTH = 200  # points at which a reference curve is drawn


class Reference(NamedTuple):
    """The source's own R(D) under squared error, on the axis of a Gaussian likelihood N(.,
    sigma^2).

    D = squared error / (2 sigma^2) + (d / 2) log(2 pi sigma^2)   nats, so that every D is one
    squared error and back.
    """

    curve: WaterFilling
    sigma: float

    @property
    def constant(self) -> float:
        return 0.5 * len(self.curve.eigenvalues) * math.log(2 * math.pi * self.sigma**2)

    def squared_error(self, distortion: float) -> float:
        """The squared error an image of a D in nats."""
        return 2 * self.sigma**2 * (distortion - self.constant)

    def distortion(self, squared_error: float) -> float:
        """D in nats of a squared error an image."""
        return squared_error / (2 * self.sigma**2) + self.constant

    def excess(self, point: dict[str, Any]) -> dict[str, Any]:
        """How far a point's rate stands above R(D) at its own distortion, in nats.

        Its error is that of R + k D, k = -dR/dD in nats of each; the covariance of R and D is read
        from their sum's error.
        """
        found = self.curve.at_distortion(self.squared_error(point["distortion"]["value"]))
        k = -found.slope * 2 * self.sigma**2
        rate, distortion, both = (
            ((point[key]["high"] - point[key]["low"]) / 2) ** 2
            for key in ("rate", "distortion", "nelbo")
        )
        half = math.sqrt(max(0.0, rate + k**2 * distortion + k * (both - rate - distortion)))
        value = point["rate"]["value"] - found.rate
        share = value / found.rate if found.rate else None
        return {
            "squared_error": found.distortion,
            "reference": found.rate,
            "excess": {"value": value, "low": value - half, "high": value + half, "share": share},
        }


def reference(run: RunConfig) -> Reference | None:
    """Reverse water-filling, where the data are linear-Gaussian and the likelihood is a Gaussian of
    fixed sigma.
    """
    sigma = getattr(run.model, "sigma", None)
    if (
        run.data.name != "linear_gaussian"
        or getattr(run.model, "likelihood", None) != "normal"
        or sigma is None
    ):
        return None
    return Reference(WaterFilling(run.data.linear_gaussian.eigenvalues.numpy()), sigma)


def of_sweep(
    reports: list[Report], betas: list[float], title: str, known: Reference | None
) -> dict[str, Any]:
    """The curve of runs that differ in beta alone, from the reports of their rate probe."""
    points = []
    for beta, report in zip(betas, reports, strict=True):
        point = (
            {"beta": beta}
            | _three(report["rate"])
            | {key: report[key] for key in ("checkpoint", "digest")}
        )
        points.append(point | (known.excess(point) if known else {}))
    estimators = (
        f"{key[0].upper()}: {reports[0]['rate'][key]['estimator']}"
        for key in ("rate", "distortion")
    )
    origin = {"name": title, "method": reports[0]["method"], "images": reports[0]["rate"]["images"]}
    return origin | {"estimator": "; ".join(estimators), "points": points}


def of_head(report: Report) -> dict[str, Any]:
    """The curve of the rate head on one checkpoint's frozen features."""
    head, origin = report["rate_head"], {key: report[key] for key in ("checkpoint", "digest")}
    points = [{"beta": point["beta"]} | _three(point) | origin for point in head["points"]]
    estimator = f"rate head, {head['likelihood']}; R: {head['estimator'].replace('; ', '; D: ')}"
    described = {
        "name": names([report])[0],
        "method": report["method"],
        "images": head["images"],
        "estimator": estimator,
    }
    return described | {"points": points, "nothing": _three(head["nothing"])}


def table(
    probe: dict[str, Any], data: str, curves: list[dict[str, Any]], known: Reference | None
) -> dict[str, Any]:
    """All curves of one picture; `probe` is the part of a report that says what they were measured
    on.
    """
    shared = {key: probe[key] for key in ("unit", "split", "dimensions")}
    return (
        {"format": FORMAT, "data": data}
        | shared
        | {"curves": curves, "reference": _drawn(known, curves) if known else None}
    )


def lines(found: dict[str, Any]) -> Table:
    """The table for the terminal: a line a point, with 95% intervals."""
    measured = any("excess" in point for curve in found["curves"] for point in curve["points"])
    caption = (
        f"{found['unit'].capitalize()}, {found['split']} split of {found['data']}, 95% intervals."
    )
    caption += (
        " R bounds I(X; Z) from above, D is a cross-entropy, D + R bounds -log p(x) from above."
    )
    caption += "".join(
        f"\n{curve['name']}: {curve['images']:,} images; {curve['estimator']}."
        for curve in found["curves"]
    )
    if measured:
        caption += f"\nR(D): {found['reference']['name']}, at the point's own squared error."
    made = Table(caption=caption, caption_justify="left", header_style="bold")
    for heading in ("curve", "β", "R", "D", "D + R") + (
        ("squared error", "R(D)", "R − R(D)", "%") if measured else ()
    ):
        made.add_column(heading, justify="left" if heading == "curve" else "right")
    for curve in found["curves"]:
        for point in [
            *([curve["nothing"]] if "nothing" in curve else []),
            *reversed(curve["points"]),
        ]:
            cells = [curve["name"], f"{point['beta']:g}" if "beta" in point else "∞"]
            cells += [
                f"{point[key]['value']:,.3f} ± {(point[key]['high'] - point[key]['low']) / 2:.3f}"
                for key in ("rate", "distortion", "nelbo")
            ]
            if "excess" in point:
                excess = point["excess"]
                cells += [f"{point['squared_error']:.4f}", f"{point['reference']:.3f}"]
                cells += [f"{excess['value']:+.3f} ± {(excess['high'] - excess['low']) / 2:.3f}"]
                cells += [f"{100 * excess['share']:+.2f}" if excess["share"] is not None else "–"]
            made.add_row(*cells)
        made.add_section()
    return made


@torch.no_grad()
def reconstruct(method: LatentModel, run: RunConfig, images: int) -> tuple[Tensor, Tensor]:
    """The first test images as the likelihood reads them and as the model gives them back from
    their posterior mean, [N, C, H, W] each.

    A likelihood that has no mean, as an autoregressive one, is sampled.
    """
    source = open_source(run.data, "test", run.seed, augmented=False)
    batch = next(
        source.batches(eval_sampler(min(images, len(source)), run.seed, purpose="pictures"), 1)
    )
    x = method.target(batch.views[0], batch.rng.uniform("dequantise", *batch.views[0].shape))
    found = method.likelihood(method.posterior(x).mean)
    try:
        return x, found.mean
    except NotImplementedError:
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            return x, found.sample()


def _three(entries: dict[str, Any]) -> dict[str, Any]:
    return {
        key: {bound: entries[key][bound] for bound in BOUNDS}
        for key in ("rate", "distortion", "nelbo")
    }


def _drawn(known: Reference, curves: list[dict[str, Any]]) -> dict[str, Any]:
    """The reference from no rate to a little beyond the largest rate found."""
    most = max(point["rate"]["high"] for curve in curves for point in curve["points"])
    found = [known.curve.at_rate(rate) for rate in np.linspace(0, 1.03 * most, SMOOTH)]
    points = [
        {
            "rate": at.rate,
            "distortion": known.distortion(at.distortion),
            "squared_error": at.distortion,
        }
        for at in found
    ]
    return {"name": "reverse water-filling", "sigma": known.sigma, "points": points}
