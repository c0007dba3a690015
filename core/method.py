"""The interface of all methods, and the search for a method by name.

B = images of a batch, n = images of a call, C H W = image shape, D = feature dimensions, P =
dimensions of the codes of views and texts, L = latent dimensions.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.distributions import Distribution

from core.batch import Batch, Encoded, Output
from core.errors import UserError, nearest, shown
from core.gradcache import in_micro_batches
from core.trust import NAME, ROOMS, TRUST, import_module, is_trusted, package_of


@dataclass(frozen=True)
class Context:
    """What a method's monitors may read after `step` steps of training."""

    step: int
    batch_size: int  # global
    steps_per_epoch: int
    # step -> its batch, computed again: one part for each process, in rank order, or the global
    # batch alone if batch norm is synchronised
    trained_on: Callable[[int], list[Batch]]
    # (purpose, n) -> at most n plain validation images with one view. Random numbers depend on
    # `purpose`.
    held_out: Callable[[str, int], Iterable[Batch]]
    warmup: float = 0.0  # steps in which the learning rate rises


class Method(nn.Module, ABC):
    """A way to learn a representation: one Python file with its `Config`, and one YAML file."""

    Config: ClassVar[type]  # a dataclass; its __post_init__ raises ValueError("key: what is wrong")
    views: ClassVar[int] = 2  # views of an image in a batch
    criterion: ClassVar[str] = "knn"  # validation metric that chooses best.ckpt; higher is better
    reads_text: ClassVar[bool] = False  # whether batches must have captions
    # whether the method has neither a critic of its own (`PairCritic`) nor a posterior
    # (`LatentModel`): then only the common critic reads its information
    only_features: ClassVar[bool] = False
    micro_batch: int = 0  # optim.micro_batch: images that are encoded at a time; 0 = whole batch

    def __init__(self, config: Any, shape: tuple[int, int, int]):
        super().__init__()
        self.config, self.shape = config, shape

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """The loss of a batch and its metrics. The trainer calls `model(batch)`, because hooks of
        DDP act only on this call.
        """

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W], uint8 or in [0, 1], to the features [B, D] that probes read."""

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        """Features and, if the method scores pairs of views, unit-length codes, in one pass.

        `key`: x is the second view of its pair, for which MoCo's codes come from another network.
        The features come from the same backbone for both views.
        """
        codes = self.codes(x, x)[int(key)] if isinstance(self, PairCritic) else None
        return Encoded(self.embed(x), codes)

    def in_micro_batches(
        self, encode: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """encode(*inputs), rows [B, ...] to rows [B, ...], in micro batches. `forward` encodes its
        images by this method. `encode` must treat each row independently.
        """
        return in_micro_batches(encode, inputs, self.micro_batch, self)

    def begin(self) -> str:
        """Called once for a new run, before the file of `RunConfig.init` is read. If the method's
        own config names initial weights, they are loaded here. Returns a line for the user, or "".
        """
        return ""

    def learn_words(self, captions: Iterable[str]) -> None:
        """Called once before training, with captions of the training split, if `reads_text`."""

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the completed share of training."""

    def monitors(self, context: Context) -> dict[str, float]:
        """The method's own numbers for a validation, by name, such as the age of a queue. Called by
        one process, in eval mode, without gradients.
        """
        return {}

    def warning(self, scores: dict[str, float]) -> str:
        """One line of advice on the numbers of a validation (metrics and monitors), or nothing."""
        return ""

    def figures(self, batch: Batch) -> dict[str, list[Tensor]]:
        """The method's own figures by name: lists of rows of images [n, C, H, W], uint8 or in
        [0, 1]. Called in eval mode, without gradients.
        """
        return {}


@runtime_checkable
class PairCritic(Protocol):
    """A method that scores pairs of views: s(x, y) = <query(x), key(y)> / temperature."""

    temperature: float

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-length codes [B, P] of the two views, from frozen encoders."""
        ...


@runtime_checkable
class TextCritic(Protocol):
    """A method that scores an image against a text: s(x, t) = <image(x), text(t)> / temperature."""

    temperature: float

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        """Features and unit-length codes [B, P] of images."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Encoded:
        """Features and unit-length codes [B, P] of texts."""
        ...


@runtime_checkable
class LatentModel(Protocol):
    """A method with a tractable posterior, which the rate and the sandwich bounds need."""

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x), independent Gaussians: batch [B], event [L]."""
        ...

    def prior(self) -> Distribution:
        """p(z), event [L]."""
        ...

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z). `log_prob` of images from `target` is [B, ...] in nats. Its sum over all
        dimensions except the first is log p(x|z) of each image.
        """
        ...

    def discrete(self) -> bool:
        """Whether p(x|z) has binary or 8-bit values. (A density of real values gives no bits.)"""
        ...

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """The image as the likelihood reads it, e.g. binarised with `noise` [B, C, H, W]."""
        ...


@runtime_checkable
class Compressible(Protocol):
    """A method that can compress images without loss."""

    def compressor(self) -> "Compressor":
        """Its codec; `UserError` if its likelihood or prior has none."""
        ...


class Compressor(Protocol):
    """A lossless codec of uint8 images [n, C, H, W]."""

    def pack(self, images: Any, block: int) -> tuple[bytes, Any, Any]:
        """(bytes, moved, codes). bytes: a file of the images, in blocks of `block` images. moved:
        numbers of bits that were popped from the coder's stack or pushed on it, by name: popped
        (-log2 q(z|x)), pixels (-log2 p(x|z)), prior (-log2 p(z)), start (start-up bits), net
        (pixels + prior - popped). codes: [n, L].
        """
        ...

    def unpack(self, data: bytes) -> Any:
        """The images of a file."""
        ...

    def bound(self, images: Any, seed: int = 0, samples: int = 4) -> Any:
        """Numbers in bits per image. d, r: the model's own distortion and rate. floored: the
        distortion if each possible pixel value has at least the lowest probability that a file can
        use. error: the standard error of a file's net length minus (floored + r).
        """
        ...

    def at_codes(self, images: Any, codes: Any) -> Any:
        """The net code length of each image, computed from the model's densities at the image's
        code, in bits [n].
        """
        ...

    def moves(self, images: Any) -> list[dict[str, float]]:
        """For each image, in the order of coding, how many bits are pushed and popped when the
        images are coded one after another on one stack. Names: image (its place), start, popped,
        pixels, prior, net, content (bits on the stack after this image), and the image's own d and
        r, which are `floored` and `r` of `bound`.
        """
        ...

    def partial(self, images: Any, stops: Any = None, seed: int = 0) -> list[dict[str, Any]]:
        """What a receiver knows from the first dimensions of the codes alone, for each number of
        dimensions in `stops` (default 0, 1, 2, 4 ... L). Names: dimensions; written, rate and
        distortion, in bits per image; pictures [n, C, H, W] in [0, 1].
        """
        ...


def locate(name: str, trusted: Iterable[str] = ()) -> type[Method]:
    """The method class called `package.module.Class`.

    Only modules of the project's own packages (`ROOMS`) and of trusted packages are imported. The
    trusted packages are those in `trusted` and those in the environment variable TWOBOUNDS_TRUST.
    The module itself must define the class, as a subclass of `Method`. Raises `UserError`.
    """
    if not (NAME.fullmatch(name) and is_trusted(name, {*ROOMS, *trusted})):
        hint = "a method of your own is package.module.Class"
        if NAME.fullmatch(name):
            package = package_of(name)
            hint = f"if {package} is your own, add --trust {package} or set {TRUST}={package}"
        raise UserError(
            f"method: {shown(name)} is not allowed; name a class in {' or '.join(ROOMS)}, such as"
            f" contrastive.simclr.SimCLR; {hint}"
        )
    module_name, _, class_name = name.rpartition(".")
    module = import_module(name, "method")
    found = vars(module).get(class_name)
    if not _is_method(found, module_name):
        methods = [key for key, value in vars(module).items() if _is_method(value, module_name)]
        raise UserError(
            f"method: '{class_name}' is not a method of {module_name}{nearest(class_name, methods)}"
        )
    return found  # type: ignore[return-value]


def _is_method(value: object, module_name: str) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and value.__module__ == module_name
