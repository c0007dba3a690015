"""VICReg: the codes of two views agree, each dimension varies, and dimensions are uncorrelated.

Bardes, Ponce, LeCun: VICReg, 2022 (arXiv:2105.04906). The method has no negatives and no critic of
its own. So the information probe uses only the common critic, which it trains on the features.
B = images on this process, N = images in the global batch, D = dimensions of the expander.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from lightly.models.modules import BarlowTwinsProjectionHead
from torch import Tensor

from core.batch import Batch, Output, at_least_float32
from core.checks import at_least, one_of
from core.distributed import gather, mean
from core.information.losses import in_float32
from core.method import Method
from core.networks.backbones import STEMS, Backbone

EPSILON = 1e-4  # added to variances


@dataclass
class VICRegConfig:
    backbone: str = "small"  # small | what_where | the name of a timm model
    stem: str = "cifar"  # cifar | imagenet: the first layers of a timm backbone
    projection: int = 512  # dimensions of the expander's output
    hidden: int = 512  # width of the expander's hidden layers
    invariance: float = 25.0  # weight of the squared distance between two views
    variance: float = 25.0  # weight of the term that keeps standard deviations above 1
    covariance: float = 1.0  # weight of the term that removes correlations

    def __post_init__(self) -> None:
        one_of(self, stem=STEMS)
        at_least(self, projection=2, hidden=1, invariance=0, variance=0, covariance=0)


class VICReg(Method):
    """Probes read the features of the backbone, before the expander."""

    Config = VICRegConfig
    only_features = True

    def __init__(self, config: VICRegConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.backbone = Backbone(config.backbone, shape, config.stem)
        # three layers with batch norm, as VICReg's expander
        self.head = BarlowTwinsProjectionHead(self.backbone.dim, config.hidden, config.projection)

    def forward(self, batch: Batch) -> Output:
        first, second = self.in_micro_batches(self._expand_both, *batch.views[:2])
        terms = three_terms(first, second)
        names = ("invariance", "variance", "covariance")
        weights = [getattr(self.config, name) for name in names]
        loss = sum(weight * term for weight, term in zip(weights, terms, strict=True))
        return Output(
            loss, {"vicreg": loss.detach()} | dict(zip(names, terms.detach(), strict=True))
        )

    def _expand_both(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.head(self.backbone(view)) for view in (first, second))

    def embed(self, x: Tensor) -> Tensor:
        return self.backbone(x)


@in_float32
def three_terms(first: Tensor, second: Tensor) -> Tensor:
    """Takes expanded codes first, second [B, D] of two views. Returns three numbers [3]:

        invariance = mean (a - b)^2
        variance   = 1/2 sum over views of mean_d max(0, 1 - sqrt(Var z_d + eps))
        covariance = sum over views of 1/D sum_{d != e} Cov(z_d, z_e)^2

    Variances and covariances are those of the global batch.
    """
    first, second = at_least_float32(first), at_least_float32(second)
    invariance = mean(F.mse_loss(first, second))
    spread, mixed = first.new_zeros(()), first.new_zeros(())
    for view in (first, second):
        z = gather(view)
        spread = spread + F.relu(1 - (z.var(0) + EPSILON).sqrt()).mean() / 2
        centred = z - z.mean(0)
        covariance = centred.T @ centred / (len(z) - 1)
        squares = covariance.square()
        mixed = mixed + (squares.sum() - squares.diagonal().sum()) / z.shape[1]
    return torch.stack([invariance, spread, mixed])
