"""The report of a checkpoint: one schema, written to probe.json and printed as one table.

    {
      "format": "twobounds-probe/1",
      "checkpoint": path, "digest": sha256, "method": name, "step": int, "data": name, "seed": int,
      "linear":      {"top1", "information" (H(Y) - CE, nats), "top1/FACTOR", "information/FACTOR", "lambda/FACTOR"},
      "knn":         {"knn200": {"top1", "top1/FACTOR", "k", "temperature"}, "knn20": {...}},
      "information": {"quantity", "estimator", "side", "split", "unit", "images", "copies_left_out", "augmentation",
                      "truth" (nats or null),
                      "critics": {NAME: {"temperature", "scale", "cap", "verdict",
                                         "sweep": [{"K", "candidates", "loss", "bound", "low", "high", "ceiling", "best_possible"?}]}}},
      "geometry":    {"split", "images", "augmentation", "lidar_images"?, "lidar_views"?, "sentence"? (where something has collapsed),
                      "features" | "codes" (of a method that has them):
                          {"dimensions", "uniformity", "effective_rank" (RankMe), "deviation", "least_deviation",
                           "dead_dimensions" (share), "alignment"?, "lidar"?}}  (? where two views of an image differ)
      "rate":        {"quantity", "split", "unit", "images", "dimensions", "ceiling", "active_units", "latent_dimensions",
                      "rate" | "distortion" | "nelbo" | "lower" | "upper": {"value", "low", "high", "bits_per_dim"?, "estimator", "side"},
                      "marginal_kl" | "total_correlation" | "dimension_wise_kl": {"quantity", "low", "high"},
                      "dimension_rates"? [nats of each dimension], "sentence"? (where the code has collapsed),
                      "on_these_images": {"quantity", "images",
                                          "rate" | "information" | "total_correlation" | "dimension_wise_kl": {"value", "low", "high"}}},
                     (of a VAE only; bits_per_dim where pixels are discrete; dimension_wise_kl and dimension_rates where the prior is a
                     product of normals)
      "disentanglement": {"split", "images", "train_images", "dimensions", "factors", "mig", "sap", "disentanglement", "completeness",
                      "informativeness" (these three: DCI), "estimators"}                     (where there are two factors or more)
      "likelihood":  {"quantity", "split", "unit", "images", "dimensions", "k", "effective_samples",
                      "nelbo" | "importance_weighted": as in "rate", "gain": {"value", "low", "high"},
                      "sweep": [{"k", "value", "low", "high"}]}                               (of a VAE, where asked for by name)
      "ais":         {"quantity", "split", "unit", "images", "dimensions", "steps", "chains", "schedule", "transition", "accepted",
                      "nelbo" | "annealed": as in "rate", "gain": {"value", "low", "high"}}   (of a VAE, where asked for by name)
      "rate_head":   {"quantity", "likelihood", "estimator", "side", "split", "unit", "images", "train_images", "dimensions",
                      "latent_dimensions", "points": [{"beta", POINT}], "nothing": {POINT}}          (where asked for by name)
                     POINT: "rate" | "distortion" | "nelbo": {"value", "low", "high"}, "bits_per_dim" (of nelbo)
    }

A probe that was not asked for is absent. Intervals are 95%.
"""

from core.errors import UserError
from core.information.bounds import Estimate
from core.run.checkpoint import write_atomically

import json
import math
from pathlib import Path
from typing import Any

from rich.table import Table

FORMAT = "twobounds-probe/1"
Report = dict[str, Any]


def bounds(estimate: Estimate) -> dict[str, float]:
    """An estimate and its interval, as a report holds them."""
    return {"value": estimate.mean, "low": estimate.low, "high": estimate.high}


def entry(estimate: Estimate, estimator: str, side: str, values: int | None) -> dict[str, Any]:
    """An estimate in nats an image and what it is; of an image of that many discrete `values`, in
    bits a dimension too.
    """
    bits = {"bits_per_dim": estimate.mean / values / math.log(2)} if values else {}
    return bounds(estimate) | bits | {"estimator": estimator, "side": side}


def save(report: Report, path: Path) -> None:
    """Write a report atomically."""
    write_atomically(
        path,
        lambda temporary: temporary.write_text(json.dumps(report, indent=1, default=str) + "\n"),
    )


def load(path: Path) -> Report:
    """A report from its file; `UserError` where it is none."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError):
        raise UserError(f"{path}: damaged or no report; run scripts/probe.py again") from None
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise UserError(f"{path}: not a report of the format {FORMAT}; run scripts/probe.py again")
    return report


def with_earlier(report: Report, path: Path) -> Report:
    """A report with the probes that an earlier call ran on the same weights, data and seed and this
    one did not ask for.
    """
    try:
        earlier = load(path)
    except UserError:
        return report
    same = all(earlier.get(key) == report[key] for key in ("digest", "data", "seed"))
    return {**earlier, **report} if same else report


def name(report: Report) -> str:
    """What a checkpoint is called in tables and pictures: its run folder."""
    path = Path(report["checkpoint"])
    return path.parent.name if path.stem == "last" else f"{path.parent.name}/{path.stem}"


def best_critic(report: Report) -> tuple[str, dict[str, Any]] | None:
    """The critic that headlines a checkpoint: the common one, the same reader for every family.
    Test values choose nothing.
    """
    critics = report.get("information", {}).get("critics", {})
    return next(((key, critics[key]) for key in ("common", "native") if key in critics), None)


HEAD = (
    "checkpoint",
    "method",
    "linear %",
    "kNN %",
    "label nats",
    "I(V1;V2) ≥ (nats)",
    "verdict",
    "≤ I(X;Z) ≤ (nats)",
    "R (nats)",
    "D + R (nats)",
)


def row(report: Report) -> list[str]:
    """One checkpoint as a line of the table."""
    linear, knn, rate, critic = (
        report.get("linear"),
        report.get("knn"),
        report.get("rate"),
        best_critic(report),
    )
    cells = [name(report), report["method"].split(".")[-1]]
    cells += [
        f"{100 * linear['top1']:.1f}" if linear else "–",
        f"{100 * knn['knn200']['top1']:.1f}" if knn else "–",
    ]
    cells += [f"{linear['information']:.2f}" if linear else "–"]
    if critic:
        last = critic[1]["sweep"][-1]
        cells += [
            f"{last['bound']:.2f} ± {last['high'] - last['bound']:.2f} ({critic[0]},"
            f" K={last['K']:,})",
            critic[1]["verdict"],
        ]
    else:
        cells += ["–", "–"]
    if rate:
        top = min(rate["upper"]["value"], rate["rate"]["value"])
        cells += [
            f"{rate['lower']['value']:.2f} … {top:.2f}",
            f"{rate['rate']['value']:.2f}",
            f"{rate['nelbo']['value']:,.1f}",
        ]
    else:
        cells += ["–", "–", "–"]
    return cells


def table(reports: list[Report]) -> Table:
    """All checkpoints in one table. I(V1; V2) and I(X; Z) are different quantities and stand in
    different columns.
    """
    truths = {report["information"]["truth"] for report in reports if report.get("information")} - {
        None
    }
    caption = "Nats, test split, 95% intervals. InfoNCE bounds I(V1;V2) from below; R bounds I(X;Z) from above: different quantities."
    if len(truths) == 1:
        truth = truths.pop()
        caption += f" The truth is I(V1;V2) = {truth:.3f} nats = {truth / math.log(2):.2f} bits."
    made = Table(caption=caption, caption_justify="left", header_style="bold")
    for heading in HEAD:
        made.add_column(
            heading, overflow="fold", justify="left" if heading in HEAD[:2] else "right"
        )
    for report in reports:
        made.add_row(*row(report))
    return made


def numbers(report: Report) -> dict[str, float]:
    """The headline numbers by name, for a log."""
    found = {f"linear/{key}": value for key, value in report.get("linear", {}).items()}
    found |= {preset: values["top1"] for preset, values in report.get("knn", {}).items()}
    found |= {
        f"infonce/{key}": critic["sweep"][-1]["bound"]
        for key, critic in report.get("information", {}).get("critics", {}).items()
    }
    for space in {"features", "codes"} & report.get("geometry", {}).keys():
        found |= {
            f"geometry/{space}/{key}": value for key, value in report["geometry"][space].items()
        }
    if rate := report.get("rate"):
        found |= {
            key: rate[key]["value"] for key in ("rate", "distortion", "nelbo", "lower", "upper")
        }
        found |= {"active_units": rate["active_units"]}
        found |= {
            f"on_these_images/{key}": part["value"]
            for key, part in rate.get("on_these_images", {}).items()
            if isinstance(part, dict)
        }
    scores = ("mig", "sap", "disentanglement", "completeness", "informativeness")
    found |= {
        f"disentanglement/{key}": report["disentanglement"][key]
        for key in scores
        if "disentanglement" in report
    }
    for probe, key in (("likelihood", "importance_weighted"), ("ais", "annealed")):
        found |= {
            f"{probe}/{side}": report[probe][side]["value"]
            for side in ("nelbo", key)
            if probe in report
        }
    return found | {
        f"rate_head/{key}_beta{point['beta']:g}": point[key]["value"]
        for point in report.get("rate_head", {}).get("points", [])
        for key in ("rate", "distortion")
    }
