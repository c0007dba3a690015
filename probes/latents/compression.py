"""The length of a lossless file of a VAE (bits-back coding), beside D + R and beside other formats.

n = images, d = values of an image.
"""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from core.data.source import eval_sampler
from core.errors import Unmeasurable, UserError
from core.frozen import Frozen
from core.machine import in_words
from core.method import Compressible, LatentModel
from probes.latents.baselines import Images, baselines
from probes.probe import Found, Numbers, Probe, Value

BLOCK = 4096  # images of a block of the file
SAMPLES = 4  # codes of an image, for D + R


@torch.no_grad()
def compression(method: Compressible, images: Images) -> Numbers:
    """Compress images [n, C, H, W] (uint8), decompress them, and compare lengths, in bits/dim.

        net   = (-log2 p(x|z) - log2 p(z) + log2 q(z|x)) / d   at the codes of the file
        gross = the file's bytes: net, start-up bits, headers and checksums;   E net = D + R

    Raises `UserError` if the model has no codec. Townsend, Bird, Barber 2019.
    """
    codec = method.compressor()
    values = images.size
    own = codec.bound(images, samples=SAMPLES)
    began, busy = time.perf_counter(), time.process_time()
    data, moved = codec.pack(images, BLOCK)
    coded, coding = time.perf_counter() - began, time.process_time() - busy
    began, busy = time.perf_counter(), time.process_time()
    exact = bool(np.array_equal(codec.unpack(data), images))
    decoded, decoding = time.perf_counter() - began, time.process_time() - busy
    if not exact:
        raise Unmeasurable("the file did not give its images back; please report this")
    per_image = math.prod(images.shape[1:])
    bound, floored = (own.d + own.r) / per_image, (own.floored + own.r) / per_image
    net, gross = moved.net / values, 8 * len(data) / values
    return {
        "quantity": "length of a lossless file", "unit": "bits/dim", "split": "test",
        "images": len(images), "image_values": per_image,
        "bound": bound, "floored": floored, "net": net, "gross": gross,
        "overhead_percent": 100 * (gross / bound - 1),
        "bytes": len(data), "start_bits": int(moved.start),
        "bits": {"popped": float(moved.popped), "pixels": float(moved.pixels),
                 "prior": float(moved.prior)},
        "encode": _speed(coded, coding, values), "decode": _speed(decoded, decoding, values),
        "machine": in_words(), "threads": torch.get_num_threads(),
        "baselines": [
            {"name": one["name"]} | {key: 8 * one[key] / values for key in ("each", "mosaic")}
            for one in baselines(images)
        ],
    }  # fmt: skip


def _speed(seconds: float, busy: float, values: int) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": busy, "million_values_a_second": values / busy / 1e6}


def held_out_images(frozen: Frozen, most: int) -> Images:
    """Test images, evenly spread, as the likelihood reads them: grey values that a Bernoulli model
    reads are binarised once, with random numbers that depend on the probe's seed.
    """
    method, source = frozen.method, frozen.source("test")
    assert isinstance(method, LatentModel)
    sampler = eval_sampler(len(source), frozen.seed, 512, "cpu", "compression", most)
    parts = []
    for batch in source.batches(sampler, 1):
        image = batch.views[0]
        x = method.target(image, batch.rng.uniform("dequantise", *image.shape))
        parts.append((x * 255).round().to(torch.uint8).cpu().numpy())
    return np.concatenate(parts)


class CompressionProbe(Probe):
    """The length of a lossless file, made by bits-back coding."""

    name = "compression"
    summary = "bits/dim of a lossless file (bits-back) beside D + R, PNG, WebP, xz (VAEs)"
    on_request = True
    options = {"images": 1000}
    columns = ("file (bits/dim)",)
    schema = """
        "quantity", "unit", "split", "images", "image_values", "bound" (D + R), "floored" (D + R
        if no value costs more than 24 bits, as in the file), "net", "gross",
        "overhead_percent" (gross over bound), "bytes", "start_bits",
        "bits": {"popped", "pixels", "prior"} (of all images), "machine", "threads",
        "encode" | "decode": {"seconds", "cpu_seconds", "million_values_a_second" (of CPU time)},
        "baselines": [{"name", "each", "mosaic"}] (bits/dim: one by one, as one picture)"""

    def requires(self, frozen: Frozen) -> str:
        if not isinstance(frozen.method, Compressible):
            return f"{frozen.run.method} has no codec"
        try:
            frozen.method.compressor()
        except UserError as error:
            return str(error)
        return ""

    def measure(self, frozen: Frozen, **options: int) -> Found:
        assert isinstance(frozen.method, Compressible)
        return Found(compression(frozen.method, held_out_images(frozen, options["images"])))

    def cells(self, numbers: Numbers) -> list[str]:
        return [f"{numbers['gross']:.4f}"]

    def values(self, numbers: Numbers) -> list[Value | str]:
        return [Value(numbers["gross"], digits=4)]

    def headline(self, numbers: Numbers) -> dict[str, float]:
        return {f"compression/{key}": numbers[key] for key in ("gross", "net", "bound")}

    def sentences(self, numbers: Numbers) -> list[str]:
        others = ", ".join(
            f"{one['name']} {one['each']:.3f} ({one['mosaic']:.3f})" for one in numbers["baselines"]
        )
        bound, floor = numbers["bound"], ""
        if abs(numbers["floored"] / bound - 1) > 1e-3:
            floor = f", or {numbers['floored']:.4f} if no value costs more than 24 bits"
        speeds = " and ".join(
            f"{key}d at {numbers[key]['million_values_a_second']:.2f}"
            for key in ("encode", "decode")
        )
        return [
            f"a lossless file of {numbers['images']:,} images has {numbers['gross']:.4f} bits/dim"
            f" (net {numbers['net']:.4f}, D + R {bound:.4f}{floor}, overhead"
            f" {numbers['overhead_percent']:+.2f} %); every image came back",
            f"beside it, one by one (as one mosaic): {others}",
            f"{speeds} million values a second of CPU time; {numbers['machine']}",
        ]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        return {"compression": draw(found.numbers, folder / "compression.png")}


def draw(numbers: dict[str, Any], path: Path) -> Path:
    """Bars of bits/dim: the file, and the other formats one by one and as a mosaic."""
    rows = [("this model", numbers["gross"], numbers["gross"])]
    rows += [(one["name"], one["each"], one["mosaic"]) for one in numbers["baselines"]]
    names, each, together = zip(*rows, strict=True)
    figure = Figure(figsize=(6.4, 0.5 * len(rows) + 1.2), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(rows))
    colours = ["#1f77b4"] + ["#999999"] * (len(rows) - 1)
    axes.barh(places, together, 0.7, color=colours)
    axes.scatter(each[1:], places[1:], marker="|", s=160, color="black", label="one by one")
    axes.axvline(numbers["bound"], color="#d62728", linestyle="--", label="D + R")
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    for place, value in zip(places, together, strict=True):
        axes.annotate(f" {value:.3f}", (value, place), va="center", fontsize=8)
    axes.set_xlabel(f"bits/dim, {numbers['images']:,} test images (bars: as one file)")
    axes.margins(x=0.12)
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=150)
    return path
