"""A rate-distortion curve: checkpoints as points (R, D), and R(D) of the data if it is known.

R bounds I(X; Z) from above and D = E -log p(x|z) is a cross-entropy, both in nats an image. Each
point and the whole region above the curve are achievable; a better model may lie below the curve
(Alemi et al. 2018).
The table:

    {
      "format": "twobounds-rate-distortion/1", "data": name, "unit", "split",
      "image_values": number of values of an image,
      "curves": [{"name", "method", "images", "estimator", "points": [POINT],
                  "nothing"? (of a rate head: R = 0)}],
      "reference": null | {"name", "sigma", "points": [{"rate", "distortion", "squared_error"}]}
    }
    POINT: {"beta", "rate" | "distortion" | "nelbo": {"value", "low", "high"}, "checkpoint",
            "digest", "started_from"?, "started_from_digest"? (of a warm start), "squared_error"?,
            "file"? (of the compression probe): {"images", "gross", "net", "floored"} (bits/dim),
            "reference"? (R(D) at that squared error),
            "excess"?: {"value", "low", "high", "share"} (R - R(D))}   (?: only if known)

Intervals are 95%, over the test images.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from core.data.datasets import open_source
from core.data.source import eval_sampler
from core.information.rate_distortion import WaterFilling
from core.method import LatentModel
from core.run.config import RunConfig
from probes.report.schema import Report
from probes.report.table import Table, grid, names

FORMAT = "twobounds-rate-distortion/1"
THREE = ("rate", "distortion", "nelbo")
BOUNDS = ("value", "low", "high")
FILE = ("images", "gross", "net", "floored")
SMOOTH = 200  # points of a reference curve of a sweep; the curve in a report has half as many
LEAST_BETA = 0.03


class Reference(NamedTuple):
    """R(D) of the source under squared error, with D in nats under the likelihood N(., sigma^2):

    D = squared error / (2 sigma^2) + (d / 2) log(2 pi sigma^2)
    """

    curve: WaterFilling
    sigma: float

    @property
    def constant(self) -> float:
        return 0.5 * len(self.curve.eigenvalues) * math.log(2 * math.pi * self.sigma**2)

    def drawn(self) -> list[dict[str, float]]:
        """Points of the curve, from rate 0 to the point at which a nat of rate has the price
        LEAST_BETA.
        """
        last = min(LEAST_BETA * self.sigma**2, 0.5 * float(self.curve.eigenvalues[0]))
        levels = np.geomspace(self.curve.eigenvalues[0], last, SMOOTH // 2)
        found = [self.curve.at_level(float(level)) for level in levels]
        return [
            {"rate": point.rate, "distortion": self.distortion(point.distortion)} for point in found
        ]

    def squared_error(self, distortion: float) -> float:
        """The squared error of an image, from D in nats."""
        return 2 * self.sigma**2 * (distortion - self.constant)

    def distortion(self, squared_error: float) -> float:
        """D in nats, from the squared error of an image."""
        return squared_error / (2 * self.sigma**2) + self.constant

    def excess(self, point: dict[str, Any]) -> dict[str, Any]:
        """R - R(D) at the point's own distortion, in nats.

        The error of the excess is that of R + k D with k = -dR/dD. The covariance of R and D
        follows from the error of their sum.
        """
        found = self.curve.at_distortion(self.squared_error(point["distortion"]["value"]))
        k = -found.slope * 2 * self.sigma**2
        rate, distortion, both = (
            ((point[key]["high"] - point[key]["low"]) / 2) ** 2 for key in THREE
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
    """Reverse water-filling, for linear-Gaussian data and a Gaussian likelihood of fixed sigma."""
    sigma, likelihood = (getattr(run.model, key, None) for key in ("sigma", "likelihood"))
    if (run.data.name, likelihood) != ("linear_gaussian", "normal") or sigma is None:
        return None
    return Reference(WaterFilling(run.data.linear_gaussian.eigenvalues.numpy()), sigma)


def of_sweep(
    reports: list[Report], betas: list[float], title: str, known: Reference | None
) -> dict[str, Any]:
    """The curve of runs that differ only in beta, from their reports."""
    points = []
    for beta, report in zip(betas, reports, strict=True):
        point = {"beta": beta} | _three(report["rate"]) | _origin(report)
        if "compression" in report:
            point["file"] = {key: report["compression"][key] for key in FILE}
        points.append(point | (known.excess(point) if known else {}))
    rate = reports[0]["rate"]
    estimators = f"R: {rate['rate']['estimator']}; D: {rate['distortion']['estimator']}"
    described = {"name": title, "method": reports[0]["method"], "images": rate["images"]}
    return described | {"estimator": estimators, "points": points}


def of_head(report: Report) -> dict[str, Any]:
    """The curve of the rate head on one checkpoint's frozen features."""
    head = report["rate_head"]
    estimator = f"rate head, {head['likelihood']}; R: {head['estimator'].replace('; ', '; D: ')}"
    points = [{"beta": p["beta"]} | _three(p) | _origin(report) for p in head["points"]]
    described = {"name": names([report])[0], "method": report["method"], "images": head["images"]}
    described |= {"estimator": estimator}
    return described | {"points": points, "nothing": _three(head["nothing"])}


def table(
    probe: dict[str, Any], data: str, curves: list[dict[str, Any]], known: Reference | None
) -> dict[str, Any]:
    """All curves of one picture; `probe` is the part of a report that names unit and split."""
    named = ("unit", "split", "image_values")  # the last is missing in older reports
    shared = {key: probe[key] for key in named if key in probe}
    reference = _drawn(known, curves) if known else None
    return {"format": FORMAT, "data": data, **shared, "curves": curves, "reference": reference}


def lines(found: dict[str, Any]) -> Table:
    """The table for the terminal: a line for each point, with 95% intervals."""
    curves = found["curves"]
    measured = any("excess" in point for curve in curves for point in curve["points"])
    caption = f"{found['unit'].capitalize()}, {found['split']} split of {found['data']}, 95%"
    caption += " intervals. R bounds I(X; Z) from above, D is a cross-entropy, and D + R bounds"
    caption += " -log p(x) from above."
    for curve in curves:
        caption += f"\n{curve['name']}: {curve['images']:,} images; {curve['estimator']}."
    head = ["curve", "β", "R", "D", "D + R"]
    if measured:
        caption += f"\nR(D): {found['reference']['name']}, at the point's own squared error."
        head += ["squared error", "R(D)", "R − R(D)", "%"]
    filed = any("file" in point for curve in curves for point in curve["points"])
    if filed:
        caption += "\nFile: bits/dim of a lossless file (bits-back). In the D + R beside it, no"
        caption += " value costs more than 24 bits, as in the file."
        head += ["file", "D + R"]
    rows: list[list[str] | None] = []
    for curve in curves:
        nothing = [curve["nothing"]] if "nothing" in curve else []
        for point in [*nothing, *reversed(curve["points"])]:
            cells = [curve["name"], f"{point['beta']:g}" if "beta" in point else "∞"]
            cells += [f"{point[key]['value']:,.3f} ± {_half(point[key]):.3f}" for key in THREE]
            if "excess" in point:
                excess = point["excess"]
                cells += [f"{point['squared_error']:.4f}", f"{point['reference']:.3f}"]
                cells += [f"{excess['value']:+.3f} ± {_half(excess):.3f}"]
                cells += [f"{100 * excess['share']:+.2f}" if excess["share"] is not None else "–"]
            if filed:
                cells += ["–"] * (len(head) - 2 - len(cells))
                file = point.get("file")
                cells += [f"{file[key]:.4f}" if file else "–" for key in ("gross", "floored")]
            rows.append(cells)
        rows.append(None)
    return grid(head, rows, ("curve",), caption=caption)


def _half(entry: dict[str, float]) -> float:
    return (entry["high"] - entry["low"]) / 2


@torch.no_grad()
def reconstruct(method: LatentModel, run: RunConfig, images: int) -> tuple[Tensor, Tensor]:
    """The first test images, and their reconstructions from the posterior mean, [N, C, H, W] each.

    A likelihood without a mean, such as an autoregressive one, is sampled.
    """
    source = open_source(run.data, "test", run.seed, augmented=False)
    sampler = eval_sampler(min(images, len(source)), run.seed, purpose="pictures")
    batch = next(source.batches(sampler, 1))
    x = method.target(batch.views[0], batch.rng.uniform("dequantise", *batch.views[0].shape))
    found = method.likelihood(method.posterior(x).mean)
    try:
        return x, found.mean
    except NotImplementedError:
        with torch.random.fork_rng():
            torch.manual_seed(run.seed)
            return x, found.sample()


def _three(entries: dict[str, Any]) -> dict[str, Any]:
    return {key: {bound: entries[key][bound] for bound in BOUNDS} for key in THREE}


def _origin(report: Report) -> dict[str, Any]:
    return {key: report[key] for key in ("checkpoint", "digest")}


def _drawn(known: Reference, curves: list[dict[str, Any]]) -> dict[str, Any]:
    """The reference from R = 0 to slightly above the largest rate of a point."""
    most = max(point["rate"]["high"] for curve in curves for point in curve["points"])
    points = []
    for rate in np.linspace(0, 1.03 * most, SMOOTH):
        at = known.curve.at_rate(rate)
        distortion = known.distortion(at.distortion)
        named = {"rate": at.rate, "distortion": distortion, "squared_error": at.distortion}
        points.append(named)
    return {"name": "reverse water-filling", "sigma": known.sigma, "points": points}
