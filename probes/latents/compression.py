"""The length of a lossless file of a VAE (bits-back coding), compared with D + R and other formats.

n = images, d = values of an image.
"""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from core.data.source import eval_sampler
from core.errors import Unmeasurable, UserError
from core.frozen import Frozen
from core.machine import in_words
from core.method import Compressible, Compressor, LatentModel
from core.run.pictures import save_grid
from probes.latents.baselines import Images, baselines
from probes.probe import Found, Numbers, Probe, Value
from probes.report import compression_figures as figures

BLOCK = 4096  # images of a block of the file
SAMPLES = 4  # codes of an image, for D + R
MOVED = 10  # images whose bits are listed one by one
PARTIAL, SHOWN = 100, 8  # images decoded from a part of the code; how many of them are shown


@torch.no_grad()
def compression(method: Compressible, images: Images) -> Numbers:
    """Compress images [n, C, H, W] (uint8), decompress them, and compare lengths, in bits/dim.

        net      = (-log2 p(x|z) - log2 p(z) + log2 q(z|x)) / d   as the file codes it
        at_codes = the same by the model's densities, at the codes in the file
        gross    = the file's bytes: net, start-up bits, headers and checksums

    E net = D + R, where D is computed as in the file: no value costs more than 24 bits ("floored").
    The file has only one code of each image, so net differs from this D + R by chance; "net_error"
    is the standard error of the difference. Raises `UserError` if the model has no codec. Townsend,
    Bird, Barber 2019.
    """
    codec = method.compressor()
    values = images.size
    own = codec.bound(images, samples=SAMPLES)
    began, busy = time.perf_counter(), time.process_time()
    data, moved, codes = codec.pack(images, BLOCK)
    coded, coding = time.perf_counter() - began, time.process_time() - busy
    began, busy = time.perf_counter(), time.process_time()
    exact = bool(np.array_equal(codec.unpack(data), images))
    decoded, decoding = time.perf_counter() - began, time.process_time() - busy
    if not exact:
        raise Unmeasurable("the decompressed images differ from the originals; please report this")
    per_image = math.prod(images.shape[1:])
    bound, floored = (own.d + own.r) / per_image, (own.floored + own.r) / per_image
    net, gross = moved.net / values, 8 * len(data) / values
    return {
        "quantity": "length of a lossless file", "unit": "bits/dim", "split": "test",
        "images": len(images), "image_values": per_image,
        "bound": bound, "floored": floored, "net": net, "gross": gross,
        "net_error": own.error / per_image,
        "at_codes": float(codec.at_codes(images, codes).sum()) / values,
        "overhead_percent": 100 * (gross / bound - 1),
        "bytes": len(data), "start_bits": int(moved.start),
        "bits": {"popped": float(moved.popped), "pixels": float(moved.pixels),
                 "prior": float(moved.prior)},
        "encode": _speed(coded, coding, values), "decode": _speed(decoded, decoding, values),
        "machine": in_words(), "threads": torch.get_num_threads(),
        "sizes": [*_shorter(codec, images), {"images": len(images), "gross": gross}],
        "moves": codec.moves(images[:MOVED]),
        "baselines": [
            {"name": one["name"]} | {key: 8 * one[key] / values for key in ("each", "mosaic")}
            for one in baselines(images)
        ],
    }  # fmt: skip


def _shorter(codec: Compressor, images: Images) -> Iterator[dict[str, float]]:
    """Files of the first 1, 10, 100 ... images, fewer than all."""
    count = 1
    while count < len(images):
        some = images[:count]
        yield {"images": count, "gross": 8 * len(codec.pack(some, BLOCK)[0]) / some.size}
        count *= 10


@torch.no_grad()
def latents_alone(method: Compressible, images: Images) -> Found:
    """What a receiver knows when it has read only the first dimensions of the codes: numbers
    "partial", and pictures [stops, n, C, H, W] of the first images. A stop is a number of
    dimensions that were read.
    """
    found = method.compressor().partial(images[:PARTIAL])
    pictures = [part.pop("pictures")[:SHOWN] for part in found]
    return Found({"partial": found}, {"partial": np.stack(pictures)})


def _speed(seconds: float, busy: float, values: int) -> dict[str, float]:
    return {"seconds": seconds, "cpu_seconds": busy, "million_values_a_second": values / busy / 1e6}


def held_out_images(frozen: Frozen, most: int) -> Images:
    """Test images, evenly spread, as the likelihood reads them: for a Bernoulli model, grey
    values are binarised once, with random numbers that depend on the probe's seed.
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
    charted = ("compression_stops",)  # the page cuts this picture into rows
    schema = """
        "quantity", "unit", "split", "images", "image_values", "bound" (D + R), "floored" (D + R
        if no value costs more than 24 bits, as in the file), "net", "gross",
        "net_error" (standard error of net - floored), "at_codes" (length by the model's densities
        at the codes of the file), "overhead_percent" (gross over bound), "bytes", "start_bits",
        "bits": {"popped", "pixels", "prior"} (of all images), "machine", "threads",
        "sizes": [{"images", "gross"}] (files of the first images),
        "moves": [{"image" (its place), "start", "popped", "pixels", "prior", "net", "content" (of
        the stack after this image), "d", "r"}] (bits; ten images, in the order of coding),
        "partial": [{"dimensions", "written", "rate", "distortion"}] (bits an image, from the
        first dimensions of the codes alone),
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
        images = held_out_images(frozen, options["images"])
        alone = latents_alone(frozen.method, images)
        numbers = compression(frozen.method, images) | alone.numbers
        return Found(numbers, alone.arrays | {"images": images[: max(MOVED, SHOWN)]})

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
            f" {numbers['overhead_percent']:+.2f} %); every image was restored exactly",
            *self._identity(numbers),
            f"other formats in bits/dim, one by one (as one mosaic): {others}",
            f"{speeds} million values per second of CPU time; {numbers['machine']}",
        ]

    def _identity(self, numbers: Numbers) -> list[str]:
        """How much the net length differs from the length by the model's densities at the same
        codes, and from D + R. Older reports do not have these numbers.
        """
        if "at_codes" not in numbers:
            return []
        floored = numbers["floored"]
        here, mean, error = (
            100 * value
            for value in (
                numbers["net"] / numbers["at_codes"] - 1,
                numbers["net"] / floored - 1,
                numbers["net_error"] / floored,
            )
        )
        return [
            f"net differs by {here:+.3f} % from the length by the model's densities at the same"
            f" codes, and by {mean:+.3f} % ± {1.96 * error:.3f} (95 %) from D + R, where no value"
            " costs more than 24 bits"
        ]

    def figures(self, found: Found, frozen: Frozen, folder: Path) -> dict[str, Path]:
        numbers, images = found.numbers, found.arrays["images"]
        return {
            "compression": figures.formats(numbers, folder / "compression.png"),
            "compression_chain": figures.chain(numbers, folder / "compression_chain.png"),
            "compression_moves": figures.moves(
                numbers, images, folder / "compression_moves.png"
            ),
            "compression_partial": figures.partial(
                numbers, images, found.arrays["partial"], folder / "compression_partial.png"
            ),
            "compression_stops": save_grid(
                folder / "compression_stops.png", _rows(images, found.arrays["partial"])
            ),
        }  # fmt: skip


def _rows(images: Images, pictures: Images) -> list[torch.Tensor]:
    """A row of images in [0, 1]; then, for each stop, a row of images decoded from the first
    dimensions alone.
    """
    shown = torch.from_numpy(images[: pictures.shape[1]].astype(np.float32) / 255)
    return [shown, *torch.from_numpy(pictures).float().clamp(0, 1)]
