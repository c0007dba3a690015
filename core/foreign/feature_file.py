"""A file of features as a `Frozen`: nothing is encoded. If the file lacks an array, the numbers
that need this array are absent.

n = images of a split, D = feature dimensions, L = latent dimensions.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from core.batch import Batch
from core.data.identity import Identity, digest
from core.data.source import Sampler, Source, eval_sampler
from core.errors import Unmeasurable, UserError
from core.foreign import arrays
from core.foreign.encoder import EncoderConfig
from core.foreign.frozen import ENCODER, blank
from core.frozen import SPLITS, Frozen, Latents, Pairs, Views
from core.method import Method
from core.randomness import KeyedRNG
from core.run import config
from core.run.features import Features
from core.run.provenance import versions

HELD_OUT = 10  # without pairs of val, one in ten pairs of train is used to choose the critic


class FeatureFile(Frozen):
    """The arrays of a file, for probes. If an array that a probe needs is missing, the numbers of
    the probe are absent, and the reason names the array.
    """

    has_images = False
    same_views = "the file has no second views of its images (second_test)"

    def __init__(self, path: Path, table: arrays.Table, overrides: list[str], **options: Any):
        run = config.override(blank(ENCODER, EncoderConfig()), overrides, "the command line")
        super().__init__(_method(table), run, **options)
        self.weights, self.name, self.table = table.digest, path.name, table
        self._identities: dict[str, Identity] = {}  # hashed once
        named = any(word.partition("=")[0] == "data.name" for word in overrides)
        self.images_of = self._open("test", False) if named else None
        self.remarks = _check_test_labels(path, table, self.images_of) if self.images_of else []
        self.run = copy.copy(self.run)
        self.run.method = "features"
        if not named:
            self.run.data = copy.copy(self.run.data)
            self.run.data.name = path.name

    @classmethod
    def read(cls, path: Path, overrides: list[str], **options: Any) -> "FeatureFile":
        """The features of a file. If overrides `data.*` name the data, the test rows must belong to
        the test images, in the same order and with the same labels. Raises `UserError`.
        """
        return cls(path, arrays.read(path), overrides, **options)

    @property
    def identity(self) -> dict[str, Any]:  # type: ignore[override]
        data = {split: self._identity(split).as_dict() for split in SPLITS}
        facts = {"weights": self.weights, "data": data, "views": self.augmentation}
        return facts | {"run_seed": 0, "seed": self.seed, "versions": versions()}

    def source(self, split: str, augmented: bool = False) -> Source:
        rows = self._rows("x", split)
        n = 0 if rows is None else len(rows)
        source = Rows(self.name, n, self.table.factors, self.images_of)
        source.identity = self._identity(split)  # read by probes that name classes
        return source

    @property
    def truth(self) -> Any:
        return self.images_of.truth if self.images_of else None

    @property
    def augmentation(self) -> str:
        if self._rows("second", "test") is None:
            return "none"
        return self.table.augmentation

    def features(self, split: str) -> Features:
        parts = ("train", "val") if split == "trainval" else (split,)
        if split == "trainval" and self._rows("x", "val") is None:
            parts = ("train",)
        x, y = (torch.cat([self._need(kind, part) for part in parts]) for kind in ("x", "y"))
        return Features.of(x, y, self.table.factors)

    def pairs(self, split: str, most: int | None = None) -> Pairs:
        if self.augmentation == "none":
            x = self._need("x", split)
            return _chosen(Pairs((x, x), None, torch.arange(len(x))), most)
        if split == "val" and self._rows("second", "val") is None:
            return self._of_train(True)
        if split == "train" and self._rows("second", "val") is None:
            return _chosen(self._of_train(False), most)
        return _chosen(self._pairs(split), most)

    def views(self, split: str, count: int, most: int | None = None) -> Views:
        x, codes = self._rows("views", split), self._rows("view_codes", split)
        if x is None:
            pairs = self._pairs(split)
            x = torch.stack(pairs.features, 1)
            codes = torch.stack(pairs.codes, 1) if pairs.codes else None
        elif codes is None and self._rows("query", split) is not None:
            raise Unmeasurable(f"{self.name} holds codes, but no view_codes_{split}")
        rows = _evenly(len(x), most)
        return Views(x[rows], None if codes is None else codes[rows])

    def latents(self, split: str) -> Latents:
        mean, log_var = self._need("mean", split), self._need("log_var", split)
        sigma, z = (0.5 * log_var).exp(), self._rows("z", split)
        if z is None:
            z = mean + sigma * KeyedRNG(self.seed, 0).fork("rate").normal("posterior", *mean.shape)
        return Latents(mean, sigma, z, self._rows("distortion", split))

    def images(self, split: str, places: Tensor) -> Tensor:
        raise Unmeasurable(f"{self.name} holds no images")

    def figures(self, folder: Path) -> dict[str, Path]:
        return {}

    def _identity(self, split: str) -> Identity:
        if split == "test" and self.images_of:
            return self.images_of.identity
        if split in self._identities:
            return self._identities[split]
        named = {name: x for name, x in self.table.arrays.items() if name.endswith(f"_{split}")}
        x = named.get(f"x_{split}")
        self._identities[split] = Identity(
            name=self.name,
            split=split,
            root="",
            images=0 if x is None else len(x),
            shape=() if x is None else (x.shape[1],),
            factors=self.table.factors,
            classes=(),
            settings={},
            digests={
                "content": digest("".join(digest(named[name]) for name in sorted(named)).encode())
            },
        )
        return self._identities[split]

    def _pairs(self, split: str) -> Pairs:
        second = self._need("second", split)
        first = self._rows("first", split)
        first = self._need("x", split) if first is None else first
        query, key = self._rows("query", split), self._rows("key", split)
        codes = None if query is None or key is None else (query, key)
        return Pairs((first, second), codes, torch.arange(len(second)))

    def _of_train(self, held_out: bool) -> Pairs:
        """The pairs of train on which the critic is chosen; without `held_out`, the other pairs."""
        pairs = self._pairs("train")
        n = len(pairs.place)
        order = KeyedRNG(0, 0).permutation("pairs of a file", n)
        count = max(2, n // HELD_OUT)
        return _taken(pairs, order[:count] if held_out else order[count:].sort().values)

    def _rows(self, kind: str, split: str) -> Tensor | None:
        return self.table.arrays.get(f"{kind}_{split}")

    def _need(self, kind: str, split: str) -> Tensor:
        rows = self._rows(kind, split)
        if rows is None:
            raise Unmeasurable(f"{self.name} holds no {kind}_{split}")
        return rows


class Rows(Source):
    """A split without images: only features are known."""

    rendered = True  # so that no probe searches for copies of images

    def __init__(self, name: str, n: int, factors: dict[str, int], images: Source | None):
        self.name, self.n, self.factors = name, n, factors
        self.shape = images.shape if images else (0, 0, 0)

    def __len__(self) -> int:
        return self.n

    def batches(self, order: Sampler, views: int) -> Iterator[Batch]:
        raise Unmeasurable(f"{self.name} holds no images")


class ResultsOnly:
    """Takes the place of a method if only its results are known."""

    shape = (0, 0, 0)

    def embed(self, x: Tensor) -> Tensor:
        raise Unmeasurable("the encoder is not known, only its features")

    encode = embed


class WithCodes(ResultsOnly):
    """A method with codes of unit length and a temperature, so there is a native critic."""

    temperature = 1.0

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        raise Unmeasurable("the encoder is not known, only its codes")


class WithPosterior(ResultsOnly):
    """A method with known posteriors and the standard normal prior."""

    dimensions = 0

    def prior(self) -> Distribution:
        zero = torch.zeros(self.dimensions)
        return Independent(Normal(zero, torch.ones_like(zero)), 1)

    def discrete(self) -> bool:
        return False

    def posterior(self, x: Tensor) -> Distribution:
        raise Unmeasurable("the encoder is not known, only posteriors of a file")

    def likelihood(self, z: Tensor) -> Distribution:
        raise Unmeasurable("the decoder is not known, only posteriors of a file")

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        raise Unmeasurable("the decoder is not known, only posteriors of a file")


class WithBoth(WithCodes, WithPosterior):
    """Codes and posteriors."""


def _method(table: arrays.Table) -> Method:
    """The method that probes see. It has codes and posteriors if the file has them."""
    coded = table.temperature is not None and "query_test" in table.arrays
    latent = "mean_test" in table.arrays
    kinds = {(True, True): WithBoth, (True, False): WithCodes, (False, True): WithPosterior}
    made: Any = kinds.get((coded, latent), ResultsOnly)()
    if coded:
        made.temperature = table.temperature
    if latent:
        made.dimensions = table.arrays["mean_test"].shape[1]
    return made  # type: ignore[no-any-return]


def _check_test_labels(path: Path, table: arrays.Table, source: Source) -> list[str]:
    """Compare the labels of the file's test rows with those of the named data."""
    y = table.arrays.get("y_test")
    if y is None:
        raise UserError(f"{path}: without y_test, its rows can not be compared with the named data")
    sampler = eval_sampler(len(source), purpose="features")
    labels = torch.cat([batch.label.cpu() for batch in source.batches(sampler, 1)])
    if labels.shape != y.shape or not torch.equal(labels, y):
        same = int((labels == y).all(1).sum()) if labels.shape == y.shape else 0
        raise UserError(
            f"{path}: its rows are not the test images of these data in their order: {same:,} of"
            f" {len(labels):,} labels agree (it has {len(y):,} rows)"
        )
    table.factors.clear()
    table.factors.update(source.factors)
    return [f"its {len(y):,} test rows have the labels of the named data"]


def _evenly(n: int, most: int | None) -> Tensor:
    if most is None or most >= n:
        return torch.arange(n)
    return torch.arange(most) * n // most


def _chosen(pairs: Pairs, most: int | None) -> Pairs:
    return _taken(pairs, _evenly(len(pairs.place), most))


def _taken(pairs: Pairs, rows: Tensor) -> Pairs:
    (first, second), codes = pairs.features, pairs.codes
    return Pairs(
        (first[rows], second[rows]), codes and (codes[0][rows], codes[1][rows]), pairs.place[rows]
    )
