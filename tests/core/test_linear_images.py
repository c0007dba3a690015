"""Linear-Gaussian images: closed forms agree with a multivariate normal of their covariance."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from core.data.datasets import DataConfig, open_source
from core.data.linear_gaussian import LinearGaussianConfig, best_infonce, patterns
from core.data.source import eval_sampler
from core.run import config

SMALL = LinearGaussianConfig(
    side=4, rank=3, largest=2.0, decay=0.5, noise=0.3, train=64, validation=16, test=20_000
)
DATA = DataConfig(name="linear_gaussian", augment="none", linear_gaussian=SMALL)


def covariance():
    basis = patterns(4)
    return (basis * SMALL.eigenvalues) @ basis.T


def read(split, seed=0, views=1, block=512):
    source = open_source(DATA, split, seed)
    return list(source.batches(eval_sampler(len(source), 0, block), views))


def test_density_and_entropy_are_those_of_the_normal():
    source = open_source(DATA, "test", 0)
    normal = multivariate_normal(np.zeros(16), covariance().numpy())
    x = torch.cat([batch.views[0] for batch in read("test")[:2]])
    assert x.dtype == torch.float32 and x.shape == (1024, 1, 4, 4)
    np.testing.assert_allclose(source.log_prob(x), normal.logpdf(x.flatten(1).double()), rtol=1e-9)
    assert source.entropy == pytest.approx(normal.entropy(), abs=1e-9)


def test_images_have_the_covariance_and_their_views_the_information():
    batches = read("test", views=2)
    first, second = (
        torch.cat([batch.views[v] for batch in batches]).flatten(1).double() for v in range(2)
    )
    n = len(first)
    spread = (
        torch.outer(covariance().diag(), covariance().diag()).add(covariance() ** 2).div(n).sqrt()
    )  # of a sample covariance
    assert ((first.T @ first / n - covariance()).abs() < 5 * spread).all()
    both = multivariate_normal(
        np.zeros(32), np.block([[covariance().numpy(), shared()], [shared(), covariance().numpy()]])
    )
    source = open_source(DATA, "test", 0)
    pointwise = (
        both.logpdf(torch.cat([first, second], 1))
        - (source.log_prob(first) + source.log_prob(second)).numpy()
    )
    assert source.truth.nats == pytest.approx(2 * source.entropy - both.entropy(), abs=1e-9)
    assert abs(pointwise.mean() - source.truth.nats) < 4 * pointwise.std() / n**0.5


def shared():
    basis = patterns(4)
    return ((basis * SMALL.variances) @ basis.T).numpy()


def test_patterns_are_orthonormal_and_begin_with_the_mean():
    basis = patterns(8)
    torch.testing.assert_close(basis.T @ basis, torch.eye(64, dtype=torch.float64))
    assert (basis[:, 0] - 1 / 8).abs().max() < 1e-12


def test_an_image_is_a_function_of_seed_split_and_place():
    content = {
        key: open_source(DATA, *key).content
        for key in (("train", 0), ("train", 1), ("val", 0), ("trainval", 0))
    }
    assert not content["train", 0].equal(content["train", 1]) and not content["train", 0][
        :16
    ].equal(content["val", 0])
    assert content["trainval", 0].equal(torch.cat([content["train", 0], content["val", 0]]))
    again, other = read("train")[0], read("train", seed=1)[0]
    assert again.views[0].equal(read("train")[0].views[0]) and not again.views[0].equal(
        other.views[0]
    )
    assert again.label.shape == (64, 1) and set(again.label.flatten().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.augment=simclr"], "augment"),
        (["data.probe_augment=crop"], "probe_augment"),
        (["data.size=32"], "size: .* are not resized.*linear_gaussian.side=32"),
        (["data.linear_gaussian.rank=65"], "rank"),
        (["data.linear_gaussian.noise=0"], "noise"),
        (["data.linear_gaussian.decay=2"], "decay"),
        (["data.linear_gaussian.sides=8"], "side"),
    ],
)
def test_invalid_words_are_one_line(overrides, said):
    with pytest.raises(config.UserError, match=said) as refused:
        config.read(
            "configs/beta_vae_sprites.yaml",
            ["data.name=linear_gaussian", "data.augment=none", *overrides],
        )
    assert "\n" not in str(refused.value)


def test_the_best_infonce_is_that_of_a_simulation_with_the_true_densities():
    correlations, k, n = torch.tensor([0.8, 0.5, 0.1], dtype=torch.float64), 31, 20_000
    truth = -0.5 * torch.log1p(-(correlations**2)).sum().item()
    g = torch.Generator().manual_seed(1)
    x, noise = (torch.randn(n, 3, generator=g).double() for _ in range(2))
    y = correlations * x + (1 - correlations**2).sqrt() * noise
    others = torch.randn(n, k, 3, generator=g).double()  # each anchor has negatives of its own

    def log_ratio(x, y):  # log p(y|x) / p(y); each coefficient is normal
        deviation = (1 - correlations**2).sqrt()
        given = torch.distributions.Normal(correlations * x, deviation).log_prob(y)
        return (given - torch.distributions.Normal(0.0, 1.0).log_prob(y)).sum(-1)

    own = log_ratio(x, y)
    every = torch.cat([own[:, None], log_ratio(x[:, None], others)], 1)
    terms = own - every.logsumexp(1) + np.log(k + 1)
    found = best_infonce(k, correlations)
    assert abs(found - terms.mean()) < 4 * terms.std() / n**0.5 + 0.01
    assert found <= truth and best_infonce(8191, correlations) == pytest.approx(truth, abs=0.02)
    assert best_infonce(1, correlations) < np.log(2)


def test_the_truth_of_a_source_is_that_of_its_spectrum():
    source = open_source(DATA, "test", 0)
    correlations = SMALL.variances[:3] / SMALL.eigenvalues[:3]
    assert source.truth.best_infonce(63) == best_infonce(63, correlations)
    assert source.truth.best_infonce(63) < min(source.truth.nats, np.log(64))
    assert source.rendered and source.augmentation == "fresh rendering"


def test_splits_and_views_that_are_read_in_the_same_order_share_no_noise():
    """The difference of two views of an image is noise alone."""
    noises = []
    for split in ("train", "val"):
        first, second, third = (x[:16].flatten() for x in read(split, views=3)[0].views)
        noises += [first - second, second - third]
    noises = torch.stack(noises).double()
    assert noises.std(1).tolist() == pytest.approx([0.3 * 2**0.5] * 4, rel=0.2)
    found = torch.corrcoef(noises)
    assert found[0, 1] == pytest.approx(-0.5, abs=0.2)  # one view in common
    assert (found[:2, 2:].abs() < 4 / 256**0.5).all()
