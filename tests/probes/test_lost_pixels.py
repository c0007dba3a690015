"""Images of pairs whose values an encoder or a critic could not tell apart are refused."""

import numpy as np
import pytest

from core.errors import UserError
from probes.samples.encoded import encoded
from probes.samples.pairs import check_pairs
from tests.probed import saved

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.integers(0, 100, (60, 1, 4, 4))
Z = RANDOM.normal(size=(60, 1))


@pytest.mark.parametrize("kind", [np.uint32, np.int64, np.float64])
def test_pixels_with_a_large_offset_are_refused(kind):
    with pytest.raises(UserError, match="pixels that float32 can not tell apart"):
        check_pairs((NOISE + 2**30).astype(kind), Z)
    with pytest.raises(UserError, match="y holds pixels that float32 can not tell apart"):
        check_pairs(Z, (NOISE - 2**30).astype(np.int64))
    assert check_pairs((NOISE + 2**10).astype(kind), Z).x.dtype == np.float32


@pytest.mark.parametrize("kind", [np.uint8, bool])
def test_an_encoder_refuses_binary_images_that_it_would_read_as_black(kind, tmp_path):
    saved(tmp_path)
    images = RANDOM.integers(0, 2, (60, 3, 32, 32)).astype(kind)
    with pytest.raises(UserError, match="uint8 images hold only 0 and 1|holds bool"):
        encoded(images, Z, tmp_path / "last.ckpt")
    bright, _, _ = encoded(images.astype(np.uint8) * np.uint8(255), Z, tmp_path / "last.ckpt")
    floats, _, _ = encoded(images.astype(np.float32), Z, tmp_path / "last.ckpt")
    np.testing.assert_allclose(bright, floats, atol=1e-4)
