"""The projection heads equal lightly's."""

import pytest
import torch
from lightly.models.modules import MoCoProjectionHead, SimCLRProjectionHead

from core.networks.heads import ProjectionHead


@pytest.mark.parametrize(
    "batch_norm, peer", [(True, SimCLRProjectionHead), (False, MoCoProjectionHead)]
)
def test_a_head_has_the_parameters_and_the_codes_of_lightlys(batch_norm, peer):
    heads = []
    for build in (lambda: ProjectionHead(12, 20, 7, batch_norm), lambda: peer(12, 20, 7)):
        torch.manual_seed(0)
        heads.append(build())
    ours, theirs = (head.state_dict() for head in heads)
    assert list(ours) == list(theirs)
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert torch.equal(one, other)
    x = torch.randn(9, 12)
    made, expected = (head(x) for head in heads)
    assert torch.equal(made, expected) and made.shape == (9, 7)
    assert made.min() < 0  # no activation after the last layer
