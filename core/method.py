"""The interface of every method, and the only door through which a method is found by name.

B = images, C H W = image shape, D = feature dimensions, L = latent dimensions.
"""

import importlib
import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.distributions import Distribution

from core.batch import Batch, Encoded, Output
from core.errors import UserError, nearest, shown
from core.gradcache import in_micro_batches

ROOMS = (
    "contrastive",
    "vae",
)  # a method named in a checkpoint is looked for here and nowhere else, unless a user trusts more
TRUST = "TWOBOUNDS_TRUST"  # the environment's list of further packages
NAME = re.compile(r"([A-Za-z_]\w*\.)+[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Context:
    """What a method may read when it is asked for its monitors, after `step` steps of training."""

    step: int
    batch_size: int  # of the whole batch, over all processes
    steps_per_epoch: int
    # the batch of a step, made again: a list with the part of each process in rank order, or with
    # one whole batch where batch norm is synchronised
    trained_on: Callable[[int], list[Batch]]
    # (purpose, n): batches of at most n validation images as they are, with one view; the purpose
    # names their randomness
    held_out: Callable[[str, int], Iterable[Batch]]


class Method(nn.Module, ABC):
    """A way to learn a representation. A method is one file that holds its `Config` and one YAML
    file that fills it in.
    """

    Config: ClassVar[type]  # a dataclass; its __post_init__ raises ValueError("key: what is wrong")
    views: ClassVar[int] = 2  # how many views of an image a batch holds
    criterion: ClassVar[str] = (
        "knn"  # the validation metric, higher is better, that chooses best.ckpt
    )
    micro_batch: int = 0  # optim.micro_batch: images that are encoded at a time; 0 = all of a batch

    def __init__(self, config: Any, shape: tuple[int, int, int]):
        super().__init__()
        self.config, self.shape = config, shape

    @abstractmethod
    def forward(self, batch: Batch) -> Output:
        """The loss of a batch and its metrics. The trainer calls `model(batch)`, so that DDP's
        hooks see it.
        """

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W], uint8 or in [0, 1], to the features [B, D] that the probes
        consume.
        """

    def encode(self, x: Tensor, key: bool = False) -> Encoded:
        """Features and, of a method that scores pairs of views, unit-length codes, in one pass.

        `key`: x is the second view of its pair, which a method such as MoCo encodes by another
        network; features come from the same backbone either way.
        """
        codes = self.codes(x, x)[int(key)] if isinstance(self, PairCritic) else None
        return Encoded(self.embed(x), codes)

    def in_micro_batches(
        self, encode: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        """encode(*inputs), rows [B, ...] to rows [B, ...], in micro batches: what `forward` does to
        images goes through here.

        `encode` treats every row alike; what compares rows or averages them comes after.
        """
        return in_micro_batches(encode, inputs, self.micro_batch, self)

    def after_step(self, progress: float) -> None:
        """Called after each optimiser step with the share of training done: momentum update,
        enqueue, schedules.
        """

    def monitors(self, context: Context) -> dict[str, float]:
        """Numbers of this method's own, by name, for each validation, such as the age of a queue.
        Called in eval mode without gradients, by one process.
        """
        return {}

    def warning(self, scores: dict[str, float]) -> str:
        """What the numbers of a validation call for, as one line for a person, or nothing.
        `scores` holds `monitors` and the metrics of `forward` under their own names.
        """
        return ""

    def figures(self, batch: Batch) -> dict[str, list[Tensor]]:
        """Pictures of this method's own, by name: each is a list of rows of images [N, C, H, W],
        uint8 or in [0, 1]. Called in eval mode without gradients.
        """
        return {}


@runtime_checkable
class PairCritic(Protocol):
    """A method that scores pairs of views: s(x, y) = <query(x), key(y)> / temperature, both codes
    of unit length.
    """

    temperature: float

    def codes(self, query_view: Tensor, key_view: Tensor) -> tuple[Tensor, Tensor]:
        """Unit-length codes [B, D] of the two views, from frozen encoders."""
        ...


@runtime_checkable
class LatentModel(Protocol):
    """A method with a tractable posterior: what the rate, the sandwich bounds and a codec need."""

    def posterior(self, x: Tensor) -> Distribution:
        """q(z|x), independent Gaussians: batch [B], event [L]."""
        ...

    def prior(self) -> Distribution:
        """p(z), event [L]."""
        ...

    def likelihood(self, z: Tensor) -> Distribution:
        """p(x|z); its log_prob of an image as `target` returns it is [B, C, H, W] (or sums to it),
        in nats.
        """
        ...

    def discrete(self) -> bool:
        """Whether p(x|z) is of binary or 8-bit values: a density of real ones is no number of
        bits.
        """
        ...

    def target(self, x: Tensor, noise: Tensor) -> Tensor:
        """The image as the likelihood reads it (e.g. binarised with uniform `noise` of x's
        shape).
        """
        ...


def package_of(name: str) -> str:
    """The package of a method's name: that a user writes it in a config of their own is trust."""
    return name.partition(".")[0]


def locate(name: str, trusted: Iterable[str] = ()) -> type[Method]:
    """The method class called `package.module.Class`.

    Nothing is imported but modules in `ROOMS`, in packages that `trusted` names, and in those of
    the environment's TWOBOUNDS_TRUST (separated by commas), which may lie in the current directory.
    A class is returned only where that very module defines it as a subclass of `Method`.
    """
    module_name, _, class_name = name.rpartition(".")
    packages = {*ROOMS, *trusted, *os.environ.get(TRUST, "").split(",")} - {""}
    if not (
        NAME.fullmatch(name) and any(f"{module_name}.".startswith(f"{own}.") for own in packages)
    ):
        raise UserError(
            f"method: {shown(name)} is not allowed; name a class in {' or '.join(ROOMS)}, such as"
            " contrastive.simclr.SimCLR, or trust the package that holds it: --trust PACKAGE or"
            f" {TRUST}=PACKAGE"
        )
    module = _import(module_name, name)
    found = vars(module).get(class_name)
    if not _is_method(found, module_name):
        methods = [key for key, value in vars(module).items() if _is_method(value, module_name)]
        raise UserError(
            f"method: '{class_name}' is no method of {module_name}{nearest(class_name, methods)}"
        )
    return found  # type: ignore[return-value]


def _is_method(value: object, module_name: str) -> bool:
    return isinstance(value, type) and issubclass(value, Method) and value.__module__ == module_name


def _import(module_name: str, name: str) -> ModuleType:
    """A module of a trusted package; a user's own may lie in the current directory."""
    own = package_of(module_name) not in ROOMS
    if own and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there replaces no installed module
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        ):
            file = module_name.replace(".", "/")
            raise UserError(f"method: there is no file {file}.py for '{name}'") from None
        if not own:
            raise
        raise UserError(
            f"method: {module_name} can not be imported ({type(error).__name__}: {error})"
        ) from error
