"""kNN against torch and scikit-learn, the linear probe against scikit-learn, the information probes
on models whose truth is known.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from core.batch import Batch, Encoded
from core.data.source import Source
from core.data.sprites import Sprites, SpritesConfig
from core.frozen import Frozen
from core.information.bounds import infonce_terms
from core.information.standardise import mean_and_deviation
from core.method import Method
from core.run import config
from core.run.features import Features, extract
from probes.labels.knn import PRESETS, knn, search, vote
from probes.labels.linear import linear
from probes.labels.logistic import Logistic
from probes.latents.rate import RateProbe
from probes.views import critic
from probes.views.critic import refit_scale
from probes.views.duplicates import duplicates
from probes.views.information import information, shuffled, surpassed
from tests.sprite_reader import read
from vae.beta import BetaVAE, BetaVAEConfig
from vae.priors import PriorConfig


def blobs(n: int, seed: int, classes: int = 5, dim: int = 12) -> Features:
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(classes, (n,), generator=g)
    return Features(
        centres[y] + 1.5 * torch.randn(n, dim, generator=g), y[:, None], (("class", classes),)
    )


@pytest.mark.parametrize("k, temperature", [(200, 0.1), (20, 0.07)])
def test_knn_equals_an_exact_torch_search_and_scikit_learn(k, temperature):
    train, test = blobs(800, 0), blobs(300, 1)
    similarity, neighbour = search(train.x, test.x, k)
    exact = (F.normalize(test.x, dim=1) @ F.normalize(train.x, dim=1).T).topk(k)
    torch.testing.assert_close(similarity, exact.values, rtol=1e-5, atol=1e-6)
    predicted = vote(similarity, train.y[:, 0][neighbour], 5, temperature)
    assert torch.equal(predicted, vote(exact.values, train.y[:, 0][exact.indices], 5, temperature))
    peer = KNeighborsClassifier(
        k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    )
    peer.fit(train.x.numpy(), train.y[:, 0].numpy())
    assert torch.equal(predicted, torch.from_numpy(peer.predict(test.x.numpy())))
    assert knn(train, test, k, temperature)["top1"] == pytest.approx(
        peer.score(test.x.numpy(), test.y[:, 0].numpy())
    )


@pytest.mark.parametrize("n, k", [(3000, 20), (3001, 200), (5003, 7), (40, 40), (17, 30)])
def test_the_search_in_blocks_equals_faiss(n, k):
    train, test = blobs(n, 0), blobs(300, 1)
    reference, ours = search(train.x, test.x, k), search(train.x, test.x, k, torch.device("cpu"))
    torch.testing.assert_close(ours.similarity, reference.similarity, rtol=1e-5, atol=1e-6)
    assert (
        ours.place == reference.place
    ).double().mean() > 0.999  # neighbours at the same distance, up to rounding, may be exchanged
    predicted = [
        vote(found.similarity, train.y[:, 0][found.place], 5, 0.1) for found in (reference, ours)
    ]
    assert torch.equal(*predicted)


def test_one_search_is_enough_for_every_k():
    train, test = blobs(800, 0), blobs(100, 1)
    found = search(train.x, test.x, 200)
    for k, temperature in PRESETS.values():
        assert knn(train, test, k, temperature, found) == knn(train, test, k, temperature)


class Repeating(Source):
    """Ten images, of which the last four are copies of the first ones."""

    factors, shape = {"class": 2}, (1, 4, 4)

    def __len__(self):
        return 10

    def batches(self, order, views):
        images = torch.randint(
            256, (6, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
        )
        for index, rng in order:
            yield Batch((images[index % 6],) * views, torch.zeros(len(index), 1), index, rng)


def test_copies_of_an_image_are_found_and_left_out(tmp_path):
    assert duplicates(Repeating()).tolist() == [6, 7, 8, 9]
    run = small_run(tmp_path)
    assert duplicates(Sprites(run.data.sprites, "test", 0)).tolist() == []
    encoder = SimpleNamespace(
        shape=(1, 4, 4), encode=lambda view, key=False: Encoded(view.flatten(1).float())
    )
    frozen = Frozen(encoder, run, sources=lambda split, augmented: Repeating())
    pairs = shuffled(frozen.pairs("test"), 0, leave_out=duplicates(Repeating()))
    assert len(pairs.place) == len(torch.unique(pairs.features[0], dim=0)) == 6


def test_knn_clips_k_to_the_images_there_are():
    assert knn(blobs(30, 0), blobs(20, 1), 200, 0.1)["k"] == 30


@pytest.mark.parametrize("strength", [1e-3, 1e-1])
def test_the_logistic_regression_equals_scikit_learn(strength):
    train, test = blobs(600, 0), blobs(300, 1)
    model = Logistic(train.x.double())
    weight, bias = (
        part[1] for part in model.parameters(model.fit(train.y[:, 0], 5, (10 * strength, strength)))
    )
    peer = LogisticRegression(C=1 / (600 * strength), tol=1e-8, max_iter=2000).fit(
        train.x.double().numpy(), train.y[:, 0].numpy()
    )
    ours = F.linear(test.x.double(), weight, bias).softmax(1)
    torch.testing.assert_close(
        ours, torch.from_numpy(peer.predict_proba(test.x.double().numpy())), rtol=0, atol=1e-4
    )


def test_features_are_standardised_by_torchs_deviation_and_dead_ones_stay_dead():
    x = (
        torch.randn(3000, 5, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 1e3, 1e-9, 2.0, 0.0])
        + 100
    )
    x[:, 2] -= 100
    mean, deviation = mean_and_deviation(x)
    torch.testing.assert_close(mean, x.double().mean(0))
    torch.testing.assert_close(deviation[[0, 1, 3]], x.double().std(0)[[0, 1, 3]])
    assert deviation[[2, 4]].tolist() == [1, 1]


def test_the_linear_probe_scores_every_factor_and_its_information():
    scores = linear(blobs(2000, 0), blobs(2000, 1))
    assert 0.6 < scores["top1"] < 1
    assert 0 < scores["information"] < math.log(5)
    noise = [
        Features(
            torch.randn(1000, 8, generator=torch.Generator().manual_seed(s)),
            blobs(1000, s).y,
            (("class", 5),),
        )
        for s in (3, 4)
    ]
    assert abs(linear(*noise)["information"]) < 0.03


class Oracle(Method):
    """An encoder that reads a sprite's content exactly, like the best contrastive method."""

    temperature = 1 / 40

    def __init__(self, source: Sprites):
        super().__init__(None, source.shape)
        self.source = source

    def forward(self, batch):
        raise NotImplementedError

    def embed(self, x):
        content = read(x, self.source.config)
        return torch.cat(
            [F.one_hot(content[:, i], n) for i, n in enumerate(self.source.factors.values())], 1
        ).float()

    def codes(self, query_view, key_view):
        return F.normalize(self.embed(query_view), dim=1), F.normalize(self.embed(key_view), dim=1)


def test_a_perfect_encoder_of_sprites_reaches_the_best_possible_bound_and_never_the_truth(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(critic, "CYCLES", (100, 200))  # 24 contents are learned fast
    monkeypatch.setattr(critic, "BATCH", 128)
    sprites = SpritesConfig(
        shapes=2, colours=3, sizes=1, grid=2, train=600, validation=200, test=500
    )
    run = config.RunConfig(
        method="x", folder=str(tmp_path), data=config.DataConfig(sprites=sprites)
    )
    found = information(Frozen(Oracle(Sprites(sprites, "test", 0)), run))
    assert found["truth"] == pytest.approx(math.log(24))
    assert set(found["critics"]) == {"native", "native, refitted scale", "common"}
    assert (found["side"], found["split"]) == ("lower bound", "test")
    for row in found["critics"].values():
        rows = row["sweep"]
        assert [row["K"] for row in rows] == [16, 32, 64, 128, 256, 499]
        for row in rows:
            assert row["candidates"] == row["K"] + 1
            assert row["bound"] == pytest.approx(row["ceiling"] - row["loss"])
            half = row["high"] - row["bound"]
            assert row["low"] <= row["bound"] <= row["high"]
            assert row["bound"] <= row["best_possible"] + 2 * half + 0.02
            assert row["low"] <= found["truth"]
    assert found["critics"]["native, refitted scale"]["sweep"][-1]["bound"] > 0.9 * math.log(24)
    assert found["critics"]["common"]["sweep"][-1]["bound"] > 0.9 * math.log(24)


def measured(method: BetaVAE, run: config.RunConfig) -> dict:
    return RateProbe().measure(Frozen(method, run)).numbers


def small_run(tmp_path, **sprites) -> config.RunConfig:
    sizes = SpritesConfig(**{"train": 300, "validation": 100, "test": 400, **sprites})
    return config.RunConfig(
        method="vae.beta.BetaVAE",
        model=BetaVAEConfig(width=8, latent=4),
        folder=str(tmp_path),
        data=config.DataConfig(sprites=sizes),
    )


def test_a_vae_whose_code_ignores_the_image_carries_nothing(tmp_path):
    run = small_run(tmp_path)
    method = BetaVAE(run.model, (3, 32, 32)).eval()
    torch.nn.init.zeros_(method.to_posterior.weight)
    torch.nn.init.zeros_(method.to_posterior.bias)
    found = measured(method, run)
    for key in ("rate", "lower", "upper"):
        assert found[key]["value"] == pytest.approx(0, abs=1e-6)
    assert found["active_units"] == 0
    assert found["nelbo"]["value"] == pytest.approx(found["distortion"]["value"])


def test_a_prior_without_a_closed_form_is_sampled_and_says_so(tmp_path):
    """An untrained flow, which is the standard normal, against the standard normal itself."""
    run = small_run(tmp_path)
    methods = [
        BetaVAE(replace(run.model, prior=PriorConfig(kind)), (3, 32, 32)).eval()
        for kind in ("standard", "flow")
    ]
    torch.nn.init.normal_(methods[0].to_posterior.weight, std=5.0)
    for part in ("encoder", "to_posterior", "decoder", "pixels"):
        getattr(methods[1], part).load_state_dict(getattr(methods[0], part).state_dict())
    closed, sampled = (measured(method, run)["rate"] for method in methods)
    assert closed["estimator"].startswith("closed-form KL") and sampled["estimator"].startswith(
        "log q(z|x) - log p(z)"
    )
    assert (
        sampled["low"] - 0.1 < closed["value"] < sampled["high"] + 0.1
        and sampled["value"] != closed["value"]
    )


def test_the_sandwich_of_an_untrained_vae_is_ordered(tmp_path):
    run = small_run(tmp_path)
    torch.manual_seed(0)
    method = BetaVAE(run.model, (3, 32, 32)).eval()
    torch.nn.init.normal_(method.to_posterior.weight, std=20.0)
    found = measured(method, run)
    assert (
        0
        < found["lower"]["value"]
        <= min(found["upper"]["value"], found["rate"]["value"])
        + 3 * (found["rate"]["high"] - found["rate"]["value"])
    )
    assert found["lower"]["value"] <= found["ceiling"]
    assert 0 <= found["marginal_kl"]["low"] <= found["marginal_kl"]["high"]


def test_extracting_does_not_change_the_method(tmp_path):
    run = small_run(tmp_path)
    method = BetaVAE(run.model, (3, 32, 32)).train()
    features = extract(method, Sprites(run.data.sprites, "test", 0), 0, most=50)
    assert method.training and len(features.x) == 50


def test_a_critic_that_another_surpasses_is_called_limited():
    def at(value: float) -> dict:
        return {"verdict": "converged", "sweep": [{"low": value - 0.02, "high": value + 0.02}]}

    critics = {"native": at(4.1), "refitted": at(7.3), "common": at(7.25)}
    surpassed(critics)
    assert [found["verdict"] for found in critics.values()] == [
        "critic-limited",
        "converged",
        "converged",
    ]


def test_refitted_scale_is_the_best_of_a_grid():
    generator = torch.Generator().manual_seed(0)
    k = F.normalize(torch.randn(600, 8, generator=generator, dtype=torch.float64), dim=1)
    q = F.normalize(k + 0.3 * torch.randn(600, 8, generator=generator, dtype=torch.float64), dim=1)
    scale = refit_scale(q, k, 3.0)
    value = infonce_terms(q, k, scale, [600]).mean()
    assert all(
        infonce_terms(q, k, s, [600]).mean() <= value + 1e-4
        for s in torch.logspace(0, 2, 40).tolist()
    )
