"""Set up a run from its config: start Fabric, build the method and its optimiser.

W = processes.
"""

import functools
import inspect
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from core.batch import Batch
from core.data.source import Source, train_sampler
from core.errors import UserError
from core.matmul import speed_up
from core.method import Method
from core.networks.batchnorm import synchronise
from core.run import checkpoint, config, sharding
from core.run.checkpoint import State
from core.run.explain import in_one_line
from core.run.fabric import (
    DDPStrategy,
    Fabric,
    FabricModule,
    FabricOptimizer,
    MisconfigurationException,
    MixedPrecision,
)
from core.run.folder import RunFolder
from core.run.initial import start_from
from core.run.optim import build_optimizer

CAPTIONS = 20_000  # a method learns its words from the captions of at most so many images
# Fabric also has 16-true and bf16-true, but small steps get lost in 16-bit weights, and 16 bits are
# too few for batch statistics.
PRECISIONS = ("32-true", "64-true", "bf16-mixed", "16-mixed")
SHORT = ("32", "64", "bf16", "16")  # Fabric's short names
# loads the file of `init` into a method; returns a line for the user and the file's sha256
Start = Callable[[Method, str], tuple[str, str]]
COMPILED = itertools.count()  # gives each compiled network of this process a number


@dataclass
class Training:
    """A run that is set up. `model` and `optimizer` are Fabric's wrappers of `state.method` and
    `state.optimizer`.
    """

    fabric: Fabric
    state: State
    model: FabricModule
    optimizer: FabricOptimizer
    source: Source
    steps_per_epoch: int
    total: int  # steps

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """This process's part of the batches of steps `start` to `stop`."""
        run, fabric, n = self.state.run, self.fabric, len(self.source)
        ranks = (fabric.global_rank, fabric.world_size, fabric.device)
        order = train_sampler(n, run.optim.batch_size, run.seed, start, stop, *ranks)
        return self.source.batches(order, self.state.method.views)


def prepare(
    fabric: Fabric, run: config.RunConfig, source: Source, start: Start = start_from
) -> Training:
    """Set up a new run on a training split. `start` reads the file of `init`."""
    if (size := run.optim.batch_size) > len(source):
        raise UserError(f"optim.batch_size: {size} is more than the {len(source)} training images")
    steps_per_epoch = len(source) // size
    with in_one_line(run, source.shape, fabric.world_size, "building"):
        built = build_state(fabric, run, source.shape, start)
    _teach_words(built[0].method, run, source)
    return Training(fabric, *built, source, steps_per_epoch, steps_per_epoch * run.optim.epochs)


def _teach_words(method: Method, run: config.RunConfig, source: Source) -> None:
    """If a method reads text, give it captions of the training split."""
    if not method.reads_text:
        return
    if not source.captioned:
        raise UserError(
            f"method: {run.method} needs captions, which data.name={run.data.name} does not have;"
            " use captioned_sprites, or your own captions with data.captions=... (docs/captions.md)"
        )
    method.learn_words(source.captions(CAPTIONS))


@contextmanager
def default_dtype(precision: str) -> Iterator[None]:
    """Within this context, torch's default dtype is float64 if `precision` is 64-bit. (Fabric does
    this only in `forward`, but validation computes features outside of it.)
    """
    before = torch.get_default_dtype()
    if precision.startswith("64"):
        torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def start_fabric(run: config.RunConfig) -> Fabric:
    """Start Lightning Fabric and, unless torchrun has done so, the other processes."""
    trainer = run.trainer
    if trainer.precision not in PRECISIONS + SHORT:
        raise UserError(
            f"trainer.precision: '{trainer.precision}' is not one of {', '.join(PRECISIONS)}"
        )
    if trainer.deterministic:
        be_deterministic()
    devices = int(trainer.devices) if trainer.devices.lstrip("-").isdigit() else trainer.devices
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=devices,
            num_nodes=trainer.num_nodes,
            strategy=sharding.strategy(trainer.precision)
            if trainer.strategy == "fsdp"
            else trainer.strategy,
            **_precision(trainer),
        )
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None
    if hasattr(fabric.strategy, "_timeout"):
        # Fabric has no option for the timeout of a strategy that is given by name
        fabric.strategy._timeout = timedelta(seconds=trainer.timeout)
    if isinstance(fabric.strategy, DDPStrategy) and trainer.sync_batchnorm:
        # DDP need not send buffers: they are equal on all processes, and a queue is large
        known = inspect.signature(DistributedDataParallel).parameters
        option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        fabric.strategy._ddp_kwargs[option] = False
    _launch(fabric, run)
    return fabric


def be_deterministic() -> None:
    """Use only deterministic algorithms from now on; an operation that has none raises an error.
    Call this before CUDA starts, because cuBLAS reads its environment variable at that time.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # no code here reads uninitialised memory, and filling it takes time
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _precision(trainer: config.TrainerConfig) -> dict[str, Any]:
    """Fabric's option for the precision. (On a CPU, Fabric would use another precision instead of
    16-mixed.)
    """
    no_gpu = trainer.accelerator == "cpu" or (
        trainer.accelerator == "auto" and not torch.accelerator.is_available()
    )
    if trainer.precision in ("16-mixed", "16") and no_gpu:
        return {"plugins": MixedPrecision("16-mixed", "cpu")}
    return {"precision": trainer.precision}


def _launch(fabric: Fabric, run: config.RunConfig) -> None:
    """Start the processes. `UserError` if the batch can not be divided equally among them, or if
    torchrun started another number.
    """
    size, world = run.optim.batch_size, fabric.world_size
    if size % world:  # checked before any process is started
        raise UserError(
            f"optim.batch_size: the global batch {size} can not be divided equally among {world}"
            f" processes; try {size // world * world or world}"
        )
    fabric.launch()
    elastic = dist.is_torchelastic_launched()
    launched = int(os.environ["WORLD_SIZE"]) if elastic else fabric.world_size
    if launched != fabric.world_size:
        trainer = run.trainer
        asked = f"trainer.devices={trainer.devices} on trainer.num_nodes={trainer.num_nodes}"
        raise UserError(
            f"trainer.devices: torchrun launched {launched} processes, but the config says {asked};"
            " set trainer.devices to the number of --nproc-per-node"
        )


def build_state(
    fabric: Fabric,
    run: config.RunConfig,
    shape: tuple[int, int, int],
    start: Start = start_from,
) -> tuple[State, FabricModule, FabricOptimizer]:
    """A new state with its execution options, and Fabric's wrappers of method and optimiser. A run
    that is not resumed gets its first weights from `init`.
    """
    method, digest = checkpoint.build_method(run, shape), ""
    if not (run.resume and RunFolder(run.folder).versions()):
        lines = [method.begin()]
        if run.init:
            said, digest = start(method, run.init)
            lines.append(said)
        if fabric.is_global_zero:
            print(*filter(None, lines), sep="\n", end="\n" * any(lines), flush=True)
    if run.trainer.cuda_graph:
        _require_one_gpu(fabric, method)
    method = speed_up(method)
    method.micro_batch = run.optim.micro_batch
    if fabric.world_size > 1 and run.trainer.sync_batchnorm:
        method = synchronise(method)
    if run.trainer.channels_last:
        method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if run.trainer.compile:
        _compile(method, run.trainer.compile)
    model = fabric.setup_module(method)
    # built now, because fsdp has replaced the method's parameters
    optimizer = build_optimizer(method, run.optim)
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None and run.optim.clip:
        # Fabric clips only gradients that are already unscaled, but a fused optimiser unscales them
        # later, in its step
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    state = State(run, method, optimizer, scaler=scaler, init=digest)
    return state, model, fabric.setup_optimizers(optimizer)  # type: ignore[return-value]


def _require_one_gpu(fabric: Fabric, method: Method) -> None:
    if fabric.device.type != "cuda" or fabric.world_size > 1:
        raise UserError(
            f"trainer.cuda_graph: needs one CUDA GPU, but this run has {fabric.world_size} x"
            f" {fabric.device.type}; set it to false"
            + (", or trainer.compile=reduce-overhead" if fabric.device.type == "cuda" else "")
        )
    if method.reads_text:
        raise UserError(
            "trainer.cuda_graph: a graph would read the captions of one step again and again; set"
            " it to false"
        )


def _compile(method: Method, asked: bool | str) -> None:
    for network in compiled_parts(method):
        compile_network(network, mode=asked if isinstance(asked, str) else "default")


def compiled_parts(method: Method) -> Iterator[nn.Module]:
    """The networks that `trainer.compile` compiles; losses and queue are not among them."""
    for part in method.children():
        # a ModuleDict itself is never called
        yield from part.values() if isinstance(part, nn.ModuleDict) else [part]


def compile_network(network: nn.Module, **options: Any) -> None:
    """Like `network.compile(**options)`, but it also works if the network inherits `forward` from
    torch, as a subclass of nn.Sequential does. For such a network, `network.compile` silently does
    nothing.
    """
    call = network._call_impl

    @functools.wraps(call)
    def called(*args: Any, **named: Any) -> Any:
        return call(*args, **named)

    # The compiler keeps a small number of graphs for each code object, and remembers sizes by the
    # name of the code. If all networks had the same name, it would mistake the sizes of several
    # networks for varying sizes of one network.
    name = f"network_{next(COMPILED)}"
    called.__code__ = called.__code__.replace(co_name=name)  # type: ignore[attr-defined]
    network._compiled_call_impl = torch.compile(called, **options)
