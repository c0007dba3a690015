"""How stored pictures are read: transparency, orientation, depth, frames and colour models."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from core.data.datasets import open_source
from core.data.loading import read_through
from core.data.pixels import ALPHA, FRAMES, TURNED, open_picture, to_tensor
from core.data.source import eval_sampler
from core.errors import UserError
from tests.pictures import config, png


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def read(data, grey: bool = False, bits: int = 16):
    tensor, note = to_tensor(open_picture(data), 0, grey, bits)
    return tensor, note


def with_alpha() -> Image.Image:
    """Red that is fully transparent, half transparent, and opaque."""
    picture = Image.new("RGBA", (3, 1), (200, 0, 0, 0))
    picture.putpixel((1, 0), (200, 0, 0, 128))
    picture.putpixel((2, 0), (200, 0, 0, 255))
    return picture


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "TGA", "ICO", "JPEG2000", "SGI", "DDS"])
def test_transparent_pictures_are_laid_on_white(kind):
    picture = with_alpha().resize((12, 4), Image.Resampling.NEAREST)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    tensor, note = read(encoded(picture, kind, **options))
    expected = torch.tensor([[255, 255, 255], [227, 127, 127], [200, 0, 0]])
    assert (tensor[:, 0, 1::4].T.int() - expected).abs().max() <= 1 and note == ALPHA


def palette(transparency):
    picture = Image.new("P", (2, 1), 1)
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.putpixel((0, 0), 0)
    return encoded(picture, transparency=transparency)


@pytest.mark.parametrize(
    "data, expected",
    [
        (palette(0), [[255, 255, 255], [200, 100, 50]]),
        (palette(b"\xff\x00"), [[10, 20, 30], [255, 255, 255]]),
        (encoded(Image.new("LA", (2, 1), (7, 0))), [[255] * 3] * 2),
        (encoded(Image.new("L", (2, 1), 7), transparency=7), [[255] * 3] * 2),
        (encoded(Image.new("RGB", (2, 1), (1, 2, 3)), transparency=(1, 2, 3)), [[255] * 3] * 2),
        (encoded(Image.new("1", (2, 1), 0), transparency=0), [[255] * 3] * 2),
        (Image.new("PA", (2, 1), (0, 0)), [[255] * 3] * 2),
        (Image.new("La", (2, 1), (0, 0)), [[255] * 3] * 2),
        (Image.new("RGBa", (2, 1), (0, 0, 0, 0)), [[255] * 3] * 2),
        (encoded(Image.new("RGBA", (2, 1), (9, 9, 9, 0)), "GIF"), [[255] * 3] * 2),
    ],
)
def test_every_way_to_be_transparent_is_known(data, expected):
    tensor, note = read(data)
    assert tensor[:, 0].T.tolist() == expected and note & ALPHA
    grey, _ = read(data, grey=True)
    luma = Image.fromarray(np.array([expected], np.uint8)).convert("L")
    assert grey[0, 0].tolist() == np.asarray(luma)[0].tolist()


def test_an_opaque_picture_equals_pillows_without_a_message():
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for picture in (Image.fromarray(noise), Image.fromarray(noise).convert("RGBA")):
        tensor, note = read(encoded(picture))
        assert note == 0 and (tensor.permute(1, 2, 0).numpy() == noise).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, kind):
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(noise), kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    tensor, note = read(data)
    assert (tensor.permute(1, 2, 0).numpy() == np.asarray(expected)).all()
    assert tensor.shape[1:] == ((16, 24) if orientation < 5 else (24, 16))
    if kind != "TIFF":  # which Pillow itself turns
        assert bool(note & TURNED) == (orientation > 1)


def test_a_damaged_exif_block_does_not_spoil_the_picture():
    data = encoded(
        Image.new("RGB", (8, 8), (9, 9, 9)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"
    )
    assert read(data)[0].shape == (3, 8, 8)


def deep_png(value: int, side: int = 4) -> bytes:
    """A PNG with 16 bits for each of three colours, which Pillow can not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    line = b"\0" + np.full((side, 3), value, ">u2").tobytes()
    header = struct.pack(">IIBBBBB", side, side, 16, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(line * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def twelve_bits(root: Path, count: int = 3, scale: int = 1) -> None:
    (root / "train/a").mkdir(parents=True)
    for i in range(count):
        values = np.full((8, 8), (4095 - i) * scale, np.uint16)
        Image.fromarray(values).save(root / f"train/a/{i}.png")


@pytest.mark.parametrize("memory", [1.0, 0.0], ids=["held", "streamed"])
@pytest.mark.parametrize("workers", [0, 1])
def test_12_bits_in_16_are_reported_and_scaled_on_request(memory, workers, tmp_path, capfd):
    twelve_bits(tmp_path)
    for bits, expected, said in ((16, 15, True), (12, 255, False)):
        settings = config(tmp_path, bits=bits, memory=memory, workers=workers)
        source = open_source(settings, "trainval", 0)
        (batch,) = source.batches(eval_sampler(3), 1)
        assert (batch.views[0] == expected).all()
        line = capfd.readouterr().err
        assert said == ("4095 of 65535, so they are nearly black; set data.bits=12" in line), line
        assert line.count("\n") == said
    with pytest.raises(UserError, match=r"^data\.bits: .*0\.png holds the value 4095, .* 11 bits"):
        list(
            open_source(config(tmp_path, bits=11, memory=memory), "trainval", 0).batches(
                eval_sampler(3), 1
            )
        )


def test_sixteen_bits_that_fill_their_range_are_not_remarked_on(tmp_path, capfd):
    twelve_bits(tmp_path, scale=16)
    open_source(config(tmp_path), "trainval", 0)
    assert not capfd.readouterr().err


def test_16_bit_colour_is_reported_and_not_scaled(tmp_path, capfd):
    (tmp_path / "train/a").mkdir(parents=True)
    for i in range(2):
        (tmp_path / f"train/a/{i}.png").write_bytes(deep_png(4000 + i, 8))
    (batch,) = open_source(config(tmp_path), "trainval", 0).batches(eval_sampler(2), 1)
    assert (batch.views[0] == 15).all()
    assert "nearly black; store them with 8 bits" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"^data\.bits: .*0\.png holds 16-bit colour"):
        open_source(config(tmp_path, bits=12), "trainval", 0)


def test_a_grey_map_of_twelve_bits_says_its_range_itself():
    values = np.array([4095, 0, 2048, 16], ">u2")
    tensor, _ = read(b"P5 2 2 4095\n" + values.tobytes(), grey=True)
    assert tensor.flatten().tolist() == [255, 0, 128, 1]


@pytest.mark.parametrize(
    "picture, expected",
    [
        (Image.new("CMYK", (2, 2), (0, 255, 255, 0)), [255, 0, 0]),
        (Image.new("1", (2, 2), 1), [255, 255, 255]),
        (Image.new("YCbCr", (2, 2), (255, 128, 128)), [255, 255, 255]),
    ],
)
def test_other_colour_models_become_rgb(picture, expected):
    tensor, note = read(encoded(picture, "TIFF"))
    assert (tensor[:, 0, 0] - torch.tensor(expected)).abs().max() <= 1 and note == 0


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_range_are_refused(mode, tmp_path):
    png(tmp_path, "train/a/0.png")
    Image.new(mode, (8, 8), 3).save(tmp_path / "train/a/1.tif")
    with pytest.raises(UserError, match=rf"1\.tif can not be decoded \(pixels of .* mode {mode} "):
        open_source(config(tmp_path), "trainval", 0)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "MPO"])
def test_the_first_of_several_frames_is_read(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#00ff00")]
    tensor, note = read(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert (tensor[:, 0, 0].int() - torch.tensor([255, 0, 0])).abs().max() <= 2 and note == FRAMES


@pytest.mark.parametrize("memory, workers", [(1.0, 0), (1.0, 1), (0.0, 0), (0.0, 1)])
def test_changes_of_pictures_are_reported_once_per_split(memory, workers, tmp_path, capfd):
    png(tmp_path, "train/a/0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [Image.new("L", (8, 8), value) for value in (3, 4)]
    for i in (1, 2):
        Image.new("RGBA", (8, 8), (0, 0, 0, 40)).save(tmp_path / f"train/a/{i}.png")
        Image.new("RGB", (8, 8)).save(tmp_path / f"train/a/{i}.jpg", exif=exif)
        frames[0].save(tmp_path / f"train/a/{i}.gif", save_all=True, append_images=frames[1:])
    source = open_source(config(tmp_path, memory=memory, workers=workers), "trainval", 0)
    for _ in range(2):
        list(source.batches(eval_sampler(7), 1))
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3 and all(line.startswith("data.root: ") for line in said), said
    for words in ("drawn on a white background", "turned upright", "the first of each is read"):
        assert sum(words in line for line in said) == 1


class InSequence:
    """A set that is read in sequence, such as a web data set, with pictures as they are stored."""

    reader = None

    def __init__(self, *pictures: Image.Image):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self):
        return ((picture, 0) for picture in self.pictures)


def test_a_set_in_sequence_is_treated_alike(capfd):
    (images, _) = read_through(
        InSequence(with_alpha(), Image.new("RGB", (3, 1))), 0, 1000, where="set (train)"
    )
    assert images[0, :, 0, 0].tolist() == [255, 255, 255]
    assert "set (train): some images are transparent" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"^data\.root: image 1: pixels of .* mode F"):
        read_through(InSequence(with_alpha(), Image.new("F", (3, 1))), 0, 1000)


def test_a_long_strip_costs_no_gigabytes():
    start = time.process_time()
    tensor, _ = to_tensor(Image.new("RGB", (60_000, 1), "red"), 224, False)
    assert tensor.shape == (3, 224, 224) and (tensor[0] == 255).all()
    assert time.process_time() - start < 5  # fully resized, it would be 13 million pixels wide


def test_a_palette_of_colours_is_not_taken_for_grey(tmp_path):
    from core.data.loading import Resized

    coloured = Image.new("P", (4, 4), 1)
    coloured.putpalette([0, 0, 0, 200, 100, 50])
    data = [(coloured, 0), (coloured, 0)]
    assert Resized(data, 0).shape == (3, 4, 4) and Resized(data, 0)[0][0][:, 0, 0].tolist() == [
        200,
        100,
        50,
    ]
    assert Resized([(coloured.convert("L"), 0)] * 2, 0).shape == (1, 4, 4)


def test_no_program_is_started_for_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    monkeypatch.setattr(os, "system", lambda *_: pytest.fail("a program was started"))
    with pytest.raises(Exception, match="cannot identify"):
        read(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF")


@pytest.mark.parametrize("size, decoded", [(32, (100, 75)), (16, (50, 38)), (300, (400, 300))])
@pytest.mark.parametrize("turn", [0, 6])
def test_a_large_jpeg_is_decoded_at_a_reduced_size(size, decoded, turn, monkeypatch):
    """The picture is nearly that of a full decoding, upright, and never made larger."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    picture, exif = coarse.resize((400, 300), Image.Resampling.BICUBIC), Image.Exif()
    if turn:
        exif[0x0112] = turn
    data = encoded(picture, "JPEG", quality=95, exif=exif)
    sizes, load = [], Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: (sizes.append(self.size), load(self))[1])
    small, note = to_tensor(open_picture(data), size, False)
    assert decoded in sizes and note == (TURNED if turn else 0)
    monkeypatch.setattr(Image.Image, "draft", lambda *_: None)
    whole, _ = to_tensor(open_picture(data), size, False)
    assert small.shape == whole.shape == (3, size, size)
    away = (small.float() - whole.float()).abs()
    assert away.mean() < 2.5 and away.max() < 40
