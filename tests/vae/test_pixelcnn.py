"""The PixelCNN: its receptive field by gradients, its probabilities by enumeration, its samples by
their frequencies.
"""

import itertools

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor
from torch.nn.utils.parametrizations import weight_norm

from core.errors import UserError
from core.networks.likelihoods import Likelihood
from core.randomness import KeyedRNG
from vae.autoregressive import AutoregressiveImage
from vae.masked import MaskedConv2d
from vae.pixelcnn import PixelCNN
from vae.window import Window

SETTINGS = [  # window, context, scale, image shape
    ("full", "pixels", 1, (1, 9, 7)),
    ("full", "pixels", 1, (3, 4, 5)),
    ("full", "grey", 1, (3, 5, 4)),
    ("6", "pixels", 1, (1, 8, 16)),
    ("2", "pixels", 1, (3, 5, 6)),
    ("1", "pixels", 1, (3, 4, 4)),
    ("3", "grey", 1, (3, 5, 6)),
    ("4x2", "pixels", 1, (1, 6, 7)),
    ("4x2", "pixels", 1, (3, 5, 6)),
    ("5x3", "pixels", 1, (3, 5, 6)),
    ("7x4", "pixels", 1, (3, 6, 8)),
    ("1x1", "pixels", 1, (3, 3, 3)),
    ("4x2", "grey", 1, (3, 5, 6)),
    ("3x1", "coarse", 2, (3, 6, 8)),
    ("4x2", "coarse", 2, (1, 8, 10)),
]


def build(
    window: Window,
    shape: tuple[int, int, int],
    parameters: int = 1,
    features: int = 2,
    width: int = 6,
    blocks: int = 2,
) -> PixelCNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PixelCNN(shape, window, parameters, width, blocks, features)


@pytest.mark.parametrize("text, context, scale, shape", SETTINGS)
def test_a_prediction_depends_on_exactly_the_values_of_its_window(text, context, scale, shape):
    window = Window.parse(text, context, scale)
    network = build(window, shape, parameters=2).double()
    rng = KeyedRNG(0, 0)
    x, features = (
        rng.uniform("x", 1, *shape).double(),
        rng.normal("features", 1, 2, *shape[1:]).double(),
    )

    def total(
        x: Tensor,
    ) -> Tensor:  # of both parameters of a value, so that each value has one number
        return network(x, network.condition(features)).unflatten(1, (-1, 2)).pow(2).sum(2)

    jacobian = torch.autograd.functional.jacobian(total, x)[0, ..., 0, :, :, :]
    assert torch.equal(jacobian != 0, window.fitted(shape).matrix(shape))


@pytest.mark.parametrize("text, context, scale, shape", SETTINGS)
def test_every_prediction_reads_all_conditioning_features_at_its_own_place(
    text, context, scale, shape
):
    network = build(Window.parse(text, context, scale), shape).double()
    rng = KeyedRNG(0, 0)
    x, features = (
        rng.uniform("x", 1, *shape).double(),
        rng.normal("features", 1, 2, *shape[1:]).double(),
    )
    jacobian = torch.autograd.functional.jacobian(
        lambda u: network(x, network.condition(u)), features
    )[0, :, :, :, 0]
    corner = jacobian[
        :, 0, 0, :, :2, :2
        # the first pixel, which reads no pixel, reads its right and lower neighbours' features as
        # well
    ]
    assert (corner != 0).all()
    assert (jacobian.diagonal(dim1=1, dim2=4).diagonal(dim1=1, dim2=3) != 0).all()


def test_windows_are_those_of_the_paper():
    seen = Window.parse("6").fitted((1, 28, 28)).matrix((1, 28, 28))[0, 14, 14, 0]
    assert seen.sum() == 69
    rows = seen.nonzero()[:, 0]
    assert rows.min() == 8 and rows.max() == 14
    assert seen[14].nonzero().flatten().tolist() == [8, 9, 10, 11, 12, 13]
    for text, left, right, above in (("4x2", 2, 1, 2), ("5x3", 2, 2, 3), ("7x4", 3, 3, 4)):
        seen = Window.parse(text).fitted((1, 28, 28)).matrix((1, 28, 28))[0, 14, 14, 0]
        expected = torch.zeros(28, 28, dtype=torch.bool)
        expected[14 - above : 14, 14 - left : 14 + right + 1] = True
        expected[14, 14 - left : 14] = True
        assert torch.equal(seen, expected)


def test_full_context_is_every_earlier_pixel_and_a_coarse_one_every_finished_cell():
    matrix = (
        Window.parse("full")
        .fitted((3, 5, 4))
        .matrix((3, 5, 4))
        .permute(1, 2, 0, 4, 5, 3)
        .reshape(60, 60)
    )
    assert torch.equal(matrix, torch.ones(60, 60, dtype=torch.bool).tril(-1))
    seen = Window.parse("3x1", "coarse", 4).fitted((1, 28, 28)).matrix((1, 28, 28))[0, 13, 14, 0]
    expected = torch.zeros(28, 28, dtype=torch.bool)
    expected[8:12, 8:20] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize("text", ["full", "6", "7x4"])
def test_the_window_at_full_size_by_the_gradient_of_one_pixel(text):
    shape = (1, 28, 28)
    network, x = (
        build(Window.parse(text), shape).double(),
        KeyedRNG(0, 0).uniform("x", 1, *shape).double().requires_grad_(),
    )
    matrix = network.window.matrix(shape)
    for i, j in ((27, 27), (14, 14), (20, 1), (0, 5)):
        (gradient,) = torch.autograd.grad(network(x)[0, 0, i, j], x)
        assert torch.equal(gradient[0] != 0, matrix[0, i, j])


def test_weight_norm_without_a_mask_is_torchs():
    ours = MaskedConv2d(4, 5, torch.ones(3, 3, dtype=torch.bool), "all")
    theirs = weight_norm(torch.nn.Conv2d(4, 5, 3, padding=1))
    ours.gain.data.uniform_(0.5, 2)
    theirs.parametrizations.weight.original1.data.copy_(ours.weight.data)
    theirs.parametrizations.weight.original0.data.copy_(ours.gain.data[:, None, None, None])
    theirs.bias.data.copy_(ours.bias.data)
    x = KeyedRNG(0, 0).normal("x", 2, 4, 6, 6)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("text", ["full", "1", "2", "2x1"])
def test_the_probabilities_of_all_binary_images_sum_to_one(text):
    network = build(Window.parse(text), (1, 3, 3)).double()
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=9)), dtype=torch.float64).view(
        512, 1, 3, 3
    )
    features = KeyedRNG(0, 0).normal("features", 1, 2, 3, 3).double().expand(512, -1, -1, -1)
    law = AutoregressiveImage(network, Likelihood("bernoulli", 1), features)
    assert law.log_prob(images).shape == (512, 1, 3, 3)
    assert law.log_prob(images).flatten(1).sum(1).exp().sum().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    "likelihood, shape",
    [
        ("bernoulli", (1, 5, 6)),
        ("logistic", (3, 4, 4)),
        ("categorical", (3, 4, 4)),
        ("logistic_mixture", (3, 4, 4)),
    ],
)
@pytest.mark.parametrize("text", ["full", "2", "3x2"])
def test_log_prob_is_the_product_of_conditionals_computed_one_by_one(text, likelihood, shape):
    """Each conditional from an image in which everything from the value on is replaced by noise."""
    pixels, rng = Likelihood(likelihood, shape[0], components=2), KeyedRNG(0, 0)
    network = build(Window.parse(text), shape, pixels.channels)
    x = pixels.target(
        rng.integers("x", 256, 2, *shape).to(torch.uint8), rng.uniform("noise", 2, *shape)
    )
    features, other = rng.normal("features", 2, 2, *shape[1:]), rng.uniform("other", 2, *shape)
    law = AutoregressiveImage(network, pixels, features)
    with torch.no_grad():
        whole = law.log_prob(x)
        partial = other.clone()
        for i, j, c in itertools.product(range(shape[1]), range(shape[2]), range(shape[0])):
            parameters = network(partial, network.condition(features))
            alone = pixels(parameters).log_prob(x)[:, c, i, j]
            torch.testing.assert_close(alone, whole[:, c, i, j], rtol=1e-5, atol=1e-5)
            partial[:, c, i, j] = x[:, c, i, j]


@pytest.mark.parametrize("text", ["full", "1", "2x1"])
def test_samples_are_as_frequent_as_log_prob_says(text):
    n, network = 20_000, build(Window.parse(text), (1, 2, 3))
    law = AutoregressiveImage(network, Likelihood("bernoulli", 1), count=n)
    sample = law.from_uniform(KeyedRNG(0, 0).uniform("sample", n, 1, 2, 3))
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6))).view(64, 1, 2, 3)
    expected = (
        n
        * AutoregressiveImage(network, law.likelihood)
        .log_prob(images)
        .flatten(1)
        .sum(1)
        .double()
        .exp()
        .detach()
    )
    observed = torch.bincount(
        (sample.flatten(1).long() * 2 ** torch.arange(5, -1, -1)).sum(1), minlength=64
    )
    assert chisquare(observed.numpy(), (expected * n / expected.sum()).numpy()).pvalue > 1e-3


@pytest.mark.parametrize("text, context, scale, shape", SETTINGS)
def test_a_sample_follows_from_its_noise_by_the_conditionals_of_the_whole_image(
    text, context, scale, shape
):
    """Sampling reads crops, teacher forcing the whole image: both must give the same
    conditionals.
    """
    network, pixels, rng = (
        build(Window.parse(text, context, scale), shape),
        Likelihood("logistic", shape[0]),
        KeyedRNG(0, 0),
    )
    noise = rng.uniform("noise", 2, *shape) * 0.998 + 0.001
    law = AutoregressiveImage(network, pixels, rng.normal("features", 2, 2, *shape[1:]))
    sample = law.from_uniform(noise)
    with torch.no_grad():
        expected = pixels(network(sample, law.condition)).from_uniform(noise)
    assert (
        sample - expected
    ).abs().max() <= 1.01 / 255  # a neighbouring level if the noise lies on an edge up to rounding
    assert (sample == expected).float().mean() > 0.99


def test_samples_from_the_global_generator_have_the_shape_of_the_batch():
    law = AutoregressiveImage(
        build(Window.parse("1"), (1, 3, 3)), Likelihood("bernoulli", 1), count=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert law.sample().shape == (2, 1, 3, 3) and law.sample((4,)).shape == (4, 2, 1, 3, 3)


@pytest.mark.parametrize(
    "text, context, scale, key",
    [
        ("0", "pixels", 1, "window"),
        ("4x", "pixels", 1, "window"),
        ("wide", "pixels", 1, "window"),
        ("0x2", "pixels", 1, "window"),
        ("full", "coarse", 2, "window"),
        ("full", "blurred", 1, "context"),
        ("4x2", "coarse", 1, "scale"),
        ("4x2", "pixels", 2, "scale"),
    ],
)
def test_words_that_name_no_window_name_their_key(text, context, scale, key):
    with pytest.raises(ValueError, match=f"^{key}:"):
        Window.parse(text, context, scale)


@pytest.mark.parametrize(
    "text, context, scale, shape, key",
    [
        ("8x2", "pixels", 1, (1, 9, 7), "window"),
        ("4x9", "pixels", 1, (1, 9, 7), "window"),
        ("7", "pixels", 1, (1, 9, 7), "window"),
        ("9", "pixels", 1, (1, 9, 12), "window"),
        ("4x2", "coarse", 3, (1, 9, 9), "window"),
        ("4x2", "coarse", 2, (1, 9, 8), "scale"),
        ("4x2", "grey", 1, (1, 9, 9), "context"),
    ],
)
def test_a_window_that_the_image_can_not_hold_is_one_line(text, context, scale, shape, key):
    with pytest.raises(UserError, match=rf"^model\.{key}:") as error:
        build(Window.parse(text, context, scale), shape)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text, shape", [("7x8", (1, 9, 7)), ("6", (1, 7, 7)), ("4x2", (1, 3, 4))])
def test_a_window_that_just_fits_is_taken(text, shape):
    assert build(Window.parse(text), shape)(torch.zeros(1, *shape)).shape == (1, *shape)
