"""LeJEPA: the codes of an image's views agree, and all codes together follow a standard normal.

Balestriero, LeCun: LeJEPA, 2025 (arXiv:2511.08544). The method has no critic of its own. So the
information probe uses only the common critic, which it trains on the features. B = images on this
process, N = images in the global batch, V = views, D = projection dimensions, S = slices.
"""

from dataclasses import dataclass

import torch
from lightly.models.modules import LeJEPAProjectionHead
from torch import Tensor

from core.batch import Batch, Output, at_least_float32
from core.checks import at_least, one_of, share
from core.distributed import mean, total, world
from core.information.losses import in_float32
from core.method import Method
from core.networks.backbones import STEMS, Backbone

KNOTS, HIGHEST = 17, 3.0  # frequencies of the characteristic function, from 0 to 3


@dataclass
class LeJEPAConfig:
    backbone: str = "small"  # small | what_where | the name of a timm model
    stem: str = "cifar"  # cifar | imagenet: the first layers of a timm backbone
    projection: int = 64  # dimensions of the codes
    hidden: int = 512  # width of the projection head
    share: float = 0.05  # weight of the normality term; the agreement term has 1 - share
    slices: int = 1024  # number of random directions in a step

    def __post_init__(self) -> None:
        one_of(self, stem=STEMS)
        at_least(self, projection=1, hidden=1, slices=1)
        share(self, "share")


class LeJEPA(Method):
    """Both views are global: there are no small crops. Probes read the features of the backbone."""

    Config = LeJEPAConfig
    only_features = True

    def __init__(self, config: LeJEPAConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        self.backbone = Backbone(config.backbone, shape, config.stem)
        self.head = LeJEPAProjectionHead(self.backbone.dim, config.hidden, config.projection)

    def forward(self, batch: Batch) -> Output:
        codes = torch.stack(self.in_micro_batches(self._project_both, *batch.views[:2]))
        agreement = mean((codes - codes.mean(0)).square().mean())
        # equal directions on all processes
        rng = batch.rng.common()
        directions = rng.normal("slices", codes.shape[2], self.config.slices).to(codes)
        normality = sigreg(codes, directions)
        loss = self.config.share * normality + (1 - self.config.share) * agreement
        metrics = {"lejepa": loss, "normality": normality, "agreement": agreement}
        return Output(loss, {name: value.detach() for name, value in metrics.items()})

    def _project_both(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        views = self.head(self.backbone(torch.cat([first, second])))
        return at_least_float32(views).chunk(2)

    def embed(self, x: Tensor) -> Tensor:
        return self.backbone(x)


@in_float32
def sigreg(codes: Tensor, directions: Tensor) -> Tensor:
    """How far codes [V, B, D] are from a standard normal along directions [D, S] of any length.
    Returns a scalar, the mean over views and directions a of Epps and Pulley's statistic

        N int_{-3}^{3} exp(-t^2 / 2) | 1/N sum_n exp(i t <a, z_n>) - exp(-t^2 / 2) |^2 dt,

    by the trapezoidal rule.
    """
    t = torch.linspace(0, HIGHEST, KNOTS, dtype=codes.dtype, device=codes.device)
    normal = (-t.square() / 2).exp()
    weight = torch.full_like(t, 2 * HIGHEST / (KNOTS - 1))  # times 2, for t and -t
    weight[:: KNOTS - 1] /= 2  # the first and the last
    turned = (codes @ (directions / directions.norm(dim=0)))[..., None] * t  # [V, B, S, knots]
    n = codes.shape[1] * world()
    cos, sin = total(turned.cos().sum(1)) / n, total(turned.sin().sum(1)) / n
    distance = (cos - normal).square() + sin.square()
    return (distance @ (weight * normal)).mean() * n
