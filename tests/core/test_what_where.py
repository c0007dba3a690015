"""The network that encodes what an image shows separately from where it is shown: its first part
does not depend on the place.
"""

import pytest
import torch

from core.networks.backbones import Backbone, WhatWhereNet

WHAT = WhatWhereNet.WHAT


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 64, 64), (1, 20, 33), (2, 3, 1)])
def test_it_has_the_features_that_it_says(shape):
    net = Backbone("what_where", shape).eval()
    x = torch.randint(0, 256, (2, *shape), dtype=torch.uint8)
    assert net(x).shape == (2, net.dim)
    assert net.dim <= WHAT + WhatWhereNet.WHERE * WhatWhereNet.CELLS**2


def test_what_is_seen_does_not_depend_on_the_place_and_where_does():
    torch.manual_seed(0)
    net = Backbone("what_where", (3, 32, 32)).double().eval()
    sprite = torch.rand(1, 3, 6, 5, dtype=torch.float64)
    x = torch.full((2, 3, 32, 32), 0.5, dtype=torch.float64)  # 0 for the network, as its padding
    x[0, :, 8:14, 9:14], x[1, :, 16:22, 17:22] = sprite, sprite
    first, second = net(x)
    assert torch.equal(first[:WHAT], second[:WHAT])
    assert not torch.allclose(first[WHAT:], second[WHAT:], atol=1e-3)


def test_the_map_of_places_is_the_mean_of_each_cell():
    net = Backbone("what_where", (3, 32, 32)).double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    maps = net.net.places(net.net.trunk(x * 2 - 1))
    cells = maps.view(2, WhatWhereNet.WHERE, 4, 2, 4, 2).mean((3, 5))
    torch.testing.assert_close(net(x)[:, WHAT:], cells.flatten(1))
