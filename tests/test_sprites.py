"""Sprites: the content is uniform, can be read from any view without error, and is all that two views share."""

from core.data import DataConfig, open_source
from core.randomness import Draws
from core.source import reading_order, training_order
from core.sprites import SHAPES, Sprites, SpritesConfig, coverage, render

import math

import pytest
import torch
from scipy.stats import chisquare

CONFIG = SpritesConfig(train=2000, validation=300, test=4000)


def read(images: torch.Tensor, config: SpritesConfig) -> torch.Tensor:
    """A reader that knows how sprites are drawn and nothing about an image's nuisance: contents [B, 5].

    Backgrounds are grey, so colourfulness is coverage: the colour is its mean hue; everything else the nearest of rendered templates.
    """
    x = images.float() / 255
    chroma = x.amax(1) - x.amin(1)
    centre = chroma.flatten(1).topk(8).indices
    r, g, b = (x.flatten(2).gather(2, centre[:, None].expand(-1, 3, -1)).mean(2)).unbind(1)
    hue = torch.atan2(math.sqrt(3) * (g - b), 2 * r - g - b) / (2 * math.pi)
    colour = (hue * config.colours).round().long() % config.colours
    places = 5 if config.grid == 1 else 3  # about a pixel apart
    angles, steps = torch.arange(24) * 2 * math.pi / 24, torch.linspace(-1, 1, places)
    ranges = [torch.arange(n) for n in (config.shapes, config.sizes, config.grid, config.grid)]
    what = torch.cartesian_prod(*ranges, torch.arange(24), torch.arange(places), torch.arange(places))
    content = torch.stack([what[:, 0], torch.zeros(len(what), dtype=torch.long), what[:, 1], what[:, 2], what[:, 3]], 1)
    templates = coverage(content, angles[what[:, 4]], torch.stack([steps[what[:, 5]], steps[what[:, 6]]], 1), config).flatten(1)
    # least squares with a free brightness: the best template has the largest projection
    unit = templates / templates.norm(dim=1, keepdim=True)
    found = content[(chroma.flatten(1) @ unit.T).argmax(1)].clone()
    found[:, 1] = colour
    return found


def test_the_content_can_be_read_from_any_view():
    source = Sprites(CONFIG, "test", 3)
    for batch in source.batches(reading_order(4000, 3, 500), 1):
        assert torch.equal(read(batch.views[0], CONFIG), batch.label)


def test_content_is_uniform_and_labels_are_its_factors():
    source = Sprites(SpritesConfig(train=60_000), "train", 0)
    assert source.factors == {"shape": 4, "colour": 4, "size": 2, "row": 3, "column": 3}
    assert source.information == pytest.approx(math.log(288))
    radix = torch.tensor([72, 18, 9, 3, 1])
    assert chisquare(torch.bincount((source.content * radix).sum(1), minlength=288).numpy()).pvalue > 1e-3


def test_views_share_the_content_and_nothing_else():
    source = Sprites(CONFIG, "train", 0)
    batch = next(source.batches(training_order(2000, 256, 0, 0, 1), 2))
    first, second = batch.views
    assert first.dtype == torch.uint8 and first.shape == (256, 3, 32, 32)
    assert (first != second).flatten(1).double().mean() > 0.9
    assert (read(first, CONFIG) == read(second, CONFIG)).all()
    grey = torch.stack([view.double().mean(1).flatten(1).median(1).values for view in (first, second)])  # the background's brightness
    assert abs(torch.corrcoef(grey)[0, 1]) < 4 / math.sqrt(256)


def test_splits_are_different_draws_and_visits_are_fresh():
    contents = [Sprites(CONFIG, split, 0).content[:300] for split in ("train", "val", "test")]
    assert not torch.equal(contents[0], contents[1]) and not torch.equal(contents[1], contents[2])
    source = Sprites(CONFIG, "train", 0)
    a, b = (next(source.batches([(torch.arange(8), Draws(0, step))], 1)).views[0] for step in (1, 2))
    assert not torch.equal(a, b)


def test_trainval_is_train_followed_by_val():
    train, val, both = (Sprites(CONFIG, split, 0) for split in ("train", "val", "trainval"))
    assert torch.equal(both.content, torch.cat([train.content, val.content])) and len(both) == 2300


def test_splits_that_are_read_in_the_same_order_share_no_nuisance():
    train, test = (next(Sprites(CONFIG, split, 0).batches(reading_order(256, 0, 256), 1)).views[0] for split in ("train", "test"))
    grey = torch.stack([view.double().mean(1).flatten(1).median(1).values for view in (train, test)])
    assert abs(torch.corrcoef(grey)[0, 1]) < 4 / math.sqrt(256)


def test_a_batch_is_a_function_of_seed_and_step_whatever_the_number_of_processes():
    source = Sprites(CONFIG, "train", 0)
    whole = list(source.batches(training_order(2000, 64, 7, 29, 33), 2))
    for rank in (0, 1):
        part = list(source.batches(training_order(2000, 64, 7, 29, 33, rank, 2), 2))
        for a, b in zip(whole, part, strict=True):
            rows = slice(rank * 32, rank * 32 + 32)
            assert torch.equal(a.index[rows], b.index) and torch.equal(a.label[rows], b.label)
            assert all(torch.equal(x[rows], y) for x, y in zip(a.views, b.views, strict=True))


def test_an_epoch_visits_every_image_once():
    seen = torch.cat([index for index, _ in training_order(2000, 100, 0, 20, 40)])
    assert torch.equal(seen.sort().values, torch.arange(2000))


@pytest.mark.parametrize(
    "config", [SpritesConfig(1, 1, 1, 1), SpritesConfig(len(SHAPES), 12, 2, 2), SpritesConfig(4, 12, 4, 1), SpritesConfig(4, 12, 1, 4)]
)
def test_the_sets_have_adjustable_sizes(config):
    content = torch.stack([torch.arange(256) % n for n in config.factors.values()], 1)
    pictures = render(content, Draws(0, 0), config)
    assert (read(pictures, config) == content).all()


@pytest.mark.parametrize(
    "change, key", [({"shapes": 5}, "shapes"), ({"grid": 0}, "grid"), ({"grid": 4, "sizes": 2}, "sizes"), ({"test": 0}, "test")]
)
def test_sets_that_could_not_be_read_are_refused(change, key):
    with pytest.raises(ValueError, match=f"sprites.{key}"):
        SpritesConfig(**change)


def test_the_front_door_opens_them():
    assert len(open_source(DataConfig(sprites=CONFIG), "val", 0)) == 300
