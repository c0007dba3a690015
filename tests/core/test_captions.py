"""Captioned sprites: the grammar, and the information of its captions against brute force."""

import itertools
import math
import re
from collections import defaultdict

import pytest
import torch

from core.data.caption_truth import Telling
from core.data.captioned_sprites import CaptionedSprites, CaptionedSpritesConfig, held_out
from core.data.datasets import DataConfig, open_source
from core.data.grammar import Grammar
from core.data.source import eval_sampler
from core.data.sprites import best_infonce
from core.errors import UserError
from core.randomness import KeyedRNG
from core.run import config

SMALL = {"shape": 2, "colour": 3}
SIZES = {"train": 400, "validation": 64, "test": 300}


def joint(counts: dict[str, int], told: dict[str, float]) -> dict[tuple[tuple, str], float]:
    """p(content, caption) by enumeration of every content, omission and wording."""
    grammar, found = Grammar(counts), defaultdict(float)
    contents = list(itertools.product(*(range(n) for n in counts.values())))
    for content in contents:
        for mask in itertools.product((False, True), repeat=len(counts)):
            rows = list(zip(counts, content, mask, strict=True))
            tells = {factor: value for factor, value, on in rows if on}
            p = math.prod(told[f] if on else 1 - told[f] for f, _, on in rows) / len(contents)
            for text, share in grammar.wordings(tells) if p else ():
                found[content, text] += p * share
    return found


def marginals(table: dict) -> tuple[dict, dict]:
    content, text = defaultdict(float), defaultdict(float)
    for (c, t), p in table.items():
        content[c] += p
        text[t] += p
    return content, text


@pytest.mark.parametrize(
    "told",
    [
        {"shape": 1.0, "colour": 1.0},
        {"shape": 0.5, "colour": 0.25},
        {"shape": 0.0, "colour": 1.0},
        {"shape": 0.0, "colour": 0.0},
    ],
)
def test_the_information_is_that_of_the_enumerated_joint_distribution(told):
    table = joint(SMALL, told)
    content, text = marginals(table)
    assert sum(table.values()) == pytest.approx(1, abs=1e-12)
    exact = sum(p * math.log(p / content[c] / text[t]) for (c, t), p in table.items())
    assert Telling(SMALL, told).nats == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("negatives", [1, 2, 3])
def test_the_best_infonce_is_that_of_every_set_of_candidates(negatives):
    told = {"shape": 0.5, "colour": 0.25}
    table = joint(SMALL, told)
    content, text = marginals(table)
    ratio = {(c, t): table.get((c, t), 0.0) / content[c] / text[t] for c in content for t in text}
    found = {"image": 0.0, "text": 0.0}
    # texts of the same ratios count as one, with the sum of their probabilities
    kinds = defaultdict(float)
    for t, p in text.items():
        kinds[tuple(round(ratio[c, t], 9) for c in content)] += p
    numbered = {c: number for number, c in enumerate(content)}
    for c, number in numbered.items():
        for own, p_own in kinds.items():
            p = content[c] * own[number] * p_own
            if not p:
                continue
            for others in itertools.product(kinds, repeat=negatives):
                weight = p * math.prod(kinds[other] for other in others)
                total = own[number] + sum(other[number] for other in others)
                found["image"] += weight * math.log((negatives + 1) * own[number] / total)
            for contents in itertools.product(numbered.values(), repeat=negatives):
                weight = p / len(content) ** negatives
                total = own[number] + sum(own[other] for other in contents)
                found["text"] += weight * math.log((negatives + 1) * own[number] / total)
    truth = Telling(SMALL, told).truth
    assert truth.from_image(negatives) == pytest.approx(found["image"], abs=1e-7)
    assert truth.from_text(negatives) == pytest.approx(found["text"], abs=1e-7)


@pytest.mark.parametrize("negatives", [1, 15, 511, 8191])
def test_the_integral_equals_the_binomial_sum_where_both_hold(negatives):
    whole = Telling({"shape": 4, "colour": 4, "size": 2, "row": 3, "column": 3}, ALL)
    assert whole.from_image(negatives) == pytest.approx(best_infonce(negatives, 288), abs=1e-10)
    vague = Telling({"shape": 4, "colour": 4}, {"shape": 0.3, "colour": 0.8})
    assert vague.from_image(10**6) == pytest.approx(vague.nats, abs=1e-4)
    assert vague.from_text(10**6) == pytest.approx(vague.nats, abs=1e-4)


ALL = dict.fromkeys(("shape", "colour", "size", "row", "column"), 1.0)


def test_the_best_recall_is_that_of_an_ideal_ranking_of_drawn_pairs():
    told, n, k = {"shape": 0.6, "colour": 0.7}, 40, 3
    truth, rng = Telling(SMALL, told).truth, torch.Generator().manual_seed(0)
    draws, hits = 4000, {"image": 0.0, "text": 0.0}
    values = torch.stack([torch.randint(m, (draws, n), generator=rng) for m in SMALL.values()], 2)
    tells = torch.rand(draws, n, 2, generator=rng) < torch.tensor(list(told.values()))
    counts = torch.tensor(list(SMALL.values()))
    r = torch.where(tells, counts, 1).prod(2).double()  # of each caption
    for side in hits:
        if side == "image":  # the first image against all captions
            fits = ((values[:, :1] == values) | ~tells).all(2)
            score = torch.where(fits, r, 0)
        else:
            fits = ((values[:, :1] == values) | ~tells[:, :1]).all(2)
            score = fits.double()
        above = (score > score[:, :1]).sum(1)
        ties = (score == score[:, :1]).sum(1)
        hits[side] = ((k - above) / ties).clamp(0, 1).mean().item()
    assert truth.recall_from_image(n, k) == pytest.approx(hits["image"], abs=0.02)
    assert truth.recall_from_text(n, k) == pytest.approx(hits["text"], abs=0.02)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_best_recall_of_an_image_is_that_of_every_set_of_captions(k):
    """Another caption is more informative, equally so, less so or does not agree, independently."""
    telling, n = Telling(SMALL, {"shape": 0.6, "colour": 0.7}), 5
    agree = {r: p / r for r, p in telling.sizes.items()}  # and tell R_S = r
    found = 0.0
    for own, share in telling.sizes.items():
        more = sum(p for r, p in agree.items() if r > own)
        kinds = {"above": more, "equal": agree[own], "below": 1 - more - agree[own]}
        for others in itertools.product(kinds, repeat=n - 1):
            above, equal = others.count("above"), others.count("equal")
            hit = min(1.0, max(0.0, (k - above) / (1 + equal)))
            found += share * math.prod(kinds[other] for other in others) * hit
    assert telling.recall_from_image(n, k) == pytest.approx(found, abs=1e-12)


def test_a_caption_of_every_setting_determines_what_it_tells():
    counts = {"shape": 4, "colour": 12, "size": 4, "row": 4, "column": 4}
    for grammar in (
        Grammar(counts),
        Grammar(
            {
                "shape": 3,
                "colour": 5,
                "size": 2,
                "row": 2,
                "column": 3,
                "background": 12,
                "gradient": 8,
            }
        ),
    ):
        rng = torch.Generator().manual_seed(0)

        def pick(n: int, rng: torch.Generator = rng) -> int:
            return int(torch.randint(n, (), generator=rng))

        for _ in range(600):
            tells = {f: pick(len(w)) for f, w in grammar.words.items() if pick(2)}
            assert grammar.told(grammar.caption(tells, pick)) == tells


def test_every_wording_is_drawn_with_its_probability_and_reads_like_english():
    grammar = Grammar({"shape": 4, "colour": 4, "size": 2, "row": 3, "column": 3})
    tells = {"shape": 2, "colour": 0, "size": 1, "row": 0, "column": 0}
    found = dict(grammar.wordings(tells))
    assert math.fsum(p for _, p in grammar.wordings(tells)) == pytest.approx(1)
    assert {"a small red triangle near the top left", "top left: red triangle, small"} <= set(found)
    assert "an object" in dict(grammar.wordings({}))
    assert all(text == text.strip() and "  " not in text for text in found)


def source(split: str = "train", **keys: object) -> CaptionedSprites:
    return CaptionedSprites(CaptionedSpritesConfig(**(SIZES | keys)), split, 0)


def test_captions_tell_each_factor_as_often_as_asked_and_tell_the_truth():
    made = source(train=3000, tell=0.5, told={"shape": 1.0, "row": 0.0})
    (batch,) = made.batches(eval_sampler(3000, 0, 3000), 0)
    told = [made.grammar.told(text) for text in batch.text]
    for row, label in zip(told, batch.label.tolist(), strict=True):
        content = dict(zip(made.factors, label, strict=True))
        assert row.items() <= content.items()
    share = {f: sum(f in row for row in told) / 3000 for f in made.factors}
    assert share["shape"] == 1 and share["row"] == 0
    assert abs(share["colour"] - 0.5) < 0.04 and abs(share["column"] - 0.5) < 0.04
    nats = math.log(4) + 0.5 * math.log(4 * 2 * 3)
    assert made.text_truth.nats == pytest.approx(nats)
    assert made.text_truth.nats < made.truth.nats == pytest.approx(math.log(288))


def test_a_process_draws_its_part_of_the_captions_of_the_global_batch():
    from core.randomness import KeyedRNG

    made, index = source(tell=0.7), torch.arange(12)
    (whole,) = made.batches([(index, KeyedRNG(3, 5))], 1)
    parts = [
        next(made.batches([(index[6 * rank : 6 * rank + 6], KeyedRNG(3, 5, rank, 2))], 1))
        for rank in (0, 1)
    ]
    assert parts[0].text + parts[1].text == whole.text
    (again,) = made.batches([(index, KeyedRNG(3, 6))], 1)
    assert again.text != whole.text


def test_a_large_batch_is_rendered_in_parts_with_the_same_numbers(monkeypatch):
    from core.data import sprites
    from core.randomness import KeyedRNG

    made = source()
    for rank, world in ((0, 1), (1, 2)):
        rng, content = KeyedRNG(1, 2, rank, world), made.content[:24]
        whole = sprites.render(content, rng, made.config)
        for size in (8, 5, 23):  # 3 parts, 5 unequal ones (so one), 2
            monkeypatch.setattr(sprites, "AT_ONCE", size)
            assert torch.equal(sprites.render(content, rng, made.config), whole)
        monkeypatch.undo()


def test_held_out_combinations_are_in_test_alone():
    made = {split: source(split, unseen=0.25) for split in ("train", "val", "trainval", "test")}
    for split in ("train", "val", "trainval"):
        assert not made[split].unseen(made[split].content).any()
        assert made[split].text_truth is None and made[split].truth is None
    held = made["test"].unseen(made["test"].content)
    assert abs(held.float().mean() - 0.25) < 0.08 and made["test"].text_truth is not None
    content = made["train"].content
    assert torch.equal(made["trainval"].content[: len(content)], content)
    for column, count in zip(content.T, made["train"].factors.values(), strict=True):
        assert len(column.unique()) == count  # each value alone is seen
    assert source("test").unseen(content) is None


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"tell": 1.5}, "data.captioned_sprites.tell: must be in [0, 1], got 1.5"),
        ({"told": {"color": 0.5}}, "there is no 'color' (did you mean 'colour'?)"),
        ({"told": {"size": -1}}, "data.captioned_sprites.told.size: must be in [0, 1], got -1"),
        ({"unseen": 0.9}, "data.captioned_sprites.unseen: must be in [0, 0.5], got 0.9"),
        ({"backgrounds": 16}, "backgrounds: captions have words for only 12, got 16"),
    ],
)
def test_a_wrong_key_is_one_line(keys, said):
    values = {
        "method": "contrastive.simclr.SimCLR",
        "folder": "none",
        "data": {"name": "captioned_sprites", "captioned_sprites": keys},
    }
    with pytest.raises(UserError, match=re.escape(said)):
        config.from_dict(values, "test")


def test_the_set_is_opened_by_name_and_its_identity_knows_the_dial():
    keys = CaptionedSpritesConfig(**SIZES, tell=0.5)
    made = open_source(DataConfig(name="captioned_sprites", captioned_sprites=keys), "val", 0)
    assert len(list(made.captions(20))) == 20 and made.captioned
    other = CaptionedSpritesConfig(**SIZES, tell=0.6)
    there = open_source(DataConfig(name="captioned_sprites", captioned_sprites=other), "val", 0)
    assert made.identity.fingerprint != there.identity.fingerprint


def test_combinations_that_are_held_out_leave_factors_nearly_independent():
    counts = [4, 4, 2, 3, 3]
    held = held_out(counts, 0.25, KeyedRNG(0, 0))
    assert len(held) == len(set(held.tolist())) == 72
    values = torch.stack(torch.unravel_index(held, counts), 1)
    for a, b in itertools.combinations(range(5), 2):
        number = values[:, a] * counts[b] + values[:, b]
        lost = torch.bincount(number, minlength=counts[a] * counts[b])
        share = lost * counts[a] * counts[b] / 288  # of 0.25; at random up to 0.5 and down to 0.06
        assert share.min() > 0.15 and share.max() < 0.35, (a, b, lost)
    assert not torch.equal(held, held_out(counts, 0.25, KeyedRNG(1, 0)))
    assert len(held_out([4] * 7, 0.1, KeyedRNG(0, 0))) == 1638


def test_a_caption_can_be_made_to_tell_any_factor_also_the_first():
    """Captions of two contents that differ in one factor never agree if this factor is told."""
    chance = CaptionedSpritesConfig(**SIZES, tell=0.001)
    source, rng = CaptionedSprites(chance, "test", 0), KeyedRNG(0, 0)
    content = torch.zeros(20, len(source.factors), dtype=torch.long)
    for column, (factor, count) in enumerate(source.factors.items()):
        other = content.clone()
        other[:, column] = count - 1
        both = [source.texts(one, rng, always=column) for one in (content, other)]
        assert count == 1 or all(a != b for a, b in zip(*both, strict=True))
        assert source.texts(content, rng)[:5] == source.texts(other, rng)[:5]  # nothing is told
        states = source.prompts()[factor]
        assert len(states) == count and len({text for of in states for text in of}) >= count
