"""The search of neighbours: faiss and the blocks of torch find the same ones, also if images are
equally near or features are not finite, very large or very small.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from core.errors import Unmeasurable
from core.run.features import Features
from probes.labels import knn as module
from probes.labels.knn import KNNProbe, Neighbours, knn, search, vote


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def copies(n: int, different: int, d: int = 17) -> torch.Tensor:
    """n images, of which only some are different, in random order."""
    place = torch.randint(different, (n,), generator=torch.Generator().manual_seed(n))
    return normal(different, d)[place]


BANKS = {
    "one image, many times": copies(5003, 1),
    "few images, many times": copies(5003, 7),
    "each some times": copies(3001, 150),
    "one-hot": F.one_hot(torch.arange(4000) * 7919 % 10, 10).float(),
    "nothing at all": torch.zeros(900, 5),
    "different ones, equally near": torch.eye(401)[0] + torch.eye(401)[1:],
    "two zeros of other signs": torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]).repeat(400, 1),
    "fewer than k": copies(30, 4),
}


@pytest.mark.parametrize("name", BANKS)
@pytest.mark.parametrize("k", [1, 7, 200])
def test_equally_near_images_are_in_index_order(name, k):
    """Against a stable sort of similarities in float64, in which copies are equal by definition."""
    bank = BANKS[name]
    query = torch.cat([bank[:150], -bank[:20], torch.eye(bank.shape[1])[:1]])
    different, original = torch.unique(bank + 0.0, dim=0, return_inverse=True)
    cosine = F.normalize(query.double(), dim=1) @ F.normalize(different.double(), dim=1).T
    expected = (cosine.round(decimals=6)[:, original]).sort(dim=1, descending=True, stable=True)
    for device in (None, torch.device("cpu")):
        found = search(bank, query, k, device)
        assert torch.equal(found.place, expected.indices[:, :k]), device
        torch.testing.assert_close(
            found.similarity.double(), expected.values[:, :k], rtol=0, atol=1e-6
        )
        fewer = search(bank, query, max(1, k // 2), device)
        assert torch.equal(fewer.place, found.first(max(1, k // 2)).place)


def test_copies_that_a_library_scores_apart_are_still_equal(monkeypatch):
    """A kernel may sum a column at the edge of a block in another order than its copy."""
    bank = torch.cat([normal(500, 16), normal(500, 16)[:300], normal(200, 16, seed=1)])
    query = normal(64, 16, seed=2)
    expected = search(bank, query, 20, torch.device("cpu"))
    product = module.matmul

    def uneven(a, b):
        return product(a, b) * (1 + 2e-7 * torch.arange(len(b)).remainder(3))

    monkeypatch.setattr(module, "matmul", uneven)
    found = search(bank, query, 20, torch.device("cpu"))
    copied = torch.cat([torch.arange(500), torch.arange(300), torch.arange(800, 1000)])
    for row in range(64):
        for kept in (expected.place[row].tolist(), found.place[row].tolist()):
            for place in kept:  # no copy without its original, which has the lower index
                assert int(copied[place]) in kept and kept.index(int(copied[place])) <= kept.index(
                    place
                )


def test_images_with_equal_hashes_but_other_features_are_not_duplicates(monkeypatch):
    bank = copies(400, 90)
    expected = module._originals(bank)
    assert torch.equal(bank[expected], bank) and (expected <= torch.arange(400)).all()
    assert len(expected.unique()) == len(bank.unique(dim=0))
    monkeypatch.setattr(torch, "randint", lambda high, shape, **kind: torch.zeros(shape).int())
    assert torch.equal(module._originals(bank), expected)  # all sums are 0


def test_the_size_of_features_changes_no_neighbour():
    bank, query = normal(300, 8), normal(40, 8, seed=1)
    expected = search(bank, query, 9)
    for size in (1e30, 1e-30, 3e37):
        found = search(bank * size, query * size, 9)
        assert torch.equal(found.place, expected.place)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("device", [None, torch.device("cpu")])
def test_features_that_are_not_finite_have_no_neighbours(bad, side, device):
    parts = [normal(300, 8), normal(40, 8, seed=1)]
    parts[side][7, 3] = bad
    with pytest.raises(Unmeasurable, match="^kNN, (training|test) images: .* 1 of"):
        search(*parts, 5, device)


def test_a_missing_neighbour_votes_for_nothing():
    """faiss returns -1 for a missing neighbour, but as an index -1 is the last image."""
    y = torch.ones(10, 1, dtype=torch.long)
    train, test = (Features(normal(10, 4, seed=s), y, (("class", 2),)) for s in (0, 1))
    missing = Neighbours(torch.zeros(10, 3), torch.full((10, 3), -1))
    with pytest.raises(Unmeasurable, match="no neighbours"):
        knn(train, test, 3, found=missing)
    for empty in (train._replace(x=train.x[:0], y=y[:0]), test._replace(x=test.x[:, :0])):
        with pytest.raises(Unmeasurable, match="^kNN"):
            knn(empty, test, 3)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_above_zero_gives_no_votes(temperature):
    """exp(0 / 0) is NaN, and the maximum of NaNs would be the first class."""
    with pytest.raises(ValueError, match="^temperature"):
        vote(torch.ones(3, 4), torch.ones(3, 4, dtype=torch.long), 2, temperature)


def test_votes_are_weighed_by_exp_of_similarity_over_temperature():
    similarity = torch.tensor([[0.9, 0.8, 0.8]])
    labels = torch.tensor([[0, 1, 1]])
    assert vote(similarity, labels, 2, 0.1 / math.log(1.9)) == 1  # 1.9 against 2
    assert vote(similarity, labels, 2, 0.1 / math.log(2.1)) == 0  # 2.1 against 2
    assert vote(similarity * 1e3, labels, 2, 1e-3) == 0


@pytest.mark.parametrize("n, classes, said", [(3000, 4, []), (360, 4, [200]), (60, 4, [60, 20])])
def test_a_k_above_the_size_of_a_class_is_said(n, classes, said):
    """With k above n / classes, images of other classes must join the vote of some class."""
    y = torch.arange(n) % classes
    rows = Features(torch.eye(classes)[y], y[:, None], (("class", classes),))
    held = SimpleNamespace(features=lambda split: rows, device=torch.device("cpu"))
    lines = KNNProbe().sentences(KNNProbe().measure(held).numbers)
    assert [int(line.split("k = ")[1].split(":")[0]) for line in lines[1:]] == said
    assert all("images of other classes must join its vote" in line for line in lines[1:])
    old = {"knn200": {"top1": 1.0, "k": 200.0, "temperature": 0.1}}
    assert len(KNNProbe().sentences(old)) == 1
