"""Arrays as users have them (any memory order, size, offset or dtype) give the right numbers, or
are refused in one line.
"""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from core.errors import Unmeasurable, UserError
from core.foreign import arrays
from core.information.geometry import effective_rank, spectral_decay, uniformity
from core.numbers import lost_in_float32, plain
from core.run.features import Features
from probes import estimate, infonce_bound, knn, linear
from probes.labels import knn_reader, mlp
from probes.labels import linear as regression
from probes.labels.reading import with_absent
from probes.labels.usable import usable
from probes.samples.pairs import check_pairs
from probes.views.critic import train_critic
from probes.views.geometry import layout


def clouds(n: int = 400, dimensions: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, n)
    return rng.normal(size=(n, dimensions)) + 1.5 * np.eye(dimensions)[y], y


def split(x, y):
    return x[:300], y[:300], x[300:], y[300:]


AWKWARD = {
    "reversed columns": lambda x: x[:, ::-1],
    "reversed rows of a reversed copy": lambda x: x[::-1].copy()[::-1],
    "other order of bytes": lambda x: x.astype(">f8"),
    "long double": lambda x: x.astype(np.longdouble),
    "every second column": lambda x: np.repeat(x, 2, 1)[:, ::2],
    "tiny": lambda x: x * 1e-50,
    "huge": lambda x: x * 1e60,
    "bfloat16 with a gradient": lambda x: torch.tensor(x, requires_grad=True).bfloat16(),
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_the_numbers_do_not_depend_on_how_an_array_is_stored(kind):
    x, y = clouds()
    rounded = kind.startswith("bfloat16")
    for probe in (linear, knn):
        found, expected = probe(*split(AWKWARD[kind](x), y)), probe(*split(x, y))
        assert found["top1"] == pytest.approx(expected["top1"], abs=0.03 if rounded else 1e-9)
    a, b = x, x + 0.2 * np.random.default_rng(1).normal(size=x.shape)
    found, expected = infonce_bound(*map(AWKWARD[kind], (a, b))), infonce_bound(a, b)
    assert found["value"] == pytest.approx(expected["value"], abs=0.05 if rounded else 1e-4)
    assert found["verdict"] == expected["verdict"]


@pytest.mark.parametrize("size", [1e-13, 1e-30, 1e25])
def test_codes_of_any_size_in_float32_give_one_bound(size):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(300, 8, generator=rng)
    y = x + 0.5 * torch.randn(300, 8, generator=rng)
    expected = infonce_bound(x, y)["value"]
    assert expected > 3
    assert infonce_bound(size * x, size * y)["value"] == pytest.approx(expected, abs=1e-4)
    assert layout(size * x)["uniformity"] == pytest.approx(layout(x)["uniformity"], abs=1e-4)


@pytest.mark.parametrize("offset", [1e3, 1e4, 1e8])
def test_a_large_common_offset_changes_no_linear_probe(offset):
    x, y = clouds()
    found, expected = linear(*split(x + offset, y)), linear(*split(x, y))
    assert found["top1"] == expected["top1"]
    assert found["information"] == pytest.approx(expected["information"], abs=2e-3)


@pytest.mark.parametrize("offset", [0, 30, 1e3, 1e4])
def test_neighbours_of_features_with_a_large_mean_are_those_of_float64(offset):
    x, y = clouds(600, 24)
    x = (x + offset).astype(np.float32)
    peer = KNeighborsClassifier(
        15, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.1)
    )
    exact = x.astype(np.float64)
    expected = (peer.fit(exact[:300], y[:300]).predict(exact[300:]) == y[300:]).mean()
    assert expected > 0.45  # one in four by chance
    assert knn(*split(x, y), k=15)["top1"] == pytest.approx(expected, abs=0.011)


def test_the_power_law_of_a_spectrum_ignores_the_mean():
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(500, 60)) * np.arange(1, 61) ** -0.5).float()
    assert spectral_decay(x + 300) == pytest.approx(spectral_decay(x), abs=0.02)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.ma.masked_array(np.eye(3), np.eye(3) > 0), "masked"),
        (np.array([[2**60], [2**60 + 1]]), "beyond 2\\^53"),
        (np.array([2**64 - 1, 0], dtype=np.uint64), "beyond 2\\^53"),
        ([[1.0], [1.0, 2.0]], "rectangular"),
    ],
)
def test_what_no_float_can_hold_is_refused(values, said):
    with pytest.raises(UserError, match=f"^x: .*{said}"):
        plain(values, "x:")


def test_large_labels_are_not_merged():
    """As floats, 2^60 and 2^60 + 1 are equal, so labels would have no information."""
    x, y = clouds()
    with pytest.raises(UserError, match=r"pairs: y .*numpy\.unique"):
        check_pairs(x, y + 2**60)
    with pytest.raises(UserError, match="train_y: .*numpy"):
        knn(*split(x, (y + 2**60).astype(np.uint64)))
    text = np.array([f"class {one}" for one in y], dtype=object)
    assert linear(*split(x, text)) == linear(*split(x, y))


def test_constant_columns_with_noise_of_rounding_are_no_loss():
    x = torch.full((50, 2), 0.3, dtype=torch.float64)
    x[::2, 0] += 1e-16
    assert lost_in_float32(x) is None
    assert lost_in_float32(x + torch.rand(50, 2).double() * 1e-9) == 0
    assert lost_in_float32(torch.arange(50)[:, None] + 2**40) == 0


@pytest.mark.parametrize("key", ["k", "temperature"])
@pytest.mark.parametrize("value", ["3", None, 2.5j, -1, float("nan")])
def test_settings_of_another_type_are_refused(key, value):
    with pytest.raises(UserError, match=f"^{key}: must be"):
        knn(*split(*clouds()), **{key: value})


def saved(path, change, labels=lambda y: y):
    x, y = clouds()
    parts = dict(zip(("x_train", "y_train", "x_test", "y_test"), split(x, y), strict=True))
    made = {key: (labels if key[0] == "y" else change)(part) for key, part in parts.items()}
    np.savez(path, **made)
    return path


def test_a_file_of_features_in_another_format_of_numbers(tmp_path):
    plain_file = arrays.read(saved(tmp_path / "a.npz", lambda x: x.astype("f4")))
    for change in (lambda x: x.astype(">f4"), lambda x: x.astype("f4").astype(np.longdouble)):
        found = arrays.read(saved(tmp_path / "b.npz", change, lambda y: y.astype(">i8")))
        assert found.arrays.keys() == plain_file.arrays.keys()
        for name, tensor in plain_file.arrays.items():
            assert torch.equal(found.arrays[name], tensor)


@pytest.mark.parametrize("change", [lambda x: x + 1e9, lambda x: x * 1e-60])
def test_a_file_whose_features_float32_would_flatten_is_refused(tmp_path, change):
    with pytest.raises(UserError, match=r"float32 can not hold column 0 of x_.*subtract the mean"):
        arrays.read(saved(tmp_path / "c.npz", change))


def test_copies_of_pairs_make_no_interval_narrow():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 8))
    y = x + 0.5 * rng.normal(size=x.shape)
    once, often = infonce_bound(x, y), infonce_bound(np.tile(x, (9, 1)), np.tile(y, (9, 1)))
    assert once["remark"] == "" and often["remark"].startswith("1,200 rows are copies")
    assert often | {"remark": ""} == once
    repeated = infonce_bound(np.sign(x[:, :2]), np.sign(x[:, :2]))  # codes of few values
    assert repeated["pairs"] == 120 and repeated["remark"].startswith("values repeat")


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "a", None])
def test_a_seed_is_a_whole_number(seed):
    x, y = clouds(60)
    for call in (
        lambda: linear(x, y, x, y, seed=seed),
        lambda: infonce_bound(x, x, seed=seed),
        lambda: estimate(x, x, ("infonce",), seed=seed),
    ):
        with pytest.raises(UserError, match="^seed: must be a whole number"):
            call()


def test_codes_of_zero_are_a_collapse_and_not_evenly_spread():
    """Their cosine is 0, as that of codes in all directions; their distance is 0, too."""
    zero = torch.zeros(60, 5)
    assert layout(zero)["uniformity"] == 0.0
    half = torch.cat([zero[:30], torch.nn.functional.normalize(torch.randn(30, 5), dim=1)])
    exact = torch.cdist(half.double(), half.double()).square()
    apart = exact[*torch.triu_indices(60, 60, 1)]
    expected = (-2 * apart).exp().mean().log().item()
    assert uniformity(half) == pytest.approx(expected, abs=1e-6)
    assert uniformity(half.half()) == pytest.approx(expected, abs=1e-2)


def test_geometry_of_bytes_is_that_of_their_numbers():
    x = torch.randint(0, 255, (80, 30), generator=torch.Generator().manual_seed(0))
    bytes_ = x.to(torch.uint8)
    assert spectral_decay(bytes_) == spectral_decay(x.float())
    assert effective_rank(bytes_) == effective_rank(x.float())


@pytest.mark.parametrize("reader", [regression, mlp, knn_reader])
def test_labels_with_gaps_carry_no_more_information(reader):
    """With 1,501 classes of which four occur, an MLP had 2.8 nats of log 4 = 1.39."""
    x, y = (torch.from_numpy(part) for part in clouds(200))

    def found(labels, classes):
        factors = (("label", classes),)
        train, test = (
            Features(x[rows].float(), labels[rows, None], factors)
            for rows in (slice(120), slice(120, None))
        )
        (reading,) = reader.readings(train, test)
        return reading.information(test.y[:, 0]).mean().item()

    dense = found(y, 4)
    assert 0.1 < dense < np.log(4)
    assert found(500 * y, 1501) == pytest.approx(dense, abs=0.25)  # an MLP has more weights


def test_a_class_that_train_lacks_gets_its_frequency():
    y = torch.tensor([0, 0, 2])
    log_p = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.0, 0.9]]).double().log()
    made = with_absent(log_p, y).exp()
    torch.testing.assert_close(made.sum(1), torch.ones(2).double())
    torch.testing.assert_close(made[:, 1], torch.full((2,), 1 / 6).double())
    torch.testing.assert_close(made[:, 0] / made[:, 2], torch.tensor([5 / 3, 1 / 9]).double())
    assert with_absent(log_p, torch.arange(3)) is log_p


def test_two_pairs_of_train_are_too_few_for_a_critic_on_half_of_them():
    x = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(Unmeasurable, match="give 3 or more"):
        train_critic(x[:2], x[:2], x, x, 0, share=2)


@pytest.mark.parametrize("change", [lambda x: x + 1e9, lambda x: x * 1e-60, lambda x: x * 1e200])
def test_images_that_float32_would_flatten_are_refused(change):
    images = np.random.default_rng(0).uniform(size=(60, 1, 4, 4))
    assert check_pairs(images, images).x.dtype == np.float32
    with pytest.raises(UserError, match="pairs: x holds pixels that float32 can not tell apart"):
        check_pairs(change(images), images)


def test_usable_information_of_one_test_image_is_absent():
    x, y = (torch.from_numpy(part) for part in clouds(80))
    factors = (("label", 4),)
    train, test = (
        Features(x[:79].float(), y[:79, None], factors),
        Features(x[79:].float(), y[79:, None], factors),
    )
    with pytest.raises(Unmeasurable, match="needs two test images, got 1"):
        usable(train, test)
