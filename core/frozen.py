"""A frozen encoder with its data. Probes read it; it encodes each image once per purpose.

n = images of a split, V = views of an image, D = feature dimensions, P = code dimensions,
L = latent dimensions, F = label columns.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from core.batch import Batch, at_least_float32
from core.data.datasets import open_source
from core.data.doubtful import require_named
from core.data.identity import digest
from core.data.source import BLOCK, Sampler, Source, Truth, eval_sampler, spread
from core.errors import UserError
from core.information.codes import coded
from core.method import LatentModel, Method
from core.randomness import KeyedRNG
from core.run import checkpoint, config
from core.run.features import Features
from core.run.pictures import save_grid
from core.run.provenance import versions
from core.run.rows import Key, Rows, kept, name_of
from core.trust import code_of, full_name

SPLITS = ("train", "val", "test")  # `identity` describes these splits; together they hold all data
Encode = Callable[[Batch], dict[str, Tensor]]  # a batch to named rows, each [B, ...]


class Pairs(NamedTuple):
    """The encodings of two fresh views of n images."""

    features: tuple[Tensor, Tensor]  # float32 [n, D] each
    # float32 [n, P] each, if the method has codes: the first view by the query encoder, the second
    # by the key encoder
    codes: tuple[Tensor, Tensor] | None
    place: Tensor  # int64 [n], in the split

    def rows(self, chosen: Tensor) -> "Pairs":
        """These pairs, in this order."""
        codes = (self.codes[0][chosen], self.codes[1][chosen]) if self.codes else None
        features = (self.features[0][chosen], self.features[1][chosen])
        return Pairs(features, codes, self.place[chosen])


class Views(NamedTuple):
    """The encodings of V fresh views of n images."""

    features: Tensor  # float32 [n, V, D]
    codes: Tensor | None  # float32 [n, V, P], all by the query encoder


class Latents(NamedTuple):
    """The posteriors of n images, a code drawn from each, and its distortion."""

    mean: Tensor  # float32 [n, L]
    sigma: Tensor  # float32 [n, L]
    z: Tensor  # float32 [n, L], one draw from N(mean, sigma^2) per image
    distortion: Tensor | None  # float32 [n], -log p(x|z), nats per image; None if unknown


class Frozen:
    """A frozen encoder and the data that probes use.

    Its results are a function of weights, data, seeds and package versions (`identity`). They are
    kept in `folder`, if there is one, under a key that is made of these.
    """

    has_images = True  # False: only features are known
    images_of: Source | None = None  # the test images that a user named for a file of features
    # why probes of two views measure nothing if both views would be equal
    same_views = "two views would be the same image; set data.probe_augment=crop"

    def __init__(
        self,
        method: Method,
        run: config.RunConfig,
        *,
        weights: str = "",
        seed: int = 0,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        quiet: bool = True,
        sources: Callable[[str, bool], Source] | None = None,
    ):
        """`weights`: the digest of the weights; "" stores nothing. `sources` opens the splits."""
        if isinstance(method, nn.Module):
            method.eval().to(device)
        self.method, self.run, self.seed = method, run, seed
        self.weights, self.device, self.quiet = weights, torch.device(device), quiet
        self.folder, self._sources = folder if weights else None, sources or self._open
        self.viewed = config.for_information(run)  # the config with the probes' augmentation
        self.step = 0  # the training step of the weights
        own = code_of(full_name(method))
        self.code = {"code": own} if own else {}  # part of `identity`: the digest of a user's code
        self.trained, self.wandb_id, self.entity = run, "", ""  # run of the weights, W&B id, entity
        self.encoded = 0  # images that went through the encoder, counting each view

    @classmethod
    def load(
        cls,
        path: Path,
        overrides: list[str] | None = None,
        trusted: tuple[str, ...] = (),
        **options: Any,
    ) -> "Frozen":
        """The encoder of a checkpoint. Its data are those of its config, or of overrides
        `data.key=value`. Raises `UserError` if the file is refused or the data do not fit.
        """
        entries = checkpoint.read(path)
        require_named(path, entries["config"], overrides or [])
        found = checkpoint.method_of(path, entries, trusted=trusted)
        run = config.override(found.run, overrides or [], str(path))
        folder = path.parent / "features"
        frozen = cls(found.method, run, weights=found.digest, folder=folder, **options)
        frozen.step = found.step
        frozen.trained, frozen.wandb_id = found.run, entries["wandb_id"]
        logging = entries["config"].get("wandb")
        entity = logging.get("entity") if isinstance(logging, dict) else ""
        frozen.entity = entity if isinstance(entity, str) else ""
        frozen._refuse_other_images()
        return frozen

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that determines a probe's numbers, as JSON."""
        return self.code | {
            "weights": self.weights,
            "data": {split: self._plain(split).identity.as_dict() for split in SPLITS},
            "views": self.viewed.data.augment,
            "run_seed": self.run.seed,
            "seed": self.seed,
            "versions": versions(),
        }

    def source(self, split: str, augmented: bool = False) -> Source:
        """A split of the data: fresh views if `augmented`, else plain images."""
        return self._sources(split, True) if augmented else self._plain(split)

    @property
    def truth(self) -> Truth | None:
        """The known information between two views."""
        return self._plain("test").truth

    @property
    def augmentation(self) -> str:
        """What makes two views of an image differ, in a word; "none" if nothing does."""
        return self.source("test", augmented=True).augmentation

    def features(self, split: str) -> Features:
        """Features [n, D] and labels [n, F] of a split's plain images (`Features.of`)."""
        found = self._plain_rows(split)
        return Features.of(found["x"], found["y"], self._plain(split).factors)

    def pairs(self, split: str, most: int | None = None) -> Pairs:
        """Two fresh views of each image, or of `most` images that are evenly spread.

        A plain image of a rendered set is a fresh view already, so it is the first view of its
        pair, and its features are taken from `features` instead of being computed again.
        """
        source = self.source(split, augmented=True)
        places = spread(len(source), most, BLOCK if source.rendered else 1)
        fresh = 1 if source.rendered else 2

        def encode(batch: Batch) -> dict[str, Tensor]:
            second = self.method.encode(batch.views[-1], key=True)
            made = _named("second", second.features, "key", second.codes)
            if fresh == 2:
                first = self.method.encode(batch.views[0])
                made |= _named("first", first.features, "query", first.codes)
            return made | {"place": batch.index}

        names = ("second", *self._code_names("key"))
        if fresh == 2:
            names += ("first", *self._code_names("query"))
        ranks = dict.fromkeys(names, 2) | {"place": 1}
        sampler = self._sampler(places, "information")
        found = self._read("pairs", split, source, sampler, encode, ranks, fresh)
        if fresh == 1:
            first = self._rendered_rows(split, places)
            found = found | {"first": first["x"]}
            found |= {"query": first["codes"]} if "key" in found else {}
        codes = (found["query"], found["key"]) if "key" in found else None
        return Pairs((found["first"], found["second"]), codes, found["place"])

    def views(self, split: str, count: int, most: int | None = None) -> Views:
        """`count` >= 2 fresh views of each image, or of `most` images that are evenly spread.

        The first two are those of `pairs`. If the codes of keys come from another network, only the
        first one is taken from `pairs`.
        """
        source = self.source(split, augmented=True)
        places, pairs = spread(len(source), most), self.pairs(split)
        features = [x[places] for x in pairs.features]
        codes = [x[places] for x in pairs.codes] if pairs.codes else []
        if codes and not self._one_network:
            features, codes = features[:1], codes[:1]

        def encode(batch: Batch) -> dict[str, Tensor]:
            made = [self.method.encode(view) for view in batch.views]
            rows = {"features": torch.stack([one.features.float() for one in made], 1)}
            found = [one.codes.float() for one in made if one.codes is not None]
            return rows | ({"codes": torch.stack(found, 1)} if found else {})

        if (missing := count - len(features)) > 0:
            ranks = dict.fromkeys(("features", *self._code_names("codes")), 3)
            sampler = self._sampler(places, "lidar")
            found = self._read("views", split, source, sampler, encode, ranks, missing)
            features += found["features"].unbind(1)
            codes += found["codes"].unbind(1) if codes else ()
        stacked = torch.stack(features, 1)[:, :count]
        return Views(stacked, torch.stack(codes, 1)[:, :count] if codes else None)

    def latents(self, split: str) -> Latents:
        """The posteriors of a split, if the method has them (`LatentModel`)."""
        method = self.method
        assert isinstance(method, LatentModel)
        source = self._plain(split)
        sampler = eval_sampler(len(source), self.seed, device=self.device, purpose="rate")

        def encode(batch: Batch) -> dict[str, Tensor]:
            x, q, z = coded(method, batch)
            d = -method.likelihood(z).log_prob(x).flatten(1).sum(1)
            named = {"mean": q.mean, "sigma": q.stddev, "z": z, "distortion": d}
            return {name: at_least_float32(value) for name, value in named.items()}

        ranks = {"mean": 2, "sigma": 2, "z": 2, "distortion": 1}
        return Latents(**self._read("latents", split, source, sampler, encode, ranks))

    def images(self, split: str, places: Tensor) -> Tensor:
        """The plain images at these places, as `features` encoded them, [k, C, H, W]."""
        source = self._plain(split)
        if not source.rendered:
            sampler: Sampler = [(places, next(iter(eval_sampler(1, device=self.device)))[1])]
            return next(source.batches(sampler, 1)).views[0].cpu()
        sampler = eval_sampler(len(source), self.run.seed, device=self.device, purpose="features")
        blocks = list(sampler)
        size = len(blocks[0][0])
        wanted = [int(place) for place in places]
        found: dict[int, Tensor] = {}
        for number in sorted({place // size for place in wanted}):  # rendered in whole blocks
            views = next(source.batches([blocks[number]], 1)).views[0].cpu()
            found |= {place: views[place % size] for place in wanted if place // size == number}
        return torch.stack([found[place] for place in wanted])

    def figures(self, folder: Path) -> dict[str, Path]:
        """The method's own figures of test images, saved in `folder`, by name."""
        source = self._plain("test")
        sampler = eval_sampler(len(source), self.run.seed, 128, self.device, "pictures", most=128)
        with torch.no_grad():
            made = self.method.figures(next(source.batches(sampler, 1)))
        return {name: save_grid(folder / f"{name}.png", rows) for name, rows in made.items()}

    @torch.no_grad()
    def _read(
        self,
        what: str,
        split: str,
        source: Source,
        sampler: Sampler,
        encode: Encode,
        ranks: dict[str, int],
        views: int = 1,
    ) -> dict[str, Tensor]:
        """Named rows of every image, from the file that keeps them or from the encoder."""
        sampler = list(sampler)
        places = torch.cat([index for index, _ in sampler])
        path, key = self._kept_at(what, split, places, views)
        if path is not None:
            shapes = {name: (len(places), *[None] * (rank - 1)) for name, rank in ranks.items()}
            if (found := kept(path, key, shapes)) is not None:
                return found
        rows = Rows(len(places), path, key)
        try:
            for batch in self.watched(f"{what} of {split}", source, sampler, views, len(places)):
                rows.add(encode(batch))
            return rows.finish()
        finally:
            rows.discard()

    def _kept_at(
        self, what: str, split: str, places: Tensor, views: int = 1
    ) -> tuple[Path | None, Key]:
        """The file that keeps the rows of these images, and its key."""
        if self.folder is None:
            return None, {}
        key = self.code | {
            "what": what,
            "weights": self.weights,
            "data": self._plain(split).identity.fingerprint,
            "split": split,
            "views": [views, self.viewed.data.augment if what in ("pairs", "views") else ""],
            "places": digest(places),
            "seeds": [self.run.seed, self.seed if what != "features" else None],
            "versions": versions(),
        }
        return self.folder / f"{what}-{split}-{name_of(key)}.safetensors", key

    def _plain_rows(self, split: str, blocks: list[int] | None = None) -> dict[str, Tensor]:
        """Features "x" and labels "y" of plain images. Plain images of a rendered set are views, so
        there are also "codes". With `blocks`, only the images in these blocks are read.
        """
        source = self._plain(split)
        sampler = eval_sampler(len(source), self.run.seed, device=self.device, purpose="features")
        names = self._code_names("codes") if source.rendered else ()

        def encode(batch: Batch) -> dict[str, Tensor]:
            if not names:
                return {"x": self.method.embed(batch.views[0]).float(), "y": batch.label}
            found = self.method.encode(batch.views[0])
            return _named("x", found.features, "codes", found.codes) | {"y": batch.label}

        ranks = dict.fromkeys(("x", "y", *names), 2)
        every = list(sampler)
        if blocks is not None:
            every = [every[number] for number in blocks]
        return self._read("features", split, source, every, encode, ranks)

    def _rendered_rows(self, split: str, places: Tensor) -> dict[str, Tensor]:
        """The rows of `_plain_rows` for these places of "train", "val" or "test". The rows of train
        and val are taken from "trainval", because the probes that use labels read that split.
        """
        whole = split if split == "test" else "trainval"
        rows = places + (len(self._plain("train")) if split == "val" else 0)
        size = len(self._plain(whole))
        blocks, every = (rows // BLOCK).unique(), torch.arange(size)
        path, _ = self._kept_at("features", whole, every)
        if 2 * BLOCK * len(blocks) > size or (path is not None and path.is_file()):
            found = self._plain_rows(whole)
        else:  # a block has the same images here as in the whole split
            found = self._plain_rows(whole, blocks.tolist())
            rows = torch.searchsorted(every[torch.isin(every // BLOCK, blocks)], rows)
        return {name: x[rows] for name, x in found.items()}

    def _sampler(self, places: Tensor, purpose: str) -> Sampler:
        return [
            (index, KeyedRNG(self.seed, number, device=self.device).fork(purpose))
            for number, index in enumerate(places.split(BLOCK))
        ]

    @functools.cached_property
    @torch.no_grad()
    def _one_network(self) -> bool:
        """Whether queries and keys come from the same network."""
        image = next(self._plain("test").batches(eval_sampler(1, device=self.device), 1)).views[0]
        query, key = (self.method.encode(image, key=key).codes for key in (False, True))
        return query is not None and key is not None and torch.equal(query, key)

    def _open(self, split: str, augmented: bool) -> Source:
        data = self.viewed.data if augmented else self.run.data
        return open_source(data, split, self.run.seed, augmented)

    @functools.cache  # noqa: B019  a probe opens the same split many times
    def _plain(self, split: str) -> Source:
        return self._sources(split, False)

    def _code_names(self, *names: str) -> tuple[str, ...]:
        return names if self.has_codes else ()

    @functools.cached_property
    @torch.no_grad()
    def has_codes(self) -> bool:
        """Whether the method has codes, to score pairs of views."""
        image = next(self._plain("test").batches(eval_sampler(1, device=self.device), 1)).views[0]
        return self.method.encode(image).codes is not None

    def watched(
        self, label: str, source: Source, sampler: Sampler, views: int = 1, total: int | None = None
    ) -> Iterator[Batch]:
        """The batches, with a progress line; a plain line every 15 s without a terminal."""
        with tqdm(total=total, desc=label, unit=" images", leave=False, disable=self.quiet) as line:
            line.mininterval = 0.2 if sys.stderr.isatty() else 15.0
            for batch in source.batches(sampler, views):
                yield batch
                self.encoded += views * len(batch.index)
                line.update(len(batch.index))

    def _refuse_other_images(self) -> None:
        """`UserError` if the encoder can not read the data's images: a VAE has a fixed image size,
        other encoders a fixed number of channels.
        """
        shape, own = self._plain("test").shape, self.method.shape
        if shape[0] != own[0] or (isinstance(self.method, LatentModel) and shape != own):
            given, asked = ("x".join(map(str, sides)) for sides in (shape, own))
            raise UserError(
                f"data: its images are {given} (channels, height, width), but the checkpoint reads"
                f" {asked}; name other data or data.size"
            )


def _named(name: str, features: Tensor, code: str, codes: Tensor | None) -> dict[str, Tensor]:
    """Rows of features and, if there are any, of codes."""
    return {name: features.float()} | ({code: codes.float()} if codes is not None else {})
