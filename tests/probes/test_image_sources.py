"""Pairs of images of known information: closed forms, and images that hold exactly their bits."""

import gzip
import itertools
import math

import numpy as np
import pytest

from core.data.sprites import SpritesConfig, best_infonce
from probes.samples import image_sources as known
from probes.samples.benchmark_sources import channel

N = 4000


@pytest.fixture(scope="module")
def made_of() -> known.Pools:
    """Ten images of 8 digits for each side, 4 x 4, whose ink tells the digit: its three bits are in
    the first row.
    """
    random = np.random.default_rng(0)

    def pool() -> list[np.ndarray]:
        images = random.integers(0, known.INK, (8, 10, 4, 4))
        for digit in range(8):
            images[digit, :, 2:] = random.integers(0, 256, (10, 2, 4))
            for bit in range(3):
                if digit >> bit & 1:
                    images[digit, :, 0, bit] = random.integers(known.INK, 256, 10)
        return list(images.astype(np.uint8))

    return known.Pools(pool(), pool())


def words_of(images: np.ndarray, rows: int, columns: int, bits: int, least: int) -> np.ndarray:
    """The bits that the ink of images shows, [n, B]."""
    n, channels = images.shape[:2]
    cells = images.reshape(n, channels, rows, 4, columns, 4)[:, :, :, 0, :, :bits]
    ink = cells >= least
    assert (ink == ink[:, :1]).all()  # the channels agree
    return ink[:, 0].reshape(n, -1)


GRIDS = [  # rows, columns, bits of a cell, information, backgrounds, colours
    (2, 2, 1, 1.5, False, False),
    (2, 2, 1, 4 * math.log(2), False, False),
    (1, 3, 3, 2.0, True, False),
    (2, 2, 1, 0.7, True, True),
    (1, 2, 2, 0.0, True, True),
]


@pytest.mark.parametrize("rows, columns, bits, information, backgrounds, colours", GRIDS)
def test_images_show_bits_of_the_channel(
    made_of, rows, columns, bits, information, backgrounds, colours
):
    """The bits are read back from the pixels, so no background hides them; their flips have the
    frequency of the channel, whose pointwise information is that of the sample.
    """
    source = known.digit_grid(made_of, rows, columns, information, bits, backgrounds, colours)
    pairs = source.draw(N, 3)
    shape = (N, 3 if colours else 1, 4 * rows, 4 * columns)
    assert pairs.x.shape == pairs.y.shape == shape and pairs.x.dtype == np.uint8
    least = known.DARK if backgrounds else known.INK
    a, b = (words_of(side, rows, columns, bits, least) for side in (pairs.x, pairs.y))
    total = rows * columns * bits
    p = known.flip_probability(information, total)
    assert abs((a != b).mean() - p) <= 4 * math.sqrt(p * (1 - p) / (N * total))
    assert abs(a.mean() - 0.5) < 0.02 and abs(b.mean() - 0.5) < 0.02
    for left, right in itertools.combinations(range(total), 2):
        assert abs(np.corrcoef(a[:, left], a[:, right])[0, 1]) < 0.08
    ratio = np.where(a == b, math.log(2 * (1 - p)), math.log(2 * p) if p else -math.inf).sum(1)
    np.testing.assert_allclose(pairs.pointwise, ratio, atol=1e-12)
    error = pairs.pointwise.std() / math.sqrt(N)
    assert abs(pairs.pointwise.mean() - source.information) <= 4 * error + 1e-9
    assert not np.array_equal(pairs.x, source.draw(N, 4).x)
    np.testing.assert_array_equal(pairs.y, source.draw(N, 3).y)


def test_backgrounds_and_images_of_the_two_sides_are_independent(made_of):
    """Given the bits, what a background does to x says nothing about y."""
    pairs = known.digit_grid(made_of, 2, 2, 4 * math.log(2), 1, True).draw(N, 0)
    dark = [np.where(side >= known.DARK, np.nan, side) for side in (pairs.x, pairs.y)]
    means = [np.nanmean(side, (1, 2, 3)) for side in dark]
    slopes = [
        np.nanmean(side[:, :, 4:], (1, 2, 3)) - np.nanmean(side[:, :, :4], (1, 2, 3))
        for side in dark
    ]
    for first, second in itertools.product((means[0], slopes[0]), (means[1], slopes[1])):
        assert first.std() > 5 and abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(N)


def test_pools_are_disjoint_and_ink_tells_the_digit():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (400, 28, 28)).astype(np.uint8)
    labels = random.integers(10, size=400)
    labels[:2] = 3, 5
    images[1] = images[0]  # the same picture under two labels
    pools = known.pools(images, labels)
    x, y = ({cell.tobytes() for digit in side for cell in digit} for side in (pools.x, pools.y))
    assert len(x) + len(y) == 398 and not x & y
    assert sum(map(len, pools.x)) == len(x)
    assert [len(digit) for digit in pools.y][3] == ((labels[1::2] == 3).sum())
    mean = images[2].reshape(14, 2, 14, 2).mean((1, 3)).round()
    assert np.pad(mean, 1).astype(np.uint8).tobytes() in x


def test_pools_of_mnist(mnist_root):
    def read(name: str, start: int) -> np.ndarray:
        path = mnist_root / "MNIST" / "raw" / name
        packed = path.with_name(f"{name}.gz")
        whole = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
        return np.frombuffer(whole, np.uint8, offset=start)

    images = read("t10k-images-idx3-ubyte", 16).reshape(-1, 28, 28)[:3000]
    pools = known.pools(images, read("t10k-labels-idx1-ubyte", 8)[:3000].astype(np.int64))
    inks = [
        {(cell >= known.INK).tobytes() for side in pools for cell in side[digit]}
        for digit in range(10)
    ]
    assert all(not a & b for a, b in itertools.combinations(inks, 2))
    assert sum(len(digit) for side in pools for digit in side) > 2900
    assert min(len(digit) for side in pools for digit in side) > 100


@pytest.mark.parametrize("total, information, candidates", [(1, 0.3, 2), (1, 0.3, 3), (2, 0.8, 3)])
def test_the_best_possible_value_by_enumeration(total, information, candidates):
    """All words and flips of two or three candidates."""
    p = known.flip_probability(information, total)
    words = list(itertools.product((0, 1), repeat=total))

    def given(sent, got) -> float:
        flips = sum(a != b for a, b in zip(sent, got, strict=True))
        return p**flips * (1 - p) ** (total - flips)

    expected = 0.0
    for sent, *got in itertools.product(words, repeat=candidates + 1):
        weight = given(sent, got[0]) / len(words) ** candidates
        mean = sum(given(sent, word) for word in got) / candidates
        expected += weight * math.log(given(sent, got[0]) / mean)
    found = known.best_of_bits(candidates, total, p)
    assert found == pytest.approx(expected, abs=0.01) and found < information


def test_the_best_possible_value_with_many_candidates_and_without_flips():
    assert known.best_of_bits(50, 4, 0.0) == best_infonce(49, 16)
    assert known.best_of_bits(50, 4, 1e-9) == pytest.approx(best_infonce(49, 16), abs=0.02)
    p = known.flip_probability(1.0, 4)
    few, many = (known.best_of_bits(count, 4, p) for count in (50, 50_000))
    assert few < many == pytest.approx(1.0, abs=1e-3)
    assert known.best_of_bits(50, 4, 0.5) == 0.0


def test_the_flip_probability_is_that_of_a_binary_channel():
    for error in (0.02, 0.11, 0.3):
        nats = channel(2, error)(2, 0).information
        assert known.flip_probability(nats, 1) == pytest.approx(error, rel=1e-6)
        assert known.flip_probability(7 * nats, 7) == pytest.approx(error, rel=1e-6)
    with pytest.raises(ValueError, match=r"3 bits carry 0 to 2.0794 nats, got 2.1"):
        known.flip_probability(2.1, 3)


def test_maps_are_invertible(made_of):
    source = known.digit_grid(made_of, 2, 2, 1.0, 1, True, True)
    plain = source.draw(40, 0)
    moved = {
        name: known.mapped(source, getattr(known, name)) for name in ("permuted", "mixed", "bent")
    }
    for made in moved.values():
        assert made.information == source.information and made.best(10) == source.best(10)
    pairs = {name: made.draw(40, 0) for name, made in moved.items()}
    order = known.permuted(np.arange(192).reshape(1, 3, 8, 8)).ravel()
    assert sorted(order) == list(range(192)) and (order != np.arange(192)).sum() > 150
    back = pairs["permuted"].x.reshape(40, -1)[:, np.argsort(order)]
    np.testing.assert_array_equal(back.reshape(plain.x.shape), plain.x)
    matrix = known.mixed(np.eye(64).reshape(64, 1, 8, 8)).reshape(64, 64)
    np.testing.assert_array_equal(matrix @ matrix.T, 64 * np.eye(64))
    back = pairs["mixed"].y.reshape(40, 3, 64) @ matrix.T / 64  # exact in float32
    np.testing.assert_array_equal(back.reshape(plain.y.shape), plain.y)
    values = known.bent(
        np.arange(256, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 3, 8, 8))
    )
    assert values.dtype == np.float32 and (np.diff(values, axis=0) > 0).all()
    np.testing.assert_array_equal(pairs["bent"].pointwise, plain.pointwise)


def test_sprites_share_their_content_and_nothing_else():
    config = SpritesConfig(shapes=1, colours=2, sizes=1, grid=1)
    source = known.sprites(config)
    pairs = source.draw(300, 1)
    assert pairs.x.shape == (300, 3, 32, 32) and source.information == math.log(2)
    red = [(side[:, 0, 16, 16].astype(int) > side[:, 1, 16, 16]) for side in (pairs.x, pairs.y)]
    np.testing.assert_array_equal(*red)
    assert 100 < red[0].sum() < 200 and (pairs.pointwise == math.log(2)).all()
    corner = [side[:, :, 0, 0].mean(1) for side in (pairs.x, pairs.y)]
    assert abs(np.corrcoef(*corner)[0, 1]) < 0.25
    assert source.best(40) == best_infonce(39, 2)
