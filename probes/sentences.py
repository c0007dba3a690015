"""A report in plain sentences, for the terminal."""

import math
from typing import Any

from probes.report import Report, name

BOUNDS = {
    "likelihood": "importance_weighted",
    "ais": "annealed",
}  # a probe -> its bound that is tighter than the ELBO


def details(report: Report) -> list[str]:
    """Plain sentences about one checkpoint, for the terminal."""
    lines = [f"{name(report)}: {report['method']} at step {report['step']}, data {report['data']}"]
    for critic, found in report.get("information", {}).get("critics", {}).items():
        last = found["sweep"][-1]
        best = f", best possible {last['best_possible']:.3f}" if "best_possible" in last else ""
        lines.append(
            f"  InfoNCE, {critic} critic (T = {found['temperature']:.3f}): I(V1;V2) ≥"
            f" {last['bound']:.3f} [{last['low']:.3f}, {last['high']:.3f}] nats"
            f" at K = {last['K']:,}; ceiling log C = {last['ceiling']:.2f}, cosine cap"
            f" {found['cap']:.2f}{best}: {found['verdict']}"
        )
    lines += geometry_lines(report["geometry"]) if "geometry" in report else []
    if rate := report.get("rate"):
        r, d, lower, upper, kl = (
            rate["rate"],
            rate["distortion"],
            rate["lower"],
            rate["upper"],
            rate["marginal_kl"],
        )
        total, high = rate["nelbo"], min(upper["value"], r["value"])
        lines += [
            f"  R = {r['value']:.3f}, D = {d['value']:,.2f}, D + R = {total['value']:,.2f}"
            f" nats{bits(total, 3)}",
            f"  {lower['value']:.3f} ≤ I(X;Z) ≤ {high:.3f} (leave-one-out {upper['value']:.3f}, R"
            f" {r['value']:.3f};"
            f" ceiling of the lower bound {rate['ceiling']:.2f})",
            f"  {kl['low']:.3f} ≤ KL(q(z)‖p(z)) ≤ {kl['high']:.3f};"
            f" {rate['active_units']} of {rate['latent_dimensions']} units active",
            *([parts_line(rate)] if "total_correlation" in rate else []),
            *([f"  {rate['sentence']}"] if "sentence" in rate else []),
        ]
    lines += [
        likelihood_line(report[probe], key) for probe, key in BOUNDS.items() if probe in report
    ]
    if scores := report.get("disentanglement"):
        lines += [
            f"  MIG {scores['mig']:.3f}, SAP {scores['sap']:.3f}; DCI: disentanglement"
            f" {scores['disentanglement']:.3f}, completeness"
            f" {scores['completeness']:.3f}, informativeness {scores['informativeness']:.3f}; of"
            f" {', '.join(scores['factors'])}"
        ]
    if head := report.get("rate_head"):
        curve = [
            ("nothing kept", head["nothing"]),
            *((f"β {point['beta']:g}", point) for point in reversed(head["points"])),
        ]
        lines += [
            f"  rate head on {head['train_images']:,} images, {head['likelihood']}, R / D in nats: "
            + " · ".join(
                f"{label} {point['rate']['value']:.2f} / {point['distortion']['value']:,.1f}"
                for label, point in curve
            )
        ]
    return lines


def bits(found: dict[str, Any], digits: int) -> str:
    """ " (… bits/dim)" of what has them: discrete pixels."""
    return f" ({found['bits_per_dim']:.{digits}f} bits/dim)" if "bits_per_dim" in found else ""


def geometry_lines(found: dict[str, Any]) -> list[str]:
    """One line for the features, one for the codes, and one where something has collapsed."""
    lines = []
    for space in ("features", "codes"):
        if values := found.get(space):
            pair = (
                f", LiDAR {values['lidar']:.1f}; alignment {values['alignment']:.3f}"
                if "lidar" in values
                else ""
            )
            lines.append(
                f"  geometry of {space}: effective rank {values['effective_rank']:.1f} of"
                f" {values['dimensions']}{pair},"
                f" uniformity {values['uniformity']:.2f}, deviation {values['deviation']:.2f} of 1"
            )
    return lines + ([f"  {found['sentence']}"] if "sentence" in found else [])


def parts_line(rate: dict[str, Any]) -> str:
    """Where the rate goes: of all images between bounds, of the images that were read in
    numbers.
    """
    parts = rate["on_these_images"]
    names = {"total_correlation": "total correlation", "dimension_wise_kl": "dimension-wise KL"}
    of_all = ", ".join(
        f"{rate[key]['low']:.3f} ≤ {word} ≤ {rate[key]['high']:.3f}"
        for key, word in names.items()
        if key in rate
    )
    sums = " + ".join(
        f"{word} {parts[key]['value']:.3f}"
        for key, word in ({"information": "I"} | names).items()
        if key in parts
    )
    whole = (
        f"R {parts['rate']['value']:.3f} = {sums}"
        if "dimension_wise_kl" in parts
        else sums.replace(" +", ",")
    )
    capped = parts["information"]["value"] > math.log(parts["images"]) - 1
    note = (
        "; I is at its ceiling log n, and what exceeds it is counted to the total correlation"
        if capped
        else ""
    )
    return f"  {of_all}; of these {parts['images']:,} images alone: {whole}{note}"


def likelihood_line(found: dict[str, Any], key: str) -> str:
    """The ELBO first: it is what a code pays; then the tighter bound and how it was made."""
    elbo, bound = found["nelbo"], found[key]
    how = (
        f"{found['effective_samples']:.1f} effective"
        if key == "importance_weighted"
        else f"{100 * found['accepted']:.0f} % accepted"
    )
    return (
        f"  −log p(x) ≤ {elbo['value']:,.2f} by the ELBO, ≤ {bound['value']:,.2f}"
        f" [{bound['low']:,.2f}, {bound['high']:,.2f}] nats"
        f"{bits(bound, 4)}, {bound['estimator']}, {found['images']:,} images;"
        f" {found['gain']['value']:.2f} below the ELBO, {how}"
    )
