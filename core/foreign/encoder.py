"""A frozen encoder that this project did not train, as a `Method` without a loss.

B = images, C H W = image shape, S = side of the network's input, D = feature dimensions.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.batch import Batch, Output, as_float
from core.checks import at_least, one_of
from core.errors import UserError
from core.method import Method

INTERPOLATIONS = ("bilinear", "bicubic")
CROPS = ("center", "squash", "border")
POOLS = ("", "avg", "max", "cls", "cls+avg")


@dataclass
class EncoderConfig:
    """How images reach the network, and how features leave it."""

    network: str = ""  # a timm name, or package.module:function
    size: int = 0  # side to which images are resized; 0 = as they are
    channels: int = 3
    mean: list[float] = field(default_factory=lambda: [0.0])  # of images in [0, 1]
    std: list[float] = field(default_factory=lambda: [1.0])
    interpolation: str = "bicubic"
    # share of the resized image's side that the network sees: images are resized to size / crop,
    # and the centre is cut out, unless they have the side `size` already
    crop: float = 1.0
    # center: the shorter side is resized; squash: both sides; border: the longer side, and the rest
    # is filled with the mean
    crop_mode: str = "center"
    pool: str = ""  # avg | max | cls | cls+avg of the last map or tokens; "" = the network's own
    weights: str = ""  # digest of the weights

    def __post_init__(self) -> None:
        at_least(self, size=0, channels=1)
        one_of(self, interpolation=INTERPOLATIONS, crop_mode=CROPS, pool=POOLS)
        if not 0.1 <= self.crop <= 2:
            raise ValueError(f"crop: must be from 0.1 to 2, got {self.crop}")
        for key in ("mean", "std"):
            values = getattr(self, key)
            if len(values) not in (1, self.channels) or not all(map(math.isfinite, values)):
                raise ValueError(f"{key}: give 1 or {self.channels} finite numbers, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"std: must be above 0, got {self.std}")

    def resizes(self, height: int, width: int) -> bool:
        """Whether images of this size are resized and cut. Images that have the network's input
        size are not.
        """
        return bool(self.size) and (height, width) != (self.size, self.size)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width to which an image is resized, before its centre is cut out.

        >>> EncoderConfig(size=224, crop=0.875).sides(480, 640)
        (256, 341)
        """
        scaled = math.floor(self.size / self.crop)
        if self.crop_mode == "squash":
            return scaled, scaled
        if self.crop_mode == "border":
            longer = max(height, width)
            return max(1, round(height * scaled / longer)), max(1, round(width * scaled / longer))
        shorter = min(height, width)
        return scaled * height // shorter, scaled * width // shorter


class Encoder(Method):
    """Images [B, C, H, W], uint8 or in [0, 1], to the features [B, D] of `network`:

    pool(network((crop(resize(x)) - mean) / std))
    """

    Config = EncoderConfig
    mean: Tensor
    std: Tensor

    def __init__(self, config: EncoderConfig, shape: tuple[int, int, int], network: nn.Module):
        super().__init__(config, shape)
        self.network = network
        for name in ("mean", "std"):
            values = torch.tensor(getattr(config, name)).view(-1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, batch: Batch) -> Output:
        raise NotImplementedError("a foreign encoder is not trained")

    def embed(self, x: Tensor) -> Tensor:
        return self.features(self.prepared(x))

    def prepared(self, x: Tensor) -> Tensor:
        """Images as the network reads them, [B, channels, S, S]."""
        x, config = as_float(x), self.config
        if x.shape[1] == 1 and config.channels > 1:
            x = x.expand(-1, config.channels, -1, -1)
        if config.resizes(x.shape[2], x.shape[3]):
            x = self.resized(x)
        return (x - self.mean) / self.std

    def resized(self, x: Tensor) -> Tensor:
        """Images in [0, 1] resized and cut as timm does for evaluation, [B, channels, S, S]."""
        config = self.config
        height, width = config.sides(x.shape[2], x.shape[3])
        # as Pillow does: one side after the other, each result rounded to 8 bits
        for side in ((x.shape[2], width), (height, width)):
            if x.shape[2:] != side:
                x = F.interpolate(x, side, mode=config.interpolation, antialias=True)
                x = (x * 255 + 0.5).floor().clamp(0, 255) / 255
        fill = (self.mean * 255).round() / 255 * (config.crop_mode == "border")
        return fitted(x - fill, config.size) + fill

    def features(self, x: Tensor) -> Tensor:
        """The network's features of prepared images, [B, D]."""
        if not self.config.pool:
            made = self.network(x)
        else:
            made = pooled(self.config.pool, self.network, self.network.forward_features(x))  # type: ignore[operator]
        if not isinstance(made, Tensor) or made.ndim != 2 or len(made) != len(x):
            given = list(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise UserError(
                f"{self.config.network}: it gives {given} for {len(x)} images; probes need features"
                f" [{len(x)}, D]; with a timm network, name a pooling by --pool"
            )
        return made


def fitted(x: Tensor, size: int) -> Tensor:
    """The centre of images, [B, C, size, size]; sides that are too short are filled with zeros."""
    for dim in (2, 3):
        missing = max(0, size - x.shape[dim])
        ends = (missing // 2, (missing + 1) // 2)
        x = F.pad(x, ends if dim == 3 else (0, 0, *ends))
        x = x.narrow(dim, round((x.shape[dim] - size) / 2), size)
    return x


def pooled(pool: str, network: nn.Module, made: Tensor) -> Tensor:
    """Tokens [B, N, D] or maps [B, D, H, W] (or [B, H, W, D]) to features."""
    dim = getattr(network, "num_features", made.shape[1])
    if made.ndim == 4:
        if made.shape[1] != dim and made.shape[3] == dim:
            made = made.permute(0, 3, 1, 2)
        made, special = made.flatten(2).mT, 0
    else:
        special = int(getattr(network, "num_prefix_tokens", 0))  # type: ignore[arg-type]
    if "cls" in pool and not special:
        raise UserError("--pool: the network has no class token; use avg or max")
    parts = {
        "cls": lambda: made[:, 0],
        "avg": lambda: made[:, special:].mean(1),
        "max": lambda: made[:, special:].amax(1),
    }
    return torch.cat([parts[name]() for name in pool.split("+")], 1)
