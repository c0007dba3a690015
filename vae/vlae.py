"""VLAE: a VAE whose decoder predicts each pixel from the code and from nearby pixels, so the code
needs to carry only information that nearby pixels do not have.

Chen et al.: Variational Lossy Autoencoder, 2017 (arXiv:1611.02731). With `window: full` it is a VAE
whose PixelCNN decoder reads all earlier pixels. B = images, C H W = image shape, L = latent
dimensions, U = feature maps.
"""

from dataclasses import dataclass, field

from torch import Tensor

from core.checks import at_least
from core.networks.decoders import build_decoder
from vae.autoregressive import DISCRETE, AutoregressiveImage
from vae.beta import BetaVAE, BetaVAEConfig
from vae.monitors import REMEDIES
from vae.pixelcnn import PixelCNN
from vae.priors import PriorConfig
from vae.window import Window


@dataclass
class VLAEConfig(BetaVAEConfig):
    prior: PriorConfig = field(default_factory=lambda: PriorConfig("flow"))
    # earlier pixels that the decoder reads: full | N (masked 3x3 convolutions) | AxB (width x rows)
    window: str = "6"
    context: str = "pixels"  # how the decoder reads earlier pixels: pixels | grey | coarse
    scale: int = 1  # side of a cell of a coarse context, in pixels
    features: int = 4  # feature maps from the decoder to the PixelCNN
    pixel_width: int = 12  # channels of the PixelCNN
    pixel_blocks: int = 4  # residual 1x1 blocks of the PixelCNN

    def __post_init__(self) -> None:
        super().__post_init__()
        Window.parse(self.window, self.context, self.scale)
        at_least(self, features=1, pixel_width=1, pixel_blocks=0)
        if self.likelihood not in DISCRETE:
            allowed = ", ".join(DISCRETE)
            raise ValueError(f"likelihood: must be one of {allowed}, not '{self.likelihood}'")


class VLAE(BetaVAE):
    """A VAE with p(x|z) = prod_i p(x_i | earlier values in the window of i, u(z)), where u(z)
    [B, U, H, W] are the decoder's feature maps.

    The code need not contain information about a pixel that its window already gives. If all
    earlier pixels are in the window, a code of rate 0 can minimise D + R (collapse); a small window
    leaves the long-range structure to the code (Chen et al. 2017, section 3).
    """

    Config = VLAEConfig
    remedies = (*REMEDIES, "a decoder that reads fewer pixels around each pixel (model.window)")

    def __init__(self, config: VLAEConfig, shape: tuple[int, int, int]):
        super().__init__(config, shape)
        window = Window.parse(config.window, config.context, config.scale)
        maps = (config.features, *shape[1:])
        self.decoder = build_decoder(config.decoder, config.latent, maps, config.width)
        sizes = (config.pixel_width, config.pixel_blocks, config.features)
        self.pixelcnn = PixelCNN(shape, window, self.pixels.channels, *sizes)

    def likelihood(self, z: Tensor) -> AutoregressiveImage:
        return AutoregressiveImage(self.pixelcnn, self.pixels, self.decoder(z))
