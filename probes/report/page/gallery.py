"""Pictures of checkpoints for the page: read as data, scaled down and encoded again.

A picture may come from a stranger. Only PNG files that a report names, or that lie in a run's
folder `pictures`, are read. Their size is checked before they are decoded. The page holds the
decoded pictures, never the bytes of the files.
"""

import base64
import hashlib
import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from probes.probe import Probe
from probes.report.comparison import file_of
from probes.report.groups import Group
from probes.report.page.content import price
from probes.report.schema import Report

MOST_BYTES, MOST_PIXELS = 2**25, 2**25  # of one picture
# (checkpoints, width): up to this number of checkpoints, a picture has this width in pixels
WIDTHS = ((3, 960), (10, 720), (10**9, 480))
ROOM = 5_500_000  # bytes of all pictures in the page
QUALITY = 82
TITLES = {
    "views": "Pairs of views",
    "neighbours": "Nearest neighbours",
    "dimensions": "Rate of each dimension",
    "samples": "Samples of the prior",
    "learning": "Online code of the labels",
    "compression": "A lossless file, and other formats",
    "compression_chain": "Lossless files of 1, 10, 100 … images",
    "compression_moves": "Bits that each image of a chain pops and pushes",
    "compression_partial": "Bits and images after the first dimensions of a code",
    "noise": "The effect of training noise on a linear probe",
    "certified": "Bounds on the error of linear probes",
}
ABOUT = {  # how to read pictures of a kind
    "views": "These are images as training reads them. A method that compares views trains on two"
    " views of each image; a VAE trains on one view. For I(V1; V2), the probe draws two new views"
    " of each test image for every checkpoint.",
    "neighbours": "Each row shows a test image at the left, and then the training images with the"
    " nearest features. Below a training image are the cosine of the two features and its label. If"
    " images have several labels, each label is given by its number.",
    "dimensions": "The rate of each dimension of the code, in nats; the sum is R. A dimension with"
    " almost no nats is not used.",
    "traversals": "Each row moves one dimension of the code of an image and keeps all others.",
}
WIDE = ("neighbours",)  # pictures with small texts: one picture in a row
TRAINING = ("views",)  # the pictures of a run that no probe draws again


@dataclass
class Picture:
    """One picture, of one checkpoint or of several that have the same picture."""

    places: list[int]  # of the groups
    labels: list[str]
    source: str  # a data URL
    width: int
    height: int
    rate: float | None = None  # in nats, if the method has a rate
    note: str = ""


@dataclass
class Gallery:
    """Pictures of one kind, and why pictures are missing."""

    title: str
    pictures: list[Picture] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    about: str = ""
    wide: bool = False
    noted: bool = True  # False if an earlier kind has shown the same notes

    @property
    def slides(self) -> bool:
        """Whether a slider moves through the pictures, from the largest rate to the smallest."""
        rates = {picture.rate for picture in self.pictures}
        return len(rates) > 1 and None not in rates


def galleries(groups: Sequence[Group], probes: dict[str, Probe]) -> list[Gallery]:
    """The pictures of the first run of each group, by kind."""
    width = next(w for most, w in WIDTHS if len(groups) <= most)
    found: dict[str, Gallery] = {}
    seen: dict[tuple[str, str], Picture] = {}
    room = ROOM
    for place, group in enumerate(groups):
        for key, kind, path in _files(group.reports[0], probes):
            gallery = found.setdefault(kind, _empty(kind))
            made = encoded(path, width)
            if isinstance(made, str):
                gallery.missing.append(f"{group.label}: {made}")
                continue
            content, size = made
            code = hashlib.sha256(content).hexdigest()
            if (kind, code) in seen:
                seen[kind, code].places.append(place)
                seen[kind, code].labels.append(group.label)
                continue
            url = "data:image/webp;base64," + base64.b64encode(content).decode()
            if len(url) > room:
                gallery.missing.append(f"{group.label}: left out, so that the page stays small")
                continue
            room -= len(url)
            numbers = probes[key].headline(group.reports[0][key]) if key in probes else {}
            picture = Picture([place], [group.label], url, *size, *_rate(numbers, group.reports[0]))
            seen[kind, code] = picture
            gallery.pictures.append(picture)
    for gallery in found.values():
        if gallery.slides:
            gallery.pictures.sort(key=lambda picture: -(picture.rate or 0.0))
    _note_once(list(found.values()))
    return list(found.values())


def _empty(kind: str) -> Gallery:
    title = TITLES.get(kind) or kind.replace("_", " ")
    return Gallery(title, about=ABOUT.get(kind, ""), wide=kind in WIDE)


def _note_once(found: list[Gallery]) -> None:
    """Leave out notes that an earlier kind has shown."""
    seen: set[str] = set()
    for gallery in found:
        notes = {picture.note for picture in gallery.pictures if picture.note}
        gallery.noted = not notes <= seen
        seen |= notes


def _rate(numbers: dict[str, float], report: Report) -> tuple[float | None, str]:
    """The rate among the headline numbers of the probe that made a picture, and a note."""
    if "rate" not in numbers:
        return None, ""
    beta = price(report)
    note = f"{f'beta {beta}, ' if beta else ''}R = {numbers['rate']:,.2f}"
    if "distortion" in numbers:
        note += f", D = {numbers['distortion']:,.2f}"
    return numbers["rate"], f"{note} nats an image".replace("-", "−")


def _files(report: Report, probes: dict[str, Probe]) -> list[tuple[str, str, Path]]:
    """(probe, kind, file) of the pictures that a report names, then of the run's own pictures."""
    folder = Path(file_of(report)).parent
    named: Any = report.get("pictures")
    found = []
    for key, names in named.items() if isinstance(named, dict) else ():
        charted = probes[key].charted if key in probes else ()
        for name in names if isinstance(names, list) else ():
            if key in report and _is_name(name) and Path(name).stem not in charted:
                found.append((key, Path(name).stem, folder / name))
    run = Path(report["checkpoint"]).parent / "pictures"
    found += [("", kind, run / f"{kind}.png") for kind in TRAINING]
    return [(key, kind, path) for key, kind, path in found if os.path.isfile(path)]


def _is_name(name: Any) -> bool:
    return (
        isinstance(name, str)
        and Path(name).name == name
        and name.lower().endswith(".png")
        and len(name) <= 100
    )


def encoded(path: Path, width: int) -> tuple[bytes, tuple[int, int]] | str:
    """A PNG file as WebP of at most this width, and its size; or why it can not be shown."""
    try:
        if path.stat().st_size > MOST_BYTES:
            return f"{path.name} is larger than {MOST_BYTES >> 20} MiB"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(path, formats=["PNG"])
            if picture.width * picture.height > MOST_PIXELS:
                return f"{path.name} has {picture.width} x {picture.height} pixels, too many"
            decoded = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return f"{path.name} is not a readable PNG file"
    decoded.thumbnail((width, 16 * width), Image.Resampling.LANCZOS)
    return webp(decoded), decoded.size


def webp(picture: Image.Image, quality: int = QUALITY) -> bytes:
    """A picture as a WebP file."""
    made = io.BytesIO()
    picture.save(made, "WEBP", quality=quality, method=4)
    return made.getvalue()
