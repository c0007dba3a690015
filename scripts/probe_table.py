"""What can be asked of a checkpoint, by name: each probe with the pictures that it leaves and what
a checkpoint needs for it.
"""

from core.data.datasets import open_source
from core.data.source import Source, eval_sampler
from core.method import LatentModel, Method
from core.run import config
from core.run.features import Features, cached_features
from core.run.pictures import save_grid

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from probes import figures
from probes.disentanglement import disentanglement
from probes.geometry import geometry
from probes.information import information
from probes.knn import PRESETS, Neighbours, knn, search
from probes.likelihood import ais, likelihood
from probes.linear import linear
from probes.rate import rate
from probes.rate_head import rate_head


@dataclass
class Subject:
    """One checkpoint, what is asked about it, and the pictures that answers leave in its folder."""

    path: Path
    method: Method
    run: config.RunConfig
    device: torch.device
    seed: int
    settings: dict[str, dict[str, int]]  # a probe -> its options
    pictures: dict[str, Path] = field(default_factory=dict)

    @property
    def viewed(self) -> config.RunConfig:
        """The run with the two views that information is probed between."""
        return config.for_information(self.run)

    @functools.cached_property
    def features(self) -> tuple[Features, Features]:
        """Frozen features of train and of test."""
        train, test = (
            cached_features(self.path, self.method, self.run, split, self.device)
            for split in ("trainval", "test")
        )
        return train, test

    def picture(self, name: str) -> Path:
        """Where a picture goes, which is then logged."""
        self.pictures[name] = self.path.parent / "probe" / f"{name}.png"
        return self.pictures[name]


def labels_by_neighbours(subject: Subject) -> dict[str, Any]:
    train, test = subject.features
    nearest = search(
        train.x,
        test.x,
        max(k for k, _ in PRESETS.values()),
        subject.device if subject.device.type == "cuda" else None,
    )
    neighbours(subject.run, nearest, subject.picture("neighbours"))
    return {preset: knn(train, test, *values, nearest) for preset, values in PRESETS.items()}


def between_views(subject: Subject) -> dict[str, Any]:
    found = information(subject.method, subject.viewed, subject.seed, subject.device)
    figures.sweep({"information": found}, subject.picture("infonce"))
    return found


def rate_and_distortion(subject: Subject) -> dict[str, Any]:
    found = rate(subject.method, subject.run, subject.seed, subject.device)  # type: ignore[arg-type]
    if "dimension_rates" in found:
        figures.dimensions(found["dimension_rates"], subject.picture("dimensions"))
    test = open_source(subject.run.data, "test", subject.run.seed, augmented=False)
    order = eval_sampler(len(test), subject.run.seed, 128, subject.device, "pictures", most=128)
    with torch.no_grad():
        rows = subject.method.figures(next(test.batches(order, 1)))
    for name, images in rows.items():
        save_grid(subject.picture(name), images)
    return found


def of_frozen_features(subject: Subject) -> dict[str, Any]:
    found = rate_head(subject.method, subject.run, subject.seed, subject.device)
    report = {"checkpoint": str(subject.path), "data": subject.run.data.name, "rate_head": found}
    figures.rate_distortion([report], subject.picture("rate_distortion"))
    return found


def importance_weighted(subject: Subject) -> dict[str, Any]:
    return likelihood(
        subject.method,  # type: ignore[arg-type]
        subject.run,
        **subject.settings["likelihood"],
        seed=subject.seed,
        device=subject.device,
    )


def annealed(subject: Subject) -> dict[str, Any]:
    return ais(
        subject.method,  # type: ignore[arg-type]
        subject.run,
        **subject.settings["ais"],
        seed=subject.seed,
        device=subject.device,
    )


def neighbours(run: config.RunConfig, nearest: Neighbours, path: Path) -> Path:
    """A row for each of eight test images: itself, then its nearest training images."""
    train, test = (
        open_source(run.data, split, run.seed, augmented=False) for split in ("trainval", "test")
    )
    chosen = torch.arange(8) * len(test) // 8
    found = nearest.first(9).place[chosen]

    def picture(source: Source, index: torch.Tensor) -> torch.Tensor:
        order = (
            (i[None], rng)
            for i, (_, rng) in zip(
                index, eval_sampler(len(index), run.seed, 1, purpose="features"), strict=True
            )
        )
        return torch.cat([batch.views[0] for batch in source.batches(order, 1)])

    return save_grid(
        path,
        [
            torch.cat([picture(test, i[None]), picture(train, row)])
            for i, row in zip(chosen, found, strict=True)
        ],
    )


def two_views(subject: Subject) -> str:
    return (
        ""
        if subject.viewed.data.views_differ
        else "two views would be the same image; set data.probe_augment=crop"
    )


def posterior(subject: Subject) -> str:
    return (
        "" if isinstance(subject.method, LatentModel) else f"{subject.run.method} has no posterior"
    )


def factors(subject: Subject) -> str:
    values = open_source(
        subject.run.data, "test", subject.run.seed, augmented=False
    ).factors.values()
    return "" if sum(count > 1 for count in values) > 1 else "it takes two known factors or more"


class Probe(NamedTuple):
    """What measures, what says why a checkpoint has nothing to measure (else empty), and the
    options that it reads, with their defaults.
    """

    measure: Callable[[Subject], dict[str, Any]]
    missing: Callable[[Subject], str] = lambda _: ""
    options: dict[str, int] = {}


DEFAULT = {
    "linear": Probe(lambda s: linear(*s.features, s.seed)),
    "knn": Probe(labels_by_neighbours),
    "information": Probe(between_views, two_views),
    "geometry": Probe(lambda s: geometry(s.method, s.viewed, s.seed, s.device)),
    "rate": Probe(rate_and_distortion, posterior),
    "disentanglement": Probe(lambda s: disentanglement(*s.features, s.seed), factors),
}
ASKED_FOR = {  # a minute or two a checkpoint
    "likelihood": Probe(importance_weighted, posterior, {"k": 5000, "images": 1000}),
    "ais": Probe(annealed, posterior, {"steps": 200, "chains": 8, "images": 100}),
    "rate_head": Probe(of_frozen_features),
}
PROBES = DEFAULT | ASKED_FOR
