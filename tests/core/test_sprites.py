"""Sprites: the content is uniform, can be read from any view without error, and is the only
information that two views share.
"""

import math

import pytest
import torch
from scipy.stats import chisquare

from core.data.datasets import DataConfig, open_source
from core.data.source import eval_sampler, train_sampler
from core.data.sprites import SHAPES, Sprites, SpritesConfig, best_infonce, render
from core.randomness import KeyedRNG
from tests.sprite_reader import background, read

CONFIG = SpritesConfig(train=2000, validation=300, test=4000)


LARGEST = SpritesConfig(4, 8, 1, 4, 16, 8, train=2000, validation=300, test=4000)  # M = 65,536


@pytest.mark.parametrize("config", [CONFIG, LARGEST], ids=["M=288", "M=65536"])
def test_the_content_can_be_read_from_any_view(config):
    source = Sprites(config, "test", 3)
    for batch in source.batches(eval_sampler(4000, 3, 2000), 1):
        assert torch.equal(read(batch.views[0], config), batch.label)


def test_the_default_images_are_those_that_earlier_results_were_measured_on():
    batch = next(
        Sprites(SpritesConfig(train=4096), "train", 0).batches(train_sampler(4096, 256, 0, 0, 1), 2)
    )
    means = batch.views[0][:4].double().mean((1, 2, 3))
    assert means.tolist() == pytest.approx([121.3760, 41.5999, 46.7467, 40.3639], abs=0.01)


def test_content_is_uniform_and_labels_are_its_factors():
    source = Sprites(SpritesConfig(train=60_000), "train", 0)
    assert source.factors == {"shape": 4, "colour": 4, "size": 2, "row": 3, "column": 3}
    assert source.truth.nats == pytest.approx(math.log(288))
    assert source.truth.best_infonce(511) == best_infonce(511, 288) < source.truth.nats
    assert source.rendered and source.augmentation == "fresh rendering"
    radix = torch.tensor([72, 18, 9, 3, 1])
    assert (
        chisquare(torch.bincount((source.content * radix).sum(1), minlength=288).numpy()).pvalue
        > 1e-3
    )


def test_the_background_can_be_part_of_the_content():
    source = Sprites(LARGEST, "train", 0)
    assert (
        list(source.factors.items())[5:] == [("background", 16), ("gradient", 8)]
        and source.combinations == 65536
    )
    assert (
        "gradient" not in SpritesConfig(backgrounds=4).factors
        and "background" not in SpritesConfig(gradients=4).factors
    )
    for column, count in ((i, n) for i, n in enumerate(source.factors.values()) if n > 1):
        assert (
            chisquare(torch.bincount(source.content[:, column], minlength=count).numpy()).pvalue
            > 1e-3
        )
    plain = Sprites(
        SpritesConfig(4, 8, 1, 4, train=2000), "train", 0
    )  # a further factor does not change the draws of the others
    assert torch.equal(source.content[:, :5], plain.content)


def test_views_share_the_content_and_nothing_else():
    source = Sprites(CONFIG, "train", 0)
    batch = next(source.batches(train_sampler(2000, 256, 0, 0, 1), 2))
    first, second = batch.views
    assert first.dtype == torch.uint8 and first.shape == (256, 3, 32, 32)
    assert (first != second).flatten(1).double().mean() > 0.9
    assert (read(first, CONFIG) == read(second, CONFIG)).all()
    grey = torch.stack(
        [view.double().mean(1).flatten(1).median(1).values for view in (first, second)]
    )  # the background's brightness
    assert abs(torch.corrcoef(grey)[0, 1]) < 4 / math.sqrt(256)


@pytest.mark.parametrize("config", [CONFIG, LARGEST], ids=["M=288", "M=65536"])
def test_views_of_one_content_are_independent(config):
    """If all images have the same content, no measurement of one view predicts one of the other
    view.
    """
    source = Sprites(config, "train", 0)
    source.content = source.content[:1].repeat(2000, 1)
    pictures = next(source.batches(eval_sampler(2000, 0, 2000), 2)).views
    first, second = (
        torch.cat(
            [background(x.double()).flatten(1), x.double().amax((2, 3)), x.double().std((2, 3))], 1
        )
        for x in pictures
    )
    rows = torch.cat(
        [first.T, second.T]
    )  # mean and slopes of the background, the sprite's brightest values, contrast
    across = torch.corrcoef(rows)[
        : len(rows) // 2, len(rows) // 2 :
    ].nan_to_num()  # a channel that is always clipped has no variance
    assert across.abs().max() < 5 / math.sqrt(2000)


def test_splits_are_different_draws_and_visits_are_fresh():
    contents = [Sprites(CONFIG, split, 0).content[:300] for split in ("train", "val", "test")]
    assert not torch.equal(contents[0], contents[1]) and not torch.equal(contents[1], contents[2])
    source = Sprites(CONFIG, "train", 0)
    a, b = (
        next(source.batches([(torch.arange(8), KeyedRNG(0, step))], 1)).views[0] for step in (1, 2)
    )
    assert not torch.equal(a, b)


def test_trainval_is_train_followed_by_val():
    train, val, both = (Sprites(CONFIG, split, 0) for split in ("train", "val", "trainval"))
    assert torch.equal(both.content, torch.cat([train.content, val.content])) and len(both) == 2300


def test_splits_that_are_read_in_the_same_order_share_no_nuisance():
    train, test = (
        next(Sprites(CONFIG, split, 0).batches(eval_sampler(256, 0, 256), 1)).views[0]
        for split in ("train", "test")
    )
    grey = torch.stack(
        [view.double().mean(1).flatten(1).median(1).values for view in (train, test)]
    )
    assert abs(torch.corrcoef(grey)[0, 1]) < 4 / math.sqrt(256)


def test_a_batch_is_a_function_of_seed_and_step_for_any_number_of_processes():
    source = Sprites(CONFIG, "train", 0)
    whole = list(source.batches(train_sampler(2000, 64, 7, 29, 33), 2))
    for rank in (0, 1):
        part = list(source.batches(train_sampler(2000, 64, 7, 29, 33, rank, 2), 2))
        for a, b in zip(whole, part, strict=True):
            rows = slice(rank * 32, rank * 32 + 32)
            assert torch.equal(a.index[rows], b.index) and torch.equal(a.label[rows], b.label)
            assert all(torch.equal(x[rows], y) for x, y in zip(a.views, b.views, strict=True))


def test_an_epoch_visits_every_image_once():
    seen = torch.cat([index for index, _ in train_sampler(2000, 100, 0, 20, 40)])
    assert torch.equal(seen.sort().values, torch.arange(2000))


@pytest.mark.parametrize(
    "config",
    [
        SpritesConfig(1, 1, 1, 1),
        SpritesConfig(len(SHAPES), 12, 2, 2),
        SpritesConfig(4, 12, 4, 1),
        SpritesConfig(4, 12, 1, 4),
        SpritesConfig(4, 12, 2, 3, 16, 1),
    ],
)
def test_the_sets_have_adjustable_sizes(config):
    content = torch.stack([torch.arange(256) % n for n in config.factors.values()], 1)
    pictures = render(content, KeyedRNG(0, 0), config)
    assert (read(pictures, config) == content).all()


@pytest.mark.parametrize(
    "change, key",
    [
        ({"shapes": 5}, "shapes"),
        ({"grid": 0}, "grid"),
        ({"grid": 4, "sizes": 2}, "sizes"),
        ({"test": 0}, "test"),
        ({"backgrounds": 17}, "backgrounds"),
        ({"gradients": 0}, "gradients"),
    ],
)
def test_sets_that_could_not_be_read_are_refused(change, key):
    with pytest.raises(ValueError, match=f"sprites.{key}"):
        SpritesConfig(**change)


def test_the_front_door_opens_them():
    assert len(open_source(DataConfig(sprites=CONFIG), "val", 0)) == 300
