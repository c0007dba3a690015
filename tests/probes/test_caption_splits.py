"""Probes of captions read the split, the direction and the rows that their reports name."""

from types import SimpleNamespace
from unittest.mock import ANY, patch

import pytest
import torch
import torch.nn.functional as F

from probes.texts import binding, encoded
from probes.texts.captions import DIRECTIONS, both_ways, critics
from probes.texts.encoded import TextPairs, encoded_texts
from probes.texts.retrieval import RetrievalProbe, recall
from probes.texts.zero_shot import zero_shot
from tests.small_clip import frozen_clip


def pairs(n: int, seed: int, noise: float = 0.5) -> TextPairs:
    """Codes of images and captions that share most of their content; the captions are rotated."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn(n, 6, generator=rng)
    text = (image + noise * torch.randn(n, 6, generator=rng))[:, [1, 2, 3, 4, 5, 0]]
    codes = F.normalize(image, dim=1), F.normalize(text[:, [5, 0, 1, 2, 3, 4]], dim=1)
    return TextPairs(
        (image, text), codes, [str(i) for i in range(n)], torch.zeros(n, 1), torch.arange(n)
    )


@pytest.fixture(scope="module")
def untrained():
    return frozen_clip(tell=0.9, unseen=0.25)


def test_what_is_chosen_is_chosen_on_val_alone(monkeypatch):
    monkeypatch.setattr("probes.views.critic.CYCLES", (10, 20))
    train, val, test = (pairs(200, seed, 0.8) for seed in range(3))
    noisy = pairs(200, 4, 3.0)  # its best scale is far lower

    def found(val: TextPairs, test: TextPairs):
        return critics(train, val, test, 0.1, None, 0)

    first, second, third = found(val, test), found(val, noisy), found(noisy, test)
    for name in ("native, refitted scale", "common"):
        assert first[name]["scale"] == second[name]["scale"] != third[name]["scale"]
        for key in ("floor", "candidates"):  # of the certificate, for as many pairs
            assert first[name]["certificate"][key] == second[name]["certificate"][key]
        assert first[name]["certificate"]["low"] > second[name]["certificate"]["low"] + 0.05
    assert first["native"]["sweep"] == third["native"]["sweep"] != second["native"]["sweep"]


def test_each_direction_is_that_of_its_anchors():
    image, text = pairs(200, 0).codes
    image = F.normalize(image + torch.eye(6)[0], dim=1)  # so that the directions differ
    scores, own = 4.0 * image.double() @ text.double().T, torch.arange(200)
    found = both_ways((image, text), 4.0)
    for way, table in (("image_to_text", scores), ("text_to_image", scores.T)):
        assert found[way][-1]["loss"] == pytest.approx(F.cross_entropy(table, own).item(), abs=1e-5)
    assert abs(found["image_to_text"][-1]["loss"] - found["text_to_image"][-1]["loss"]) > 0.02


def test_half_of_the_training_pairs_that_read_as_much_gain_nothing():
    codes = pairs(300, 0).codes
    gain = both_ways(codes, 3.0, halved=(codes, 3.0))["doubling"]
    assert gain == pytest.approx({"gain": 0, "low": 0, "high": 0, "extrapolated": ANY}, abs=1e-12)


def test_recall_in_blocks_is_that_of_all_queries_at_once(monkeypatch):
    image, text = pairs(70, 1).codes
    whole = recall(image, text, 5)
    monkeypatch.setattr("probes.texts.retrieval.BLOCK", 16)
    assert torch.equal(recall(image, text, 5), whole) and 0 < whole.mean() < 1


def test_the_best_recall_is_that_of_its_direction(untrained):
    found = RetrievalProbe().measure(untrained, gallery=40).numbers
    truth = untrained.source("test").text_truth
    ways = {"image_to_text": truth.recall_from_image, "text_to_image": truth.recall_from_text}
    for way, best in ways.items():
        assert [row["best_possible"] for row in found[way]] == [best(40, k) for k in (1, 5, 10)]
    assert truth.recall_from_image(40, 1) != truth.recall_from_text(40, 1)


def test_the_best_possible_bound_is_that_of_its_direction_and_its_negatives(untrained):
    truth = untrained.source("test").text_truth
    found = both_ways(pairs(40, 0).codes, 5.0, truth)
    for way, best in zip(DIRECTIONS, (truth.from_image, truth.from_text), strict=True):
        assert [row["K"] for row in found[way]] == [16, 32, 39]
        assert [row["best_possible"] for row in found[way]] == [best(k) for k in (16, 32, 39)]
    both = (truth.from_image(39) + truth.from_text(39)) / 2
    assert found["sweep"][-1]["best_possible"] == both
    assert truth.from_image(39) != truth.from_text(39)


def test_the_parts_of_zero_shot_are_those_of_the_source(untrained):
    labels = encoded.text_pairs(untrained, "test").label
    unseen = int(untrained.source("test").unseen(labels).sum())
    parts = zero_shot(untrained)["parts"]
    assert (parts["unseen"]["images"], parts["seen"]["images"]) == (unseen, 96 - unseen)
    assert unseen not in (0, 48, 96)


def test_copies_of_an_image_are_left_out_of_test_alone_and_each_row_is_of_one_image(untrained):
    grammar = untrained.source("test").grammar
    for split, rest in (("test", 94), ("val", 64)):
        with patch.object(encoded, "duplicates", lambda source, device: torch.tensor([3, 70])):
            found = encoded._encoded(untrained, split, None)
        assert len(found.place) == rest
        assert bool({3, 63} & set(found.place.tolist())) and (3 in found.place) == (split == "val")
        names = list(untrained.source(split).factors)
        for text, label in zip(found.texts, found.label.tolist(), strict=True):
            told = grammar.told(text)
            assert told == {name: label[names.index(name)] for name in told}
        features, codes = encoded_texts(untrained, found.texts)
        torch.testing.assert_close((found.features[1], found.codes[1]), (features, codes))


def test_false_captions_are_compared_with_the_image_of_their_row(monkeypatch):
    """Rows without a false caption are left out, and the others keep their images."""
    rows = [None if i % 3 == 0 else (f"{i}", f"{(i + 1) % 8}") for i in range(8)]
    source = SimpleNamespace(contrasts=lambda label, rng: {"colours": rows, "none": [None] * 8})
    frozen = SimpleNamespace(seed=0, source=lambda split: source)
    given = pairs(8, 0)._replace(codes=(torch.eye(8), torch.eye(8)))
    monkeypatch.setattr(binding, "text_pairs", lambda frozen, split: given)
    codes = {str(i): row for i, row in enumerate(torch.eye(8))}
    monkeypatch.setattr(
        binding,
        "encoded_texts",
        lambda frozen, texts: (None, torch.stack([codes[text] for text in texts])),
    )
    found = binding.binding(frozen)["swaps"]
    assert list(found) == ["colours"]
    assert (found["colours"]["value"], found["colours"]["images"]) == (1.0, 5)
