"""The probe of compression: sizes of files beside D + R and beside common image formats."""

import io
import json
import math
import types

import numpy as np
import pytest
import torch
from PIL import Image

from core.frozen import Frozen
from core.run import config
from probes.latents.baselines import baselines, jpeg_xl, mosaic, saved, xz
from probes.latents.compression import CompressionProbe, compression, held_out_images
from vae.beta import BetaVAE, BetaVAEConfig

SMALL = {"backbone": "mlp", "decoder": "mlp", "width": 8, "latent": 4}


def frozen(likelihood: str) -> Frozen:
    run = config.RunConfig(
        method="vae.beta.BetaVAE",
        model=BetaVAEConfig(**SMALL, likelihood=likelihood),
        folder="unused",
        data=config.DataConfig(sprites=config.DataConfig().sprites.__class__(test=32)),
        wandb=config.WandbConfig("disabled"),
    )
    torch.manual_seed(0)
    return Frozen(BetaVAE(run.model, (3, 32, 32)), run)


def test_the_file_is_as_long_as_d_plus_r_says(tmp_path):
    probe, given = CompressionProbe(), frozen("bernoulli")
    assert probe.requires(given) == ""
    found = probe.measure(given, images=24)
    numbers = json.loads(json.dumps(found.numbers))  # plain values for a report
    assert numbers["images"] == 24 and numbers["image_values"] == 3072
    assert numbers["net"] == pytest.approx(numbers["floored"], rel=5e-3)
    assert numbers["floored"] == pytest.approx(numbers["bound"], rel=1e-4)
    assert numbers["net"] < numbers["gross"] < 1.02 * numbers["net"]
    assert numbers["gross"] == 8 * numbers["bytes"] / (24 * 3072)
    moved = numbers["bits"]
    net = moved["pixels"] + moved["prior"] - moved["popped"]
    assert numbers["net"] == pytest.approx(net / (24 * 3072))
    assert [len(probe.cells(numbers)), len(probe.values(numbers))] == [1, 1]
    said = "\n".join(probe.sentences(numbers))
    assert f"{numbers['gross']:.4f} bits/dim" in said and "every image was restored exactly" in said
    assert numbers["net"] == pytest.approx(numbers["at_codes"], rel=1e-3)
    assert abs(numbers["net"] - numbers["floored"]) < 4 * numbers["net_error"]
    assert "from the length by the model's densities" in said
    of_ten_images_and_of_fewer(numbers)
    pictures = probe.figures(found, given, tmp_path)
    assert len(pictures) == 5
    stops = Image.open(pictures["compression_stops"])
    assert (
        stops.size[1] > len(found.numbers["partial"]) * 8 and "compression_stops" in probe.charted
    )
    del pictures["compression_stops"]
    assert all(Image.open(picture).size[0] > 500 for picture in pictures.values())


def of_ten_images_and_of_fewer(numbers: dict) -> None:
    """The bits of ten images, and files of fewer images."""
    rows = numbers["moves"]
    assert [row["image"] for row in rows] == list(range(9, -1, -1))
    for row in rows:
        assert row["net"] == pytest.approx(row["pixels"] + row["prior"] - row["popped"])
        assert row["net"] == pytest.approx(row["d"] + row["r"], rel=0.1)
    assert rows[0]["start"] > 0 == rows[-1]["start"]
    assert rows[-1]["content"] > rows[0]["content"]
    sizes = numbers["sizes"]
    assert [one["images"] for one in sizes] == [1, 10, 24]
    assert sizes[0]["gross"] > sizes[1]["gross"] > sizes[2]["gross"] == numbers["gross"]


def test_grey_images_of_a_binary_model_are_binarised_once():
    images = held_out_images(frozen("bernoulli"), 8)
    assert set(np.unique(images)) == {0, 255} and images.shape == (8, 3, 32, 32)
    assert (images == held_out_images(frozen("bernoulli"), 8)).all()
    grey = held_out_images(frozen("logistic"), 8)
    assert len(np.unique(grey)) > 2


def test_a_model_without_a_codec_says_why():
    assert "normal is a density" in CompressionProbe().requires(frozen("normal"))


def test_an_image_that_does_not_come_back_is_no_number():
    class Lossy:
        def __getattr__(self, name):
            return getattr(codec, name)

        def unpack(self, data):
            return codec.unpack(data) // 2

    given = frozen("logistic")
    codec = given.method.compressor()
    given.method.compressor = Lossy
    with pytest.raises(Exception, match="decompressed images differ"):
        compression(given.method, held_out_images(given, 3))


def test_baselines_are_what_the_formats_need():
    rng = np.random.default_rng(0)
    images = (rng.random((10, 1, 20, 12)) > 0.8).astype(np.uint8) * 255
    found = {one["name"]: one for one in baselines(images)}
    assert found.keys() >= {"PNG", "WebP", "zlib", "xz", "bz2"}
    together = mosaic(images)
    assert together.shape == (1, 3 * 20, 5 * 12) or together.shape[1] * together.shape[2] >= 2400
    assert (together[0, :20, 12:24] == images[1, 0]).all()
    entropy = 2400 * (-0.2 * math.log2(0.2) - 0.8 * math.log2(0.8)) / 8
    assert all(one["mosaic"] > entropy * 0.9 for one in found.values())
    assert all(one["each"] > one["mosaic"] for one in found.values())
    assert found["PNG"]["mosaic"] == saved(together, True, "PNG", optimize=True)
    file = io.BytesIO()
    Image.fromarray(images[0, 0]).convert("1").save(file, "PNG", optimize=True)
    assert (np.asarray(Image.open(io.BytesIO(file.getvalue()))) * 255 == images[0, 0]).all()
    colours = rng.integers(0, 256, (3, 3, 8, 8)).astype(np.uint8)
    grey = {one["name"]: one for one in baselines(colours)}
    assert grey["xz"]["mosaic"] == len(xz(mosaic(colours).tobytes())) > 576


@pytest.mark.parametrize("package", ["pillow_jxl", "imagecodecs"])
def test_jpeg_xl_is_measured_where_a_package_for_it_is_installed(package, monkeypatch):
    """The packages are optional: stand-ins show which one is asked, and what it is given."""
    asked = []

    def imported(name):
        if name != package:
            raise ImportError(name)
        return types.SimpleNamespace(
            jpegxl_encode=lambda x, **how: asked.append((x.shape, how)) or b"1234567"
        )

    monkeypatch.setattr(
        "probes.latents.baselines.saved", lambda x, *form, **how: asked.append((form, how)) or 7
    )
    monkeypatch.setattr("importlib.import_module", imported)
    coder = jpeg_xl()
    assert coder(np.zeros((3, 4, 5), np.uint8)) == coder(np.zeros((1, 4, 5), np.uint8)) == 7
    how = {"lossless": True, "effort": 9}
    if package == "imagecodecs":
        assert asked == [((4, 5, 3), how), ((4, 5), how)]
    else:
        assert asked == [((False, "JXL"), how)] * 2


def test_jpeg_xl_is_absent_without_a_package_and_lossless_with_one():
    if coder := jpeg_xl():
        image = np.random.default_rng(0).integers(0, 256, (3, 32, 32)).astype(np.uint8)
        assert 3000 < coder(image) < 4000  # noise can not be compressed
    else:
        assert "JPEG XL" not in {one["name"] for one in baselines(np.zeros((2, 1, 8, 8), np.uint8))}
