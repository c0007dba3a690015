"""The projection heads of contrastive methods. (lightly has the same, but importing it takes
seconds.)

B = images, D = feature dimensions, P = code dimensions.
"""

from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Features [B, D] to codes [B, P] through one hidden layer.

    SimCLR has batch norm after both linear maps, which then have no bias; MoCo v2 has no batch
    norm.
    """

    def __init__(self, features: int, hidden: int, codes: int, batch_norm: bool):
        super().__init__()
        norms = [[nn.BatchNorm1d(size)] if batch_norm else [] for size in (hidden, codes)]
        first = nn.Linear(features, hidden, bias=not batch_norm)
        last = nn.Linear(hidden, codes, bias=not batch_norm)
        self.layers = nn.Sequential(first, *norms[0], nn.ReLU(), last, *norms[1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
