"""Validation during training, on held-out images: the method's metrics and monitors, the
geometry of its features, and scores of frozen features such as an online kNN.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.batch import Batch
from core.data.datasets import open_source
from core.data.source import Source, eval_sampler, train_sampler
from core.distributed import rank, single_process
from core.errors import UserError
from core.information.geometry import alignment, deviations, effective_rank, uniformity
from core.method import Context, Method
from core.randomness import KeyedRNG
from core.run.config import RunConfig, for_information
from core.run.features import Features, extract
from core.run.folder import make_folder
from core.run.pictures import Grid, save_grid

# without labels, best.ckpt is chosen by the first of these numbers that a validation measures
UNLABELLED = {
    "in_batch_bound": "a lower bound on what two views of a held-out image share",
    "features/effective_rank": "the effective rank of held-out features (RankMe)",
}
Scores = Callable[[Features, Features], dict[str, float]]  # (train, validation) -> named numbers

BLOCK = 512  # images encoded at a time
# A last block of at most this size is rehearsed, too. A larger one fails only if a whole block
# fails.
FEW = 16


class Extent(NamedTuple):
    """The largest numbers of images that a validation reads."""

    features: int
    pairs: int  # for the geometry of two views
    monitored: int  # for the method's monitors
    metrics: int


FULL = Extent(features=4096, pairs=2048, monitored=4096, metrics=4096)


class Validation:
    """Validation of one run. `validation(method, step)` returns named numbers; `warning` is the
    method's advice on the newest numbers, or empty.

    `source`: the training data. `world`: the number of processes that train on it.
    `scores` takes frozen features of the train and validation splits.
    """

    def __init__(
        self,
        run: RunConfig,
        device: torch.device,
        source: Source,
        world: int = 1,
        scores: Scores | None = None,
    ):
        self.run, self.device, self.source = run, device, source
        self.scores = scores if source.factors else None  # scores compare labels
        # number of parts of a batch that have separate batch statistics
        self.parts = 1 if run.trainer.sync_batchnorm else world
        self.viewed = for_information(run).data
        self.views = open_source(run.data, "val", run.seed)
        self.train = open_source(run.data, "train", run.seed, augmented=False)
        self.held_out = open_source(run.data, "val", run.seed, augmented=False)
        self.pairs = open_source(self.viewed, "val", run.seed)
        self.warning, self._warned = "", False

    @torch.no_grad()
    def __call__(self, method: Method, step: int) -> dict[str, float]:
        """Mean metrics on fresh views of the validation split, the geometry of the features, the
        method's monitors, and the scores of its features.

        All processes must call it: they extract features together. The first process does the rest
        and returns the numbers; the others return an empty result.
        """
        found = self._measure(method, step, FULL)
        warning = method.warning({name.removeprefix("val/"): x for name, x in found.items()})
        self.warning = "" if self._warned else warning  # only the first of consecutive warnings
        self._warned = bool(warning)
        return found

    def criterion(self, method: Method, scores: Iterable[str]) -> str:
        """The name of the score that chooses best.ckpt: the method's own or, if it compares labels
        and the images have none, one of `UNLABELLED`. `scores`: the names of a validation.
        """
        own, found = f"val/{method.criterion}", set(scores)
        if own in found or self.source.factors:
            return own
        return next((f"val/{name}" for name in UNLABELLED if f"val/{name}" in found), own)

    def said_of_criterion(self, method: Method, scores: Iterable[str]) -> str:
        """A line for images without labels: what chooses best.ckpt, and why."""
        name = self.criterion(method, scores).removeprefix("val/")
        if name == method.criterion:
            return ""
        return (
            f"best.ckpt is chosen by val/{name}, {UNLABELLED[name]}: the images have no labels for"
            f" val/{method.criterion}"
        )

    @torch.no_grad()
    def rehearse(self, method: Method, step: int) -> dict[str, float]:
        """Like a call, but on few images, so that errors come early: one whole block, and a last
        block if it has at most `FEW` images. The numbers mean nothing, but their names are those
        of a call.
        """
        n = len(self.held_out)
        rest = min(n, FULL.features) % BLOCK
        features = min(n, BLOCK) + (rest if n > BLOCK and rest <= FEW else 0)
        # two pairs are enough, because their views are encoded like the images of the features
        return self._measure(method, step, Extent(features, 2, BLOCK, 1))

    def _measure(self, method: Method, step: int, extent: Extent) -> dict[str, float]:
        was_training, scores = method.training, {}
        method.eval()
        # without synchronised batch norm, each process encodes alone, by its own running statistics
        with nullcontext() if self.run.trainer.sync_batchnorm else single_process():
            query = self._features(method, self.held_out, extent)
            # a dry run uses the held-out features in place of those of the train split
            bank = self._features(method, self.train, extent) if extent == FULL else query
        if rank() == 0:
            with single_process():
                scores = _joined(
                    self._metrics(method, extent),
                    self._geometry(method, query, extent),
                    method.monitors(self._context(method.views, step, extent)),
                    self.scores(bank, query) if self.scores else {},
                )
        method.train(was_training)
        return {f"val/{name}": value for name, value in scores.items()}

    def _features(self, method: Method, source: Source, extent: Extent) -> Features:
        return extract(method, source, self.run.seed, self.device, extent.features)

    def _metrics(self, method: Method, extent: Extent) -> dict[str, float]:
        """Mean metrics over batches of one size, so that each batch has the same number of
        candidates. The size is that of training, or the number of images if this is smaller.
        """
        size = min(self.run.optim.batch_size, len(self.views))
        count = max(1, min(extent.metrics, len(self.views)) // size)
        order = eval_sampler(count * size, self.run.seed, size, self.device, "validation")
        totals: dict[str, float] = {}
        for batch in self.views.batches(order, method.views):
            for name, value in method(batch).metrics.items():
                totals[name] = totals.get(name, 0.0) + value.item() * size / (count * size)
        return totals

    def _geometry(self, method: Method, held_out: Features, extent: Extent) -> dict[str, float]:
        """The spread of the features, and the agreement and spread of the codes of two views. For a
        method without codes, normalised features replace them. Names are those of the geometry
        probe, such as "codes/uniformity". A single image has no spread.
        """
        space, first, second = self._two_views(method, extent.pairs)
        found = {}
        if self.viewed.views_differ:
            found[f"{space}/alignment"] = alignment(first, second).item()
        if len(first) > 1:
            found[f"{space}/uniformity"] = uniformity(first)
            found["features/effective_rank"] = effective_rank(held_out.x)
            found["features/deviation"] = deviations(held_out.x).mean
        return found

    def _two_views(self, method: Method, most: int) -> tuple[str, Tensor, Tensor]:
        """The name "codes" (or "features" for a method without codes), and the codes (or features)
        of two views of `most` images: unit rows, float32 [n, P] each, shuffled.
        """
        order = eval_sampler(
            len(self.pairs), self.run.seed, device=self.device, purpose="information", most=most
        )
        sides: tuple[list[Tensor], list[Tensor]] = [], []
        space = "codes"
        for batch in self.pairs.batches(order, 2):
            for side, view, key in zip(sides, batch.views, (False, True), strict=True):
                made = method.encode(view, key)
                space = "features" if made.codes is None else "codes"
                side.append((made.features if made.codes is None else made.codes).float().cpu())
        first, second = (torch.cat(side) for side in sides)
        shuffled = KeyedRNG(self.run.seed, 0).permutation("pairs", len(first))
        return space, F.normalize(first[shuffled], dim=1), F.normalize(second[shuffled], dim=1)

    def _context(self, views: int, step: int, extent: Extent) -> Context:
        size, n, seed = self.run.optim.batch_size, len(self.source), self.run.seed

        def trained_on(step: int) -> list[Batch]:
            """Batch i is a function of (seed, i), so it is made again and need not be stored."""
            orders = [
                train_sampler(n, size, seed, step, step + 1, r, self.parts, self.device)
                for r in range(self.parts)
            ]
            return [batch for order in orders for batch in self.source.batches(order, views)]

        def held_out(purpose: str, most: int) -> Iterable[Batch]:
            most = min(most, extent.monitored)
            order = eval_sampler(
                len(self.held_out), seed, device=self.device, purpose=purpose, most=most
            )
            return self.held_out.batches(order, 1)

        warmup = self.run.optim.warmup_epochs * (n // size)
        return Context(step, size, n // size, trained_on, held_out, warmup)

    @torch.no_grad()
    def pictures(self, method: Method, folder: Path) -> dict[str, Path]:
        """Save views and the method's own figures."""
        make_folder(folder, "folder", "name another folder=…")
        rows = self.figures(method)
        return {name: save_grid(folder / f"{name}.png", rows[name]) for name in rows}

    @torch.no_grad()
    def figures(self, method: Method) -> dict[str, list[Tensor]]:
        """Rows of images by name: views of ten images, and the method's figures."""
        n = min(128, len(self.views))
        order = eval_sampler(n, self.run.seed, 128, self.device, "pictures")
        batch = next(self.views.batches(order, method.views))
        was_training = method.training
        method.eval()
        names = [f"view {number + 1}" for number in range(len(batch.views))]
        views = Grid([view[:10] for view in batch.views], names, title="Each column: one image")
        made = {"views": views} | method.figures(batch)
        method.train(was_training)
        return made


def _joined(*parts: dict[str, float]) -> dict[str, float]:
    """All numbers of a validation. `UserError` if two of them have the same name."""
    found: dict[str, float] = {}
    for part in parts:
        if both := sorted(found.keys() & part.keys()):
            raise UserError(
                f"val/{both[0]}: the method's numbers and the validation's own numbers both have"
                " this name; rename the method's number"
            )
        found |= part
    return found
