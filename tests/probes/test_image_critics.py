"""Critics of images, labels and vectors: pairs of plain shapes whose information is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from core.information.bounds import anchor_objective
from probes.samples import conv, panel
from probes.samples.conv import Images
from probes.samples.crossfit import cross_fit
from probes.samples.encoded import encoded
from probes.samples.estimate import estimate
from probes.samples.pairs import check_pairs, load_pairs
from tests.front_door import ROOT, run_code, run_script
from tests.in_process import train
from tests.quick import QUICK

SIZE = 12


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    """Small batches and few steps are enough for a few hundred plain images."""
    monkeypatch.setattr(conv, "BATCH", 64)
    monkeypatch.setattr(conv, "RATE", 4e-3)
    monkeypatch.setattr(conv, "LEAST_STEPS", 60)
    monkeypatch.setattr(conv, "MOST_EPOCHS", 12)
    monkeypatch.setattr(conv, "MOST_LOOKS", 6)
    monkeypatch.setattr(panel, "LEAST_STEPS", 40)
    monkeypatch.setattr(panel, "BATCH", 128)


def bars(bits: np.ndarray, random: np.random.Generator, channels: int = 1) -> np.ndarray:
    """Images [n, C, 12, 12 cells]: a bar in every cell, upright for 1 and flat for 0, at a place of
    its own, on noise.
    """
    n, cells = bits.shape
    images = random.integers(0, 90, (n, channels, SIZE, SIZE * cells)).astype(np.uint8)
    for row in range(n):
        for cell in range(cells):
            place, start = random.integers(3, 9), SIZE * cell
            where = (
                (slice(2, 10), place + start)
                if bits[row, cell]
                else (place, slice(start + 2, start + 10))
            )
            images[row, :, where[0], where[1]] = 220
    return images


def bits_of(n: int, cells: int, flip: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    first = random.integers(2, size=(n, cells))
    return first, np.where(random.random(first.shape) < flip, 1 - first, first)


def test_bits_that_images_share_are_read():
    """Two bits: 1.386 nats; 400 pairs show about four fifths of it. A critic of pixels needs the
    shapes, since places and noise differ.
    """
    random = np.random.default_rng(0)
    a, b = bits_of(400, 2, 0.0, 1)
    x, y = bars(a, random), bars(b, random)
    found = estimate(x, y, ("infonce", "alpha", "ksg"))
    entry, truth = found["estimators"]["infonce"], 2 * math.log(2)
    assert 0.75 * truth < entry["value"] < truth + 3 * entry["error"] + 1e-3
    assert entry["candidates"] == 80 and found["dimensions"] == ("1 x 12 x 24",) * 2
    assert "ksg left out: distances between images" in found["remarks"][-1]
    flat = estimate(x, y, ("infonce",), critic="mlp")["estimators"]["infonce"]
    assert flat["value"] < entry["value"] - 0.3
    mixed = np.random.default_rng(2).permutation(120)
    nothing = estimate(x[:120], y[mixed], ("infonce",))
    assert nothing["estimators"]["infonce"]["value"] <= 0.02
    assert "at least" not in nothing["conclusion"]


def test_an_image_and_its_label_and_a_vector():
    a, _ = bits_of(300, 1, 0.0, 3)
    x = bars(a, np.random.default_rng(4), channels=3)
    label = estimate(x, a[:, 0], ("infonce",))["estimators"]["infonce"]
    assert 0.55 < label["value"] < math.log(2) + 3 * label["error"] + 1e-3
    noisy = a + 0.1 * np.random.default_rng(5).normal(size=a.shape)
    vector = estimate(noisy, x, ("infonce",))["estimators"]["infonce"]
    assert 0.3 < vector["value"] < math.log(2) + 3 * vector["error"] + 1e-3


def test_equal_sizes_share_convolutions_and_compare_places():
    x = np.random.default_rng(0).integers(0, 255, (60, 1, 16, 24)).astype(np.uint8)
    used = np.arange(40)
    alike, other = Images(x, x, used), Images(x, x[..., :16], used)
    assert alike.of_x.trunk is alike.of_y.trunk and alike.of_x.local is not None
    assert other.of_x.trunk is not other.of_y.trunk and other.of_x.local is None
    for made, local in ((alike.eval(), conv.LOCAL * 4 * 6), (other.eval(), 0)):
        q, k = made.codes(torch.arange(9)[None])
        assert (
            q.shape == k.shape == (1, 9, local + conv.CODES + 2) and not (q @ k.mT).any()
        )  # the score starts at zero


def test_critics_judge_and_score_in_evaluation_mode(monkeypatch):
    """Else dropout and the statistics of the scored fold would be part of a score."""
    monkeypatch.setattr(conv, "LEAST_STEPS", 2)
    monkeypatch.setattr(conv, "MOST_EPOCHS", 1)
    modes, real = set(), Images.codes

    def codes(critic, rows):
        modes.add((torch.is_grad_enabled(), critic.training))
        return real(critic, rows)

    monkeypatch.setattr(Images, "codes", codes)
    random = np.random.default_rng(0)
    cross_fit(*(bars(side, random) for side in bits_of(50, 1, 0.0, 1)))
    assert modes == {(True, True), (False, False)}


def test_pixels_are_standardised_by_training_rows_and_large_images_averaged(monkeypatch):
    x = np.random.default_rng(0).normal(5, 2, (50, 2, 8, 8)).astype(np.float32)
    x[40:] += 100
    made = conv._Standardise(torch.from_numpy(x), np.arange(40))
    seen = made(torch.from_numpy(x[:40]))
    assert abs(seen.mean()) < 1e-4 and seen.std() == pytest.approx(1, abs=1e-2)
    monkeypatch.setattr(conv, "LARGEST", 20)
    assert made(torch.from_numpy(x)).shape == (50, 2, 4, 4)


def test_copies_of_images_are_left_out():
    random = np.random.default_rng(0)
    x = random.integers(0, 255, (80, 8, 8)).astype(np.uint8)
    y = random.integers(2, size=80)
    checked = check_pairs(np.concatenate([x, x[:20]]), np.concatenate([y, y[:20]]))
    assert checked.x.shape == (80, 1, 8, 8) and checked.x.dtype == np.uint8
    assert "20 rows are copies" in checked.remarks[0]


def test_the_anchor_objective_is_best_at_the_density_ratio():
    """Any constant added to log p(y|x) / p(y) makes it worse; InfoNCE does not see the constant."""
    random = torch.Generator().manual_seed(0)
    sent = torch.randint(4, (2000,), generator=random)
    kept = torch.rand(2000, generator=random) < 0.7
    got = torch.where(kept, sent, torch.randint(4, (2000,), generator=random))
    same = 0.7 + 0.3 / 4
    ratio = torch.where(sent[:, None] == got, math.log(4 * same), math.log(4 * (1 - same) / 3))
    values = {shift: anchor_objective(ratio + shift).item() for shift in (-0.5, -0.2, 0, 0.2, 0.5)}
    assert max(values, key=values.get) == 0
    assert anchor_objective(torch.zeros(2, 5, 5)).tolist() == pytest.approx([-2 * math.log(2)] * 2)


def test_the_anchor_estimate_is_near_the_truth_and_no_bound():
    random = np.random.default_rng(0)
    x = random.normal(size=(1200, 1))
    y = 0.9 * x + math.sqrt(1 - 0.81) * random.normal(size=(1200, 1))
    found = estimate(x, y, ("anchor",))["estimators"]["anchor"]
    assert found["side"] == "estimate, no bound" and found["verdict"] == "no bound"
    assert found["value"] == pytest.approx(-0.5 * math.log(1 - 0.81), abs=0.1)
    assert found["ceiling"] is None


def test_images_from_a_file_and_what_is_refused(tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (60, 3, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "pairs.npz", x=x, y=x[:, :1])
    a, b = load_pairs(tmp_path / "pairs.npz")
    np.testing.assert_array_equal(a, x)
    assert a.dtype == np.uint8 and b.shape == (60, 1, 8, 8)
    np.savez(tmp_path / "five.npz", x=np.zeros((60, 2, 2, 2, 2)), y=np.arange(60))
    with pytest.raises(UserError, match="give .* images"):
        load_pairs(tmp_path / "five.npz")
    np.savez(tmp_path / "vectors.npz", x=np.arange(60.0), y=np.arange(60.0))
    cases = (
        (("pairs.npz", "--critic", "convolution"), "--critic"),
        (("vectors.npz", "--critic", "conv"), "needs images"),
        (("pairs.npz", "--critic", "checkpoint=nowhere"), "nowhere"),
    )
    for words, message in cases:
        told = run_script("information.py", *words, cwd=tmp_path)
        assert told.returncode == 2 and message in told.stderr, told.stderr
        assert len(told.stderr.strip().splitlines()) == 1 and not told.stdout


def test_images_are_read_through_a_frozen_encoder(tmp_path, monkeypatch):
    """Features of an encoder keep what it keeps of the images, so the bound stays one."""
    monkeypatch.chdir(tmp_path)
    assert train("simclr", Path("run"), "optim.epochs=1", "data.sprites.train=64").code == 0
    random = np.random.default_rng(0)
    shade = random.integers(2, size=300)
    x = random.integers(0, 60, (300, 3, 32, 32)) + 150 * shade[:, None, None, None]
    np.savez("pairs.npz", x=x.astype(np.uint8), y=shade)
    words = ("pairs.npz", "--critic", "checkpoint=run", "--estimators", "infonce", "--json")
    told = run_code(QUICK, ROOT / "scripts/information.py", *words, cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert "x read through the frozen encoder of run" in found["remarks"][0]
    assert found["estimators"]["infonce"]["value"] > 0.4 and isinstance(found["dimensions"][0], int)
    for images, message in (
        (x[:, :1], "reads 3x32x32"),
        (x / 1.0, "numbers from 0 to 1"),
        (shade, "x and y are vectors"),
    ):
        with pytest.raises(UserError, match=message):
            encoded(images, shade, Path("run"))
