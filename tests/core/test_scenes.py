"""Scenes of two sprites: captions, exchanged captions, and the information of both."""

import math

import pytest
import torch

from core.data.scenes import Scenes, ScenesConfig, render
from core.data.source import eval_sampler
from core.randomness import KeyedRNG
from probes.texts.binding import preferred


def source(split: str = "test", **keys: int) -> Scenes:
    return Scenes(ScenesConfig(**({"train": 64, "validation": 32, "test": 200} | keys)), split, 0)


def test_a_caption_tells_both_things_and_their_sides():
    made = source()
    (batch,) = made.batches(eval_sampler(200, 0, 200), 1)
    seen = dict(zip(batch.text, batch.label.tolist(), strict=True))
    contents: dict[frozenset[str], set[tuple[int, ...]]] = {}
    for text, label in seen.items():
        contents.setdefault(frozenset([text]), set()).add(tuple(label))
    assert all(len(found) == 1 for found in contents.values())
    assert made.text_truth.nats == pytest.approx(math.log(256)) == made.truth.nats
    assert len({text.split()[0] for text in batch.text}) > 1  # several forms


def test_an_exchange_keeps_the_words_and_makes_the_caption_false():
    made = source()
    found = made.contrasts(made.content, KeyedRNG(0, 0))
    assert set(found) == {"colours", "shapes", "places"}
    articles = str.maketrans("", "", ",:")
    for name, rows in found.items():
        share = sum(both is not None for both in rows) / len(rows)
        assert share == pytest.approx(15 / 16 if name == "places" else 3 / 4, abs=0.12)
        for both in filter(None, rows):
            words = [sorted(set(text.translate(articles).split()) - {"a", "an"}) for text in both]
            assert both[0] != both[1] and words[0] == words[1]


def test_a_picture_shows_the_left_thing_on_the_left():
    """With one shape of two colours, the mean colour of each half is that of its thing."""
    config = ScenesConfig(shapes=1, colours=2)
    content = torch.tensor([[0, 0, 0, 1], [0, 1, 0, 0]]).repeat(20, 1)
    images = render(content, KeyedRNG(0, 0), config).float()
    red, cyan = images[:, 0], images[:, 1:].mean(1)
    left = (red - cyan)[:, :, :16].mean((1, 2)) > (red - cyan)[:, :, 16:].mean((1, 2))
    assert torch.equal(left, content[:, 1] == 0)


def test_the_nearer_caption_is_preferred_and_a_tie_is_a_half():
    image = torch.eye(3)
    true, false = torch.eye(3)[[0, 2, 2]], torch.eye(3)[[1, 1, 2]]
    assert preferred(image, true, false).tolist() == [1.0, 0.0, 0.5]
