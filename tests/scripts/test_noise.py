"""Noise in training: exact information against enumeration and a closed form; bounds that hold."""

import itertools
import math

import numpy as np
import pytest

from core.information import atoms
from scripts import examples
from scripts.worked import noise
from scripts.worked.noise import Level, World


@pytest.mark.parametrize("kept", [1.0, 0.7, 0.2])
def test_the_information_is_that_of_all_samples_and_all_masks(kept):
    """Three samples: every S, every mask and every W are listed."""
    n, p = 3, 0.6
    whole, single = np.zeros((2**n, 2 * n + 1)), np.zeros((2, 2 * n + 1))
    for number, signs in enumerate(itertools.product((1, -1), repeat=n)):
        chance = math.prod(p if sign > 0 else 1 - p for sign in signs)
        for mask in itertools.product((0, 1), repeat=n):
            both = chance * math.prod(kept if held else 1 - kept for held in mask)
            w = sum(sign * held for sign, held in zip(signs, mask, strict=True))
            whole[number, w + n] += both
            single[int(signs[0] < 0), w + n] += both
    found = noise.information(n, p, Level(0.0, kept))
    assert found[0] == pytest.approx(atoms.mutual_information(whole), abs=1e-12)
    assert found[1] == pytest.approx(atoms.mutual_information(single), abs=1e-12)


def test_many_samples_with_gradient_noise_are_a_gaussian_channel():
    for s in (1.0, 3.0):
        whole, single = noise.information(400, 0.5, Level(s, 1.0))
        assert whole == pytest.approx(0.5 * math.log1p(s**-2), rel=2e-3)
        assert single == pytest.approx(1 / (2 * 400 * (1 + s**2)), rel=0.01)
    none, strong = (noise.information(60, 0.6, Level(s, 1.0)) for s in (0.0, 20.0))
    assert strong[0] < 0.01 < none[0] and strong[1] < none[1]


@pytest.mark.parametrize("level", [Level(0.0, 1.0), Level(1.0, 1.0), Level(0.0, 0.3)])
def test_gaps_are_below_their_bounds_and_grow_with_the_information(level):
    world = World(40, np.array([0.6] * 4 + [0.5] * 16))
    found = noise.measured(world, level, 100)
    whole, single = noise.bounds(found, world.n)
    assert found.gap - 3 * found.deviation < single <= whole
    noisier = noise.measured(world, Level(4.0, 1.0), 100)
    assert noisier.information < found.information and noisier.gap < found.gap
    assert noisier.test > found.test


def test_the_command_draws_the_picture_or_says_why_not(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(noise, "SAMPLES", 30)
    monkeypatch.setattr(noise, "DRAWS", 3)
    path = examples.drawn("noise", tmp_path)
    assert path == tmp_path / "noise.png" and path.read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(SystemExit) as stop:
        examples.main(["noise", "--pictures", str(tmp_path / "nosuch")])
    assert stop.value.code == 2
    assert "there is no folder" in capsys.readouterr().err
