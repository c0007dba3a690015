"""Forward and backward of a training step as one CUDA graph, which the host replays with one call.

Without a graph, the host launches each kernel of a step. The GPU then waits for the host if its
kernels are short, as in small networks, with small batches, and in most VAEs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.batch import Batch
from core.errors import UserError
from core.randomness import KeyedRNG
from core.transfer import send

KEY = "trainer.cuda_graph"
WARM = 3  # ordinary steps before the recording, in which libraries choose their algorithms

Run = Callable[[Batch], dict[str, Tensor]]
Attributes = dict[tuple[nn.Module, str], Any]


class GraphedStep:
    """Computes what `run(batch)` computes: gradients, and scalars by name. The first `WARM` calls
    are ordinary calls; the next one records the kernels, and all later ones replay them.

    The recorded kernels read the batch and its random numbers from tensors at fixed addresses, and
    write gradients to fixed addresses, too. So gradients must not be set to None between calls.
    The Python code of `run` is not executed again. What it assigns to attributes of modules of
    `method` is assigned again after each replay; see `assigned`.
    """

    def __init__(self, run: Run, method: nn.Module, device: torch.device):
        self.run, self.method, self.device = run, method, device
        self.calls = 0
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self.calls += 1
        if self.calls < WARM:
            return self._ordinary(batch)
        if batch.text:
            raise ValueError("a recorded step can not read texts, which are not tensors")
        if self.calls == WARM:  # this step shows which random numbers are drawn
            self.tensors = [x.clone() for x in (*batch.views, batch.label, batch.index)]
            self.numbers = Numbers(batch.rng, self.device)
            *views, label, index = self.tensors
            self.batch = Batch(tuple(views), label, index, RecordedRNG(self.numbers))
            return self._ordinary(self.batch)
        for place, x in zip(self.tensors, (*batch.views, batch.label, batch.index), strict=True):
            place.copy_(x)
        self.numbers.refill(batch.rng)
        if self.calls == WARM + 1:
            before = attributes(self.method)
            self.replay, self.scalars = record(self._stacked, self.stream)
            self.attributes = assigned(before, attributes(self.method))
        self.replay()
        for (module, name), value in self.attributes.items():
            setattr(module, name, value)
        values = self.scalars.clone().unbind()  # the next replay overwrites the scalars
        return dict(zip(self.names, values, strict=True))

    def _ordinary(self, batch: Batch) -> dict[str, Tensor]:
        """A call on a stream of its own, as torch requires before a recording."""
        if self.stream is None:
            return self.run(batch)
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            scalars = self.run(batch)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return scalars

    def _stacked(self) -> Tensor:
        scalars = self.run(self.batch)
        self.names = list(scalars)
        return torch.stack([x.detach() for x in scalars.values()])


def record(
    run: Callable[[], Tensor], stream: torch.cuda.Stream | None
) -> tuple[Callable[[], object], Tensor]:
    """Record the kernels of `run`. Returns a function that replays them, and the tensor in which
    each replay leaves the result of `run`.
    """
    graph = torch.cuda.CUDAGraph()
    try:
        # thread_local: other threads, such as the one that saves checkpoints, may use the GPU
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            result = run()
    except RuntimeError as error:
        said = str(error).strip().splitlines()[0][:200]
        raise UserError(
            f"{KEY}: the step of this method can not be recorded ({said}); its forward must not"
            f" wait for the GPU, as .item() does; change it, or set {KEY}=false"
        ) from None
    return graph.replay, result


class Numbers:
    """The random numbers of a recorded step, in tensors at fixed addresses."""

    def __init__(self, rng: KeyedRNG, device: torch.device):
        self.rng, self.device = rng.on("cpu"), device
        self.draws: dict[tuple[Any, ...], Callable[[KeyedRNG], Tensor]] = {}
        self.places: dict[tuple[Any, ...], Tensor] = {}

    def drawn(self, key: tuple[Any, ...], draw: Callable[[KeyedRNG], Tensor]) -> Tensor:
        """The tensor of the draw that `key` names. A new tensor holds this step's numbers."""
        if key not in self.places:
            if self.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                raise UserError(
                    f"{KEY}: forward draws the random numbers {key} only in some steps; set"
                    f" {KEY}=false"
                )
            self.draws[key] = draw
            self.places[key] = send([draw(self.rng)], self.device)[0].clone()
        return self.places[key]

    def refill(self, rng: KeyedRNG) -> None:
        """Fill all tensors with another step's numbers, by one copy from the host."""
        self.rng = rng.on("cpu")
        values = send([draw(self.rng) for draw in self.draws.values()], self.device)
        for place, x in zip(self.places.values(), values, strict=True):
            place.copy_(x)


class RecordedRNG(KeyedRNG):
    """A `KeyedRNG` whose numbers lie in the tensors of `Numbers`."""

    def __init__(self, numbers: Numbers, path: tuple[str, ...] = (), common: bool = False):
        super().__init__(0, 0, numbers.rng.rank, numbers.rng.world, numbers.device)
        self.numbers, self.forks, self.is_common = numbers, path, common

    def __getattribute__(self, name: str) -> Any:
        if name in ("seed", "step"):
            raise UserError(
                f"{KEY}: forward reads rng.{name}, but a recorded step would never change it; draw"
                f" the numbers from rng, fork or common, or set {KEY}=false"
            )
        return super().__getattribute__(name)

    def fork(self, name: str) -> KeyedRNG:
        return RecordedRNG(self.numbers, (*self.forks, name), self.is_common)

    def common(self) -> KeyedRNG:
        return RecordedRNG(self.numbers, self.forks, True)

    def on(self, device: torch.device | str) -> KeyedRNG:
        if torch.device(device).type != self.device.type:
            raise UserError(
                f"{KEY}: forward draws random numbers on {device}, which a recorded step can not"
                f" read again; draw them on {self.device}, or set {KEY}=false"
            )
        return self

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        return self._drawn("uniform", purpose, *shape)

    def normal(self, purpose: str, *shape: int) -> Tensor:
        return self._drawn("normal", purpose, *shape)

    def integers(self, purpose: str, high: int, *shape: int) -> Tensor:
        return self._drawn("integers", purpose, high, *shape)

    def permutation(self, purpose: str, n: int) -> Tensor:
        return self._drawn("permutation", purpose, n)

    def _drawn(self, kind: str, *given: Any) -> Tensor:
        forks, common = self.forks, self.is_common

        def draw(rng: KeyedRNG) -> Tensor:
            for name in forks:
                rng = rng.fork(name)
            return getattr(rng.common() if common else rng, kind)(*given)

        return self.numbers.drawn((*forks, common, kind, *given), draw)


def attributes(method: nn.Module) -> Attributes:
    """All attributes and buffers of the modules of a method."""
    found: Attributes = {}
    for module in method.modules():
        for name, value in (vars(module) | module._buffers).items():
            found[module, name] = value
    return found


def assigned(before: Attributes, after: Attributes) -> Attributes:
    """The tensors that a forward assigned to attributes that were None or absent, such as the keys
    of a step. Other changes raise `UserError`, because a replay would not repeat them.
    """
    changed = {
        place: value
        for place, value in after.items()
        if value is not before.get(place) and not _equal(value, before.get(place))
    }
    for (module, name), value in changed.items():
        if not isinstance(value, Tensor) or before.get((module, name)) is not None:
            raise UserError(
                f"{KEY}: forward changes {type(module).__name__}.{name}, which a recorded step"
                " would not do again; change a buffer in place (copy_, add_), or set"
                f" {KEY}=false"
            )
    return changed


def _equal(value: Any, before: Any) -> bool:
    return isinstance(value, bool | int | float | str) and value == before
