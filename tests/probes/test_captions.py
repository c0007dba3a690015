"""Probes of captions: bounds of an ideal critic against the exact values, retrieval, zero-shot."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.data.caption_truth import Telling
from core.frozen import Frozen
from core.randomness import KeyedRNG
from core.run import config
from probes.registry import PROBES
from probes.session import load_probes
from probes.texts import captions as module
from probes.texts.captions import both_ways
from probes.texts.encoded import TextPairs, encoded_texts, text_pairs
from probes.texts.reader import reader
from probes.texts.retrieval import RetrievalProbe, recall
from probes.texts.zero_shot import classify, zero_shot
from tests.small_clip import frozen_clip

COUNTS = {"shape": 4, "colour": 6, "size": 2}
NAMES = ["captions", "retrieval", "zero_shot", "reader"]


def ideal(told: dict[str, float], n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of n drawn pairs whose inner product is log p(t | c) / p(t), or -60 instead of -inf."""
    rng = torch.Generator().manual_seed(2)
    counts = torch.tensor(list(COUNTS.values()))
    contents = torch.cartesian_prod(*(torch.arange(int(m)) for m in counts))
    own = torch.randint(len(contents), (n,), generator=rng)
    tells = torch.rand(n, len(counts), generator=rng) < torch.tensor(list(told.values()))
    fits = ((contents[own][:, None] == contents) | ~tells[:, None]).all(2)
    size = torch.where(tells, counts, 1).prod(1, keepdim=True)
    return F.one_hot(own, len(contents)).float(), torch.where(fits, size.log(), -60.0)


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_the_bound_of_an_ideal_critic_is_the_best_possible_value_in_both_directions(share):
    told = dict.fromkeys(COUNTS, share)
    truth = Telling(COUNTS, told).truth
    found = both_ways(ideal(told, 1500), 1.0, truth)
    for way in ("image_to_text", "text_to_image", "sweep"):
        for row in found[way]:
            error = (row["high"] - row["low"]) / 3.92
            assert abs(row["bound"] - row["best_possible"]) < 4 * error + 1e-3, (way, row)
    last = found["sweep"][-1]
    assert last["K"] == 1499 and last["bound"] <= math.log(1500)
    mean = (found["image_to_text"][-1]["bound"] + found["text_to_image"][-1]["bound"]) / 2
    assert last["bound"] == pytest.approx(mean, abs=1e-9)
    assert last["best_possible"] <= truth.nats


def test_a_critic_that_knows_nothing_finds_nothing():
    rng = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(600, 8, generator=rng), dim=1) for _ in range(2))
    found = both_ways((image, text), 0.1)
    assert found["verdict"] == "nothing found" and abs(found["sweep"][-1]["bound"]) < 0.01


def test_recall_equals_a_sorted_list_and_ties_are_broken_at_random():
    rng = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(70, 4, generator=rng), dim=1) for _ in range(2))
    order = (image @ text.T).argsort(1, descending=True)
    for k in (1, 5, 10):
        hit = (order[:, :k] == torch.arange(70)[:, None]).any(1)
        assert torch.equal(recall(image, text, k) == 1, hit)
    same = F.normalize(torch.ones(8, 4), dim=1)
    torch.testing.assert_close(recall(same, same, 2), torch.full((8,), 0.25).double())


def test_a_class_is_the_mean_of_the_codes_or_of_the_probabilities_of_its_sentences():
    rng = torch.Generator().manual_seed(0)
    unit = [F.normalize(torch.randn(n, 5, generator=rng), dim=1) for n in (600, 7, 4, 9)]
    by_codes, by_probabilities = classify(unit[0], unit[1:], 0.1)
    for number, image in enumerate(unit[0][:50]):
        mean = [F.cosine_similarity(image, codes.mean(0), dim=0) for codes in unit[1:]]
        shares = [torch.exp(codes @ image / 0.1).mean() for codes in unit[1:]]
        assert by_codes[number] == torch.stack(mean).argmax()
        assert by_probabilities[number] == torch.stack(shares).argmax()
    assert len(by_codes) == 600 and not torch.equal(by_codes, by_probabilities)


@pytest.fixture(scope="module")
def trained() -> Frozen:
    return frozen_clip(40, tell=0.9, unseen=0.25)


def test_every_probe_of_captions_measures_a_trained_clip(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("probes.views.critic.CYCLES", (15, 30))
    from probes.report import store

    for name, probe in load_probes(NAMES).items():
        assert probe.requires(trained) == ""
        found = probe.measure(trained, **probe.options)
        store.check(probe, found.numbers)
        assert all(file.is_file() for file in probe.figures(found, trained, tmp_path).values())
        if name == "captions":
            critic = found.numbers["critics"]["common"]
            last, truth = critic["sweep"][-1], found.numbers["truth"]
            assert truth == pytest.approx(0.9 * math.log(8))
            assert last["bound"] > 0.5 and last["low"] < last["best_possible"] < truth
            assert "the truth is I(image;caption) = 1.871" in " ".join(
                probe.sentences(found.numbers)
            )
        if name == "retrieval":
            rows = found.numbers["image_to_text"]
            assert rows[0]["recall"] > 2 * rows[0]["chance"]
            assert rows[-1]["low"] <= rows[-1]["best_possible"] <= 1


def test_a_reader_of_perfect_features_reaches_the_best_possible_numbers(monkeypatch):
    """Features that name each told value, from the grammar itself."""
    frozen = frozen_clip(train=3000, test=3000, tell=0.6)
    grammar = frozen.source("test").grammar

    def pairs(frozen: Frozen, split: str, most: int | None = None) -> TextPairs:
        source = frozen.source(split)
        label = source.content
        texts = list(source.texts(label, KeyedRNG(0, 0)))
        rows = torch.zeros(len(texts), 2, 4)  # both factors with several values
        for row, told in zip(rows, map(grammar.told, texts), strict=True):
            for column, factor in enumerate(("shape", "colour")):
                if factor in told:
                    row[column, told[factor]] = 1
        return TextPairs((rows[:, 0], rows.flatten(1)), (rows[:, 0],) * 2, texts, label, label)

    monkeypatch.setattr("probes.texts.reader.text_pairs", pairs)
    for factor, row in reader(frozen)["labels"].items():
        count = {"shape": 2, "colour": 4}[factor]
        assert row["best_top1"] == pytest.approx(0.6 + 0.4 / count)
        assert row["top1"] == pytest.approx(row["best_top1"], abs=0.03)
        assert row["best_information"] == pytest.approx(0.6 * math.log(count))
        assert row["information"] == pytest.approx(row["best_information"], abs=0.03)


def test_seen_and_unseen_combinations_are_told_apart(trained):
    numbers = zero_shot(trained)
    parts = numbers["parts"]
    assert parts["all"]["images"] == parts["seen"]["images"] + parts["unseen"]["images"] == 96
    assert parts["all"]["codes"]["colour"]["value"] > 0.5 and set(numbers["prompts"]) == {
        "shape",
        "colour",
    }
    weighted = sum(
        parts[part]["images"] * parts[part]["codes"]["colour"]["value"]
        for part in ("seen", "unseen")
    )
    assert weighted / 96 == pytest.approx(parts["all"]["codes"]["colour"]["value"])
    joint = parts["all"]["codes"]["all factors"]
    assert joint["value"] <= parts["all"]["codes"]["shape"]["value"] and joint["chance"] == 0.125


def test_pairs_are_the_images_of_the_other_probes_and_texts_are_encoded_once(trained):
    pairs = text_pairs(trained, "test")
    assert text_pairs(trained, "test") is pairs
    features = trained.features("test")
    torch.testing.assert_close(pairs.features[0], features.x[pairs.place])
    several = [n for n, count in enumerate(trained.source("test").factors.values()) if count > 1]
    assert torch.equal(pairs.label[:, several], features.y[pairs.place])
    twice = encoded_texts(trained, ["a disc", "a ring", "a disc"])[1]
    assert torch.equal(twice[0], twice[2]) and not torch.equal(twice[0], twice[1])


def test_other_encoders_and_other_data_have_a_reason():
    values = {"method": "contrastive.simclr.SimCLR", "folder": "none"}
    run = config.from_dict(values, "test")
    from core.run import checkpoint

    frozen = Frozen(checkpoint.build_method(run, (3, 32, 32)), run)
    clip = frozen_clip()
    plain = Frozen(clip.method, run)
    for probe in load_probes(NAMES).values():
        assert probe.requires(frozen) == "the encoder reads no captions"
        assert probe.requires(plain) == "the images have no captions"
    assert all(PROBES[name].startswith(module.__name__.rpartition(".")[0]) for name in NAMES)


def test_chance_of_a_recall_in_a_gallery_of_fewer_pairs_is_one():
    numbers = RetrievalProbe().measure(frozen_clip(), gallery=8).numbers
    for way in ("image_to_text", "text_to_image"):
        rows = {row["k"]: row for row in numbers[way]}
        assert [rows[k]["chance"] for k in (1, 5, 10)] == [1 / 8, 5 / 8, 1.0]
        assert rows[10]["recall"] == 1
