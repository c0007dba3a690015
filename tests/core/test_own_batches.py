"""A user's own data set is refused, with its name, if its batches differ from what it declares."""

from dataclasses import dataclass

import pytest
import torch

from core.batch import Batch
from core.data.datasets import DataConfig, open_source
from core.data.registry import trust
from core.data.source import Source
from core.errors import UserError


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
    for split in ("train", "val", "trainval", "test"):
        assert len(open_source(DataConfig(name=f"{__name__}.Good"), split, 0)) == 10


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
