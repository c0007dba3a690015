"""The network run pixel by pixel gives the same as one pass over the whole image."""

import pytest
import torch

from vae.pixel_cache import row_reader
from vae.pixelcnn import PixelCNN
from vae.window import Window


@torch.no_grad()
@pytest.mark.parametrize("context", ["pixels", "grey", "coarse"])
@pytest.mark.parametrize("window", ["1", "3", "4x2", "full"])
@pytest.mark.parametrize("shape", [(1, 6, 8), (3, 6, 6)])
def test_a_pixels_parameters_are_those_of_the_whole_pass(window, context, shape):
    if context == "coarse" and window != "4x2" or context == "grey" and shape[0] == 1:
        pytest.skip("there is no such window")
    torch.manual_seed(0)
    if context == "coarse":
        window = "2x1"
    parsed = Window.parse(window, context, 2 if context == "coarse" else 1)
    network = PixelCNN(shape, parsed, parameters=2, width=6, blocks=2, features=3).double()
    condition = network.condition(torch.randn(4, 3, *shape[1:], dtype=torch.float64))
    x = torch.rand(4, *shape, dtype=torch.float64)
    whole = network(x, condition)
    built = torch.full_like(x, 0.3)  # what is unknown yet must not matter
    rows = row_reader(network, built, condition)
    for i in range(shape[1]):
        read = rows(i)
        for j in range(shape[2]):
            for c in range(shape[0]):
                found = read(j).unflatten(1, (shape[0], -1))[:, c]
                expected = whole[:, :, i, j].unflatten(1, (shape[0], -1))[:, c]
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
                built[:, c, i, j] = x[:, c, i, j]
