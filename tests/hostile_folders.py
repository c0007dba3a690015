"""Image folders with odd or wrong parts: names, links, permissions, formats, damaged pictures,
false sizes in headers.
"""

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from core.data.datasets import DataConfig, open_source
from core.data.source import eval_sampler

NAMES = [
    "a b", "a#b", "a=b", "a\nb", "\x1b[2J", "caf\udce9", "[red]", "a[/x]", "${oc.env:SECRET}",
    "'", '"', "%s", "{a,b}", "*", "?", "-rf", "CON", "\u202eabc", "\U0001f600", "x" * 250, "001",
    "1e3", "²", "A", "trainval", "pipe:touch PWNED", "$(touch PWNED)", "`touch PWNED`",
]  # fmt: skip
# Pillow's name of a format, its extension, and a mode that it supports
FORMATS = [
    ("PNG", "png", "RGB"), ("PNG", "png", "RGBA"), ("PNG", "png", "I;16"), ("PNG", "apng", "P"),
    ("JPEG", "jpg", "RGB"), ("JPEG", "JPEG", "L"), ("JPEG", "jpg", "CMYK"), ("GIF", "gif", "P"),
    ("BMP", "bmp", "RGB"), ("DIB", "dib", "L"), ("TIFF", "tif", "RGB"), ("TIFF", "tiff", "I;16"),
    ("TIFF", "tif", "F"), ("TIFF", "tif", "LA"), ("WEBP", "webp", "RGBA"), ("PPM", "ppm", "RGB"),
    ("PPM", "pgm", "L"), ("PPM", "pbm", "1"), ("PCX", "pcx", "RGB"), ("TGA", "tga", "RGBA"),
    ("ICO", "ico", "RGBA"), ("ICNS", "icns", "RGBA"), ("JPEG2000", "jp2", "RGB"),
    ("SGI", "sgi", "RGB"), ("IM", "im", "RGB"), ("DDS", "dds", "RGBA"), ("XBM", "xbm", "1"),
    ("MSP", "msp", "1"), ("SPIDER", "spider", "F"), ("AVIF", "avif", "RGB"), ("QOI", "qoi", "RGB"),
]  # fmt: skip
SIDES = [0, 1, 2**15 - 1, 9000, 13_300, 2**16 - 1, 2**24, 2**31 - 1, 2**32 - 1]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def compressed_zeros(row: int, rows: int) -> bytes:
    """A zlib stream of rows of zeros, made of one compressed row: up to 2 GiB in no time."""
    packer = zlib.compressobj(1, wbits=-15)
    block = packer.compress(bytes(row)) + packer.flush(zlib.Z_FULL_FLUSH)
    checksum = (row * rows % 65521) << 16 | 1
    return b"\x78\x01" + block * rows + b"\3\0" + struct.pack(">I", checksum)


def claiming(draw: random.Random) -> tuple[bytes, str]:
    """A small file whose header claims a large picture, and its extension."""
    width, height = draw.choice(SIDES), draw.choice(SIDES)
    short = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    way = draw.randrange(8)
    if way < 3:  # with all of its compressed data, or only their start
        depth, colour, bytes_each = draw.choice([(8, 2, 3), (8, 6, 4), (16, 0, 2), (1, 0, 1)])
        row = min(width * bytes_each + 1, 2**17)
        body = compressed_zeros(row, min(height, 2**14) if way == 2 else 2)
        header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
        parts = [chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b"")]
        return b"\x89PNG\r\n\x1a\n" + b"".join(parts), "png"
    if way == 3:
        return b"GIF89a" + short + b"\x80\0\0" + bytes(6) + b"," + bytes(4) + short + b"\0\2\1\0", (
            "gif"
        )
    if way == 4:
        sides = width & 0x7FFFFFFF, height & 0x7FFFFFFF
        header = struct.pack("<IiiHH", 40, *sides, 1, 24) + bytes(24)
        return b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + header + bytes(6), "bmp"
    if way == 5:
        return b"P%d %d %d 255\n" % (draw.choice([5, 6, 2]), width, height) + bytes(9), "ppm"
    if way == 6:
        tags = [(256, width), (257, height), (258, 8), (262, 1), (273, 8), (277, 1), (279, 2**31)]
        entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
        return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4), "tif"
    return bytes(2) + b"\x0a" + bytes(9) + short + b"\x20\x08" + b"\xff\1\2\3\4", "tga"


def picture(draw: random.Random, plain: bool = False) -> tuple[bytes, str]:
    """An encoded picture, and its extension."""
    kind, extension, mode = ("PNG", "png", "RGB") if plain else draw.choice(FORMATS)
    side = 16 if kind == "ICNS" else draw.choice([1, 7, 8, 16, 33])
    channels = 1 if plain else draw.choice([1, 3])
    noise = np.random.default_rng(draw.randrange(99)).integers(0, 256, (side, side, channels))
    image = Image.fromarray(np.repeat(noise, 3 // channels, 2).astype(np.uint8))
    image = image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)
    target, more = io.BytesIO(), {}
    if not plain and draw.randrange(4) == 0 and kind in ("JPEG", "PNG", "WEBP"):
        exif = Image.Exif()
        exif[0x0112] = draw.choice([0, 3, 6, 8, 9, 65535, "x"])
        more["exif"] = exif
    if not plain and draw.randrange(6) == 0 and kind in ("GIF", "PNG", "TIFF", "WEBP"):
        more |= {"save_all": True, "append_images": [image] * 3}
    try:
        image.save(target, kind, **more)
    except (OSError, ValueError, KeyError, TypeError, struct.error, SystemError):
        return picture(draw, True)  # a format that this Pillow does not write
    return target.getvalue(), extension


def spoiled(content: bytes, draw: random.Random) -> bytes:
    way = draw.randrange(6)
    if way == 0:
        return content[: draw.randrange(len(content))]
    if way == 1:
        return draw.choice([b"", b"\0", b"\xff" * 100, b"<svg/>", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
    if way == 2:
        return content + bytes(draw.randrange(1, 5000))
    made = bytearray(content or b"x")
    for _ in range(draw.randrange(1, 20)):
        place = draw.randrange(min(len(made), 64 if draw.randrange(2) else len(made)))
        made[place] = draw.choice([0, 255, made[place] ^ (1 << draw.randrange(8))])
    return bytes(made)


def odd_entry(place: Path, draw: random.Random) -> str:
    """Put something that is not a picture into a folder; returns what it is."""
    way = draw.randrange(16)
    name = draw.choice(NAMES)
    good, _ = picture(draw, True)
    if way == 0:
        (place / f"{name}.png").write_bytes(good)
        return f"named {name!r:.20}"
    if way == 1:
        (place / name / "deeper" / name[:9]).mkdir(parents=True)
        (place / name / "deeper" / "x.png").write_bytes(good)
        return "nested"
    if way == 2:
        (place / ".ipynb_checkpoints").mkdir()
        (place / ".ipynb_checkpoints" / "x.png").write_bytes(good)
        (place / "._x.png").write_bytes(b"\0\5\x16\7")
        return "hidden"
    if way == 3:
        (place / "empty").mkdir()
        return "an empty folder"
    if way == 4:
        (place / "link.png").symlink_to(draw.choice(["nowhere", "/etc/passwd", "link.png", "."]))
        return "a link"
    if way == 5:
        (place / "up").symlink_to(draw.choice(["..", "../..", ".", str(place)]))
        return "a loop of links"
    if way == 6:
        os.mkfifo(place / "pipe.png")
        return "a pipe"
    if way == 7:
        (place / "locked.png").write_bytes(good)
        os.chmod(place / "locked.png", 0)
        return "no rights"
    return _odder_entry(place, draw, way, good)


def _odder_entry(place: Path, draw: random.Random, way: int, good: bytes) -> str:
    if way == 8:
        (place / "folder.png").mkdir()
        return "a folder that is called as a picture"
    if way == 9:
        (place / "device.png").symlink_to(draw.choice(["/dev/zero", "/dev/stdin", "/dev/full"]))
        return "a device"
    if way == 10:
        (place / "Thumbs.db").write_bytes(b"x" * 99)
        (place / "labels.csv").write_text("a,b\n")
        return "other files"
    if way == 11:
        deep = place / "/".join("d" * draw.choice([1, 200]) for _ in range(9))
        deep.mkdir(parents=True)
        (deep / "x.png").write_bytes(good)
        return "a deep folder"
    if way == 12:
        (place / "x.py").write_text("import pathlib; pathlib.Path('PWNED').touch()")
        (place / "conftest.py").write_text("import pathlib; pathlib.Path('PWNED').touch()")
        return "code"
    if way == 13:
        (place / os.fsdecode(b"\xff\xfe.png")).write_bytes(good)
        return "bytes that are no text"
    if way == 14:
        with open(place / "sparse.png", "wb") as file:
            file.write(good[: draw.choice([0, len(good)])])
            file.truncate(2**33)
        return "a file of 8 GiB"
    return "nothing odd"


def write_folder(top: Path, draw: random.Random) -> str:
    """Write a data set of two to four classes into `top`, with up to four faults; returns them."""
    told = []
    classes = [f"class{i}" for i in range(draw.randrange(2, 5))]
    if draw.randrange(6) == 0:
        classes[0] = draw.choice(NAMES)
    plain, mend = draw.randrange(3) > 0, draw.randrange(4)
    for split in ("train", draw.choice(["test", "val", "validation"])):
        for label in classes:
            (top / split / label).mkdir(parents=True)
            for number in range(draw.randrange(2, 6)):
                content, extension = picture(draw, plain)
                (top / split / label / f"{number}.{extension}").write_bytes(content)
    folders = sorted(path for path in top.glob("*/*") if path.is_dir())
    for _ in range(mend):
        place, way = draw.choice(folders), draw.randrange(8)
        if way < 3:
            told.append(odd_entry(place if draw.randrange(4) else place.parent, draw))
        elif way < 5:
            content, extension = picture(draw)
            (place / f"spoiled{len(told)}.{extension}").write_bytes(spoiled(content, draw))
            told.append(f"spoiled {extension}")
        elif way == 5:
            content, extension = claiming(draw)
            (place / f"claims{len(told)}.{extension}").write_bytes(content)
            told.append(f"claims {extension}")
        elif way == 6:
            for path in place.glob("*.*"):
                if path.is_file() and not path.is_symlink():
                    path.unlink()
            told.append("an emptied class")
        else:
            content, extension = picture(draw)
            other = draw.choice(["jpg", "tif", "webp", "ico", "psd", "fits", "hdf5", "eps", "mpo"])
            (place / f"other{len(told)}.{other}").write_bytes(content)
            told.append(f"{extension} named {other}")
    return ", ".join(told) or "nothing"


def read_folder(top: Path, draw: random.Random) -> int:
    """Read all splits as a run does, with random options; returns the number of images."""
    settings = DataConfig(
        name="folder",
        root=str(top),
        size=draw.choice([0, 8, 8, 16, 64]),
        grey=draw.randrange(4) == 0,
        binarise=draw.randrange(8) == 0,
        bits=draw.choice([16, 16, 16, 12]),
        skip=draw.choice([0.0, 0.001, 0.5]),
        memory=draw.choice([2.0, 2.0, 0.0]),
        validation=draw.choice([1, 1, 2, 50]),
        workers=0,
        augment="simclr" if draw.randrange(3) == 0 else "none",
    )
    seen = 0
    for split in ("train", "val", "test"):
        source = open_source(settings, split, 0)
        assert len(source.identity.fingerprint) == 64
        for batch in source.batches(eval_sampler(len(source), 0, 16), 1):
            (view,) = batch.views
            assert view.shape[1:] == source.shape and view.isfinite().all()
            seen += len(view)
    return seen
