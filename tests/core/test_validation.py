"""What a validation reads and reports: each of its numbers, computed again from the images of the
split, the views and the network that it should come from.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import core.run.validation as module
from core.batch import Encoded, Output
from core.data.datasets import DataConfig
from core.data.images import Arrays
from core.data.source import eval_sampler, train_sampler
from core.information.geometry import effective_rank
from core.method import Method
from core.run.config import OptimConfig, RunConfig, TrainerConfig
from core.run.validation import BLOCK, Extent, Validation

SIZES = {"train": 40, "val": 23}
BATCH = 5


class Recorder(Method):
    """Features are two pixels; the codes of keys come from another network. It notes what it reads,
    and warns as often as it is told.
    """

    def __init__(self, warnings=()):
        super().__init__(None, (3, 16, 16))
        self.scored, self.context, self.told, self.warnings = [], None, [], list(warnings)
        self.coded = True

    def embed(self, x):
        return x[:, :2, 5, 6].float() - 100

    def encode(self, x, key=False):
        found = self.embed(x)
        codes = F.normalize(found + torch.tensor([30.0, -20.0]) * key, dim=1)
        return Encoded(found, codes if self.coded else None)

    def forward(self, batch):
        self.scored.append(batch)
        return Output(torch.zeros(()), {"first": batch.views[0][0, 0, 0, 0].double()})

    def monitors(self, context):
        self.context = context
        return {"own": 3.0}

    def warning(self, scores):
        self.told.append(scores)
        return self.warnings.pop(0) if self.warnings else ""


@pytest.fixture
def opened(monkeypatch):
    """The splits that a validation opens."""
    asked = []

    def open_source(data, split, seed, augmented=True):
        generator = torch.Generator().manual_seed(len(split))
        images = torch.randint(256, (SIZES[split], 3, 16, 16), generator=generator)
        labels = torch.arange(len(images))[:, None] % 3
        asked.append((split, data.augment if augmented else "", seed))
        made = Arrays(images.to(torch.uint8), labels, {"class": 3})
        return made.viewed(data.augment if augmented else "none")

    monkeypatch.setattr(module, "open_source", open_source)
    return asked


def validation_of(scores=None, world=1, labels=True, **changed):
    run = RunConfig(
        method="x", folder="x", seed=3, model=None,
        data=DataConfig(augment="crop", probe_augment="simclr"),
        optim=OptimConfig(batch_size=BATCH, warmup_epochs=0.5),
        trainer=TrainerConfig(sync_batchnorm=False),
    )  # fmt: skip
    run = replace(run, **changed)
    source = module.open_source(run.data, "train", run.seed)
    source.factors = source.factors if labels else {}
    return Validation(run, torch.device("cpu"), source, world, scores), source


def views_of(split, augment, purpose, count, block=BLOCK):
    """(image index, views) of all images of a split, read again."""
    source = module.open_source(DataConfig(augment=augment), split, 3)
    batches = list(source.batches(eval_sampler(SIZES[split], 3, block, purpose=purpose), count))
    return [torch.cat([batch.views[v] for batch in batches]) for v in range(count)]


def test_every_number_is_of_its_own_images_views_and_network(opened):
    seen = []
    validation, _ = validation_of(lambda *both: seen.append(both) or {"knn": 0.5})
    method = Recorder()
    found = validation(method.train(), 7)
    assert method.training

    # the metrics: whole batches of the training's size, over augmented images of val
    assert [len(batch.index) for batch in method.scored] == [BATCH] * 4
    first = views_of("val", "crop", "validation", 2, BATCH)[0][: 4 * BATCH : BATCH, 0, 0, 0]
    assert found["val/first"] == pytest.approx(first.double().mean().item())
    assert all(len(batch.views) == 2 for batch in method.scored)

    # the scores: features of plain images, train first
    ((bank, query),) = seen
    plain = {split: views_of(split, "none", "features", 1)[0] for split in SIZES}
    assert torch.equal(bank.x, method.embed(plain["train"]))
    assert torch.equal(query.x, method.embed(plain["val"]))
    assert found["val/knn"] == 0.5 and found["val/own"] == 3.0

    # the geometry: codes of two views with the augmentation of the information probe
    one, two = views_of("val", "simclr", "information", 2)
    queries, keys = method.encode(one).codes, method.encode(two, key=True).codes
    apart = (queries - keys).square().sum(1)
    assert found["val/codes/alignment"] == pytest.approx(apart.mean().item(), rel=1e-5)
    pairs = torch.pdist(queries.double()).square().mul(-2).exp().mean()
    assert found["val/codes/uniformity"] == pytest.approx(math.log(pairs), rel=1e-4)
    features = method.embed(plain["val"]).double()
    assert found["val/features/effective_rank"] == pytest.approx(effective_rank(features))
    unit = F.normalize(features, dim=1)
    spread = unit.std(0, correction=0) * math.sqrt(2)
    assert found["val/features/deviation"] == pytest.approx(spread.mean().item(), rel=0.03)
    assert set(found) == {
        f"val/{name}" for name in (
            "first", "knn", "own", "codes/alignment", "codes/uniformity",
            "features/effective_rank", "features/deviation",
        )
    }  # fmt: skip

    method.coded = False  # then features take the place of codes
    without = validation(method, 7)
    same = F.normalize(method.embed(one), dim=1) - F.normalize(method.embed(two), dim=1)
    expected = same.square().sum(1).mean().item()
    assert without["val/features/alignment"] == pytest.approx(expected, rel=1e-5)
    assert "val/codes/alignment" not in without


@pytest.mark.parametrize("synchronised", [False, True])
def test_monitors_learn_the_step_and_may_read_the_batches_of_training_again(opened, synchronised):
    trainer = TrainerConfig(sync_batchnorm=synchronised)
    validation, source = validation_of(world=2, trainer=trainer, optim=OptimConfig(
        batch_size=4, warmup_epochs=0.5
    ))  # fmt: skip
    method = Recorder()
    validation(method, 6)
    context = method.context
    assert (context.step, context.batch_size, context.steps_per_epoch) == (6, 4, 10)
    assert context.warmup == 5.0  # half an epoch of ten steps
    parts = context.trained_on(3)
    ranks = 1 if synchronised else 2
    assert len(parts) == ranks
    for rank, part in enumerate(parts):
        order = train_sampler(40, 4, 3, 3, 4, rank, ranks)
        (batch,) = source.batches(order, 2)
        assert torch.equal(part.index, batch.index)
        assert all(map(torch.equal, part.views, batch.views))
    (held,) = context.held_out("mine", 9)
    (expected,) = eval_sampler(23, 3, purpose="mine", most=9)
    assert torch.equal(held.index, expected[0]) and len(held.views) == 1
    drawn, again = (rng.uniform("any", 5) for rng in (held.rng, expected[1]))
    assert torch.equal(drawn, again)
    assert [len(batch.index) for batch in context.held_out("mine", 10**6)] == [23]


def test_only_the_first_of_consecutive_warnings_is_said(opened):
    validation, _ = validation_of()
    method = Recorder(["a", "b", "", "c"])
    said = []
    for step in range(5):
        validation(method, step)
        said.append(validation.warning)
    assert said == ["a", "", "", "c", ""]
    assert method.told[0]["own"] == 3.0 and "first" in method.told[0]  # names without "val/"


def test_without_labels_a_number_that_the_validation_measures_chooses_the_best(opened):
    """Whatever the method measures: the bound of a method that has it, else the effective rank."""
    validation, _ = validation_of(lambda *_: {"knn": 1.0}, labels=False)
    method = Recorder()
    names = list(validation(method, 0))
    assert "val/knn" not in names
    assert validation.criterion(method, names) == "val/features/effective_rank"
    assert validation.criterion(method, [*names, "val/in_batch_bound"]) == "val/in_batch_bound"
    said = validation.said_of_criterion(method, names)
    assert "best.ckpt is chosen by val/features/effective_rank, the effective rank" in said
    assert "no labels for val/knn" in said
    method.criterion = "own"  # which needs no labels
    assert validation.criterion(method, names) == "val/own"
    assert validation.said_of_criterion(method, names) == ""
    labelled, _ = validation_of(lambda *_: {"knn": 1.0})
    method.criterion = "knn"
    assert labelled.criterion(method, ["val/in_batch_bound"]) == "val/knn"


@pytest.mark.parametrize(("images", "read"), [(23, 23), (BLOCK + 2, BLOCK + 2), (900, BLOCK)])
def test_a_rehearsal_reads_few_images_and_the_last_small_block(opened, monkeypatch, images, read):
    monkeypatch.setitem(SIZES, "val", images)
    seen = []
    validation, _ = validation_of(lambda *both: seen.append(both) or {"knn": 0.5})
    extents = []
    monkeypatch.setattr(validation, "_context", lambda views, step, extent: extents.append(extent))
    method = Recorder()
    names = set(validation.rehearse(method, 1))
    ((bank, query),) = seen
    assert len(query.x) == read and bank is query
    assert extents == [Extent(read, 2, BLOCK, 1)] and len(method.scored) == 1
    assert names == set(validation(method, 1))


def test_the_splits_are_opened_once_with_the_run_s_seed(opened):
    validation_of()
    assert sorted(opened) == sorted(
        [("train", "crop", 3), ("val", "crop", 3), ("train", "", 3), ("val", "", 3)]
        + [("val", "simclr", 3)]
    )
