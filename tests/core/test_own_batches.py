"""A user's own data set is refused, with its name, if its batches differ from what it declares."""

from dataclasses import dataclass

import pytest
import torch

from core.batch import Batch, Encoded
from core.data.datasets import DataConfig, open_source
from core.data.images import Arrays, Facts, Stored, make_batch
from core.data.registry import trust
from core.data.source import Source
from core.data.stored_captions import Told
from core.errors import UserError
from core.frozen import Frozen
from core.randomness import KeyedRNG
from core.run import config


@dataclass
class NoKeys:
    pass


class Good(Source):
    Config = NoKeys
    shape = (3, 8, 8)
    rendered = True

    def __init__(self, config, split, seed):
        self.factors = {"colour": 4, "place": 2}

    def __len__(self):
        return 10

    def batches(self, order, views):
        for index, rng in order:
            pictures = torch.zeros(len(index), 3, 8, 8, dtype=torch.uint8)
            label = torch.stack([index % 4, index % 2], 1)
            yield Batch((pictures,) * views, label, index, rng)


class Changed(Good):
    def batches(self, order, views):
        for batch in super().batches(order, views):
            yield self.changed(batch)


class OneView(Changed):
    def changed(self, batch):
        return batch._replace(views=batch.views[:1])


class OtherShape(Good):
    shape = (3, 16, 16)


class Bright(Changed):
    def changed(self, batch):
        return batch._replace(views=tuple(view.float() + 255 for view in batch.views))


class Whole(Changed):
    def changed(self, batch):
        return batch._replace(views=tuple(view.long() for view in batch.views))


class FlatLabels(Changed):
    def changed(self, batch):
        return batch._replace(label=batch.label[:, 0])


class ManyLabels(Changed):
    def changed(self, batch):
        return batch._replace(label=batch.label + 2)


class NoFactors(Good):
    def __init__(self, config, split, seed):
        pass


@pytest.fixture(autouse=True)
def trusted():
    trust("tests")


def test_a_good_set_is_opened_for_every_split():
    for split in ("train", "val", "test"):
        assert len(open_source(DataConfig(name=f"{__name__}.Good"), split, 0)) == 10


class Drawn(Good):
    """Contents that are drawn for each split; its class knows no trainval."""

    def __init__(self, config, split, seed):
        assert split in ("train", "val", "test")
        super().__init__(config, split, seed)
        self.first = {"train": 0, "val": 100, "test": 200}[split]

    def batches(self, order, views):
        for batch in super().batches(order, views):
            content = (self.first + batch.index).byte()[:, None, None, None]
            noise = batch.rng.uniform("noise", len(batch.index), 1).expand(-1, 3)[..., None, None]
            image = content.expand(-1, 3, 8, 8) / 255 + 1e-3 * noise.expand(-1, 3, 8, 8) / 2
            yield batch._replace(views=(image.float(),) * views, text=())


def test_trainval_is_train_followed_by_val():
    name = f"{__name__}.Drawn"
    whole = open_source(DataConfig(name=name), "trainval", 0)
    parts = [open_source(DataConfig(name=name), split, 0) for split in ("train", "val")]
    assert len(whole) == 20 and whole.identity.images == 20 and whole.factors == parts[0].factors
    assert whole.identity.digests != parts[0].identity.digests and whole.rendered
    order = [torch.tensor([0, 12, 3, 19]), torch.tensor([9, 8]), torch.tensor([11, 10])]
    entries = [(index, KeyedRNG(0, number)) for number, index in enumerate(order)]
    found = list(whole.batches(entries, 2))
    for index, batch in zip(order, found, strict=True):
        place = torch.where(index < 10, index, index + 90)  # image i of val shows 100 + i
        assert torch.equal(batch.index, index) and len(batch.views) == 2
        assert torch.equal((batch.views[0][:, 0, 0, 0] * 255).round().long(), place)
        assert torch.equal(batch.label[:, 0], torch.where(index < 10, index, index - 10) % 4)
    # rows of train and val in one batch have random numbers of their own
    noise = (found[0].views[0][:, 0, 0, 0] * 255 - torch.tensor([0, 102, 3, 109])) * 2 / 0.255
    assert len(set(noise.mul(100).round().tolist())) == 4
    # batches of one split get what the split itself gives
    alone = next(iter(parts[1].batches([(order[2] - 10, KeyedRNG(0, 2))], 1)))
    assert torch.equal(alone.views[0], found[2].views[0])


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_two_views_of_a_pair_show_one_image(split):
    """The first views of a rendered set are read from trainval, the second ones from the split."""
    run = config.read("configs/simclr_sprites.yaml", [f"data.name={__name__}.Drawn", "folder=x"])
    held = Frozen(Looks(), run).pairs(split)
    first, second = (255 * view[:, 0] for view in held.features)
    assert torch.equal(first.round(), second.round())
    assert torch.equal(first.round().long(), held.place + {"train": 0, "val": 100}[split])


class Looks:
    """An encoder whose only feature is one pixel."""

    def embed(self, x):
        return x.flatten(1)[:, :1]

    def encode(self, x, key=False):
        return Encoded(self.embed(x))


class Kept(Arrays):
    """Images in memory. Its class takes every unknown split for test."""

    Config = NoKeys

    def __init__(self, config, split, seed):
        first = {"train": 0, "val": 100}.get(split, 200)
        images = (first + torch.arange(10)).byte()[:, None, None, None].expand(10, 1, 4, 4)
        super().__init__(images.contiguous(), torch.arange(10)[:, None] % 2, {"parity": 2})


class Told10(Kept):
    """Images in memory with captions. Its class takes every unknown split for test."""

    def __init__(self, config, split, seed):
        super().__init__(config, split, seed)
        first = int(self.images[0, 0, 0, 0])
        self.with_captions(Told([f"image {first + i}" for i in range(10)]))


class Streamed(Stored):
    """Images that are read when they are needed. Its class takes every unknown split for test."""

    Config = NoKeys

    def __init__(self, config, split, seed):
        self.kept = Kept(config, split, seed)
        self.factors, self.shape, self.facts = self.kept.factors, self.kept.shape, Facts()
        self.policy = self.kept.policy

    def __len__(self):
        return len(self.kept)

    def _content(self):
        return self.kept._content()

    def batches(self, order, views):
        for index, rng in order:
            image, label = self.kept.images[index], self.kept.labels[index]
            yield make_batch(image, label, index, rng, self.policy, views)


@pytest.mark.parametrize("kind", ["Kept", "Told10", "Streamed"])
def test_trainval_of_stored_images_holds_no_test_images(kind):
    opened = {
        split: open_source(DataConfig(name=f"{__name__}.{kind}", augment="none"), split, 0)
        for split in ("train", "val", "trainval", "test")
    }
    seen = {
        split: next(source.batches([(torch.arange(len(source)), KeyedRNG(0, 0))], 1))
        for split, source in opened.items()
    }
    whole = seen["trainval"]
    assert whole.views[0][:, 0, 0, 0].tolist() == [*range(10), *range(100, 110)]
    assert whole.label[:, 0].tolist() == 2 * ([0, 1] * 5)
    if kind == "Told10":
        assert whole.text == tuple(f"image {i}" for i in (*range(10), *range(100, 110)))
        assert len(list(opened["trainval"].captions(20))) == 20
    facts = opened["trainval"].identity
    assert facts.images == 20 and facts.split == "trainval" and len(opened["train"]) == 10
    assert len({source.identity.fingerprint for source in opened.values()}) == 4
    views = open_source(DataConfig(name=f"{__name__}.{kind}", augment="crop"), "trainval", 0)
    assert views.augmentation == "crop" and opened["trainval"].augmentation == "none"


class Raises(Good):
    def __init__(self, config, split, seed):
        torch.zeros(-3)


class RaisesLater(Good):
    def batches(self, order, views):
        raise KeyError("no such picture")
        yield


class RaisesLast(Good):
    """Its first images are fine, so the check of a new set finds nothing."""

    def batches(self, order, views):
        for batch in super().batches(order, views):
            if batch.index.max() == 7:
                torch.zeros(3)[batch.index]
            yield batch


def test_an_error_of_a_later_batch_is_one_line_too():
    source = open_source(DataConfig(name=f"{__name__}.RaisesLast"), "train", 0)
    entries = [(torch.tensor([first, first + 1]), KeyedRNG(0, first)) for first in (0, 6)]
    batches = source.batches(entries, 1)
    assert next(batches).index.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"RaisesLast \(train\) raised IndexError: .*, line \d+\)"):
        next(batches)


@pytest.mark.parametrize("kind, said", [(Raises, "RuntimeError"), (RaisesLater, "KeyError")])
def test_an_error_of_the_class_is_one_line_with_its_place(kind, said):
    name = f"{__name__}.{kind.__name__}"
    with pytest.raises(UserError) as error:
        open_source(DataConfig(name=name), "train", 0)
    text = str(error.value)
    assert text.startswith(f"data.name: {name} (train) raised {said}: ") and "\n" not in text
    assert "(test_own_batches.py, line " in text and "data.options" in text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (OneView, "(val) makes 1 views instead of 2"),
        (OtherShape, "(val) makes views of shape (2, 3, 8, 8), but its `shape` asks for (2, 3,"),
        (Bright, "(val) makes views that are neither uint8 nor floats in [0, 1]"),
        (Whole, "(val) makes views that are neither uint8 nor floats in [0, 1]"),
        (FlatLabels, "(val) makes labels of shape (2,), but its `factors` ask for (2, 2)"),
        (ManyLabels, "(val) makes labels [2, 3] of place; they must be 0 to 1"),
        (NoFactors, "has no `factors`"),
    ],
)
def test_a_set_is_refused_with_what_is_wrong(kind, said):
    name = f"{__name__}.{kind.__name__}"
    with pytest.raises(UserError) as error:
        open_source(DataConfig(name=name), "val", 0)
    assert str(error.value).startswith(f"data.name: {name} ") and said in str(error.value)
