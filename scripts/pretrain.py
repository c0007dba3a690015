"""Pretrain one method on one data set.

    python scripts/pretrain.py configs/simclr_sprites.yaml
    python scripts/pretrain.py configs/simclr_sprites.yaml optim.lr=0.3 trainer.devices=4
    torchrun --nproc-per-node=8 scripts/pretrain.py configs/moco_cifar10.yaml trainer.devices=8

A run is one folder: config.yaml, last.ckpt, best.ckpt, metrics.jsonl, pictures. `--resume` goes on
exactly where it stopped. SIGTERM and SIGUSR1 end it after the step under way with exit code 75,
"requeue me", Ctrl-C with 130; docs/faults.md says what happens otherwise.
"""

import sys
from pathlib import Path

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.data.datasets import open_source
from core.data.source import Source, eval_sampler, train_sampler
from core.distributed import mean_over_ranks
from core.errors import UserError, exit_cleanly
from core.matmul import speed_up
from core.method import LatentModel, Method
from core.networks.batchnorm import synchronise
from core.run import checkpoint, config, sharding
from core.run.checkpoint import State
from core.run.finite import FiniteLosses
from core.run.folder import LEASE, RunFolder
from core.run.logger import Logger
from core.run.optim import build_optimizer
from core.run.preemption import Preemption, requeue_while_starting
from core.run.profile import Profile
from core.run.progress import ProgressLine, in_words
from core.run.train import train

import inspect
import os
import shlex
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scripts.validation import Validation


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    requeue_while_starting()
    run = config.read(*arguments(argv))
    folder = RunFolder(run.folder)
    folder.check(run)
    source = open_source(run.data, "train", run.seed)
    fabric = start_fabric(run)
    rank, world = fabric.global_rank, fabric.world_size
    steps_per_epoch = len(source) // run.optim.batch_size
    total = steps_per_epoch * run.optim.epochs
    if run.optim.batch_size > len(source):
        raise UserError(
            f"optim.batch_size: {run.optim.batch_size} is more than the {len(source)} training"
            " images"
        )

    state, model, optimizer = build_state(fabric, run, source.shape)
    refuse_unknown_pixels(state.method, source)
    if fabric.is_global_zero:
        folder.hold(LEASE if run.resume else 0.0)
    if run.resume:
        fabric.print(folder.resume(state))
    validation = Validation(run, fabric.device, source, world)

    if fabric.is_global_zero:
        folder.create(run)
        folder.rewind_metrics(state.step)
    logger = Logger(run, folder.path, state.wandb_id) if fabric.is_global_zero else None
    if logger:
        state.wandb_id = logger.id
    observe(fabric, state, validation, folder, logger, scored=False)
    if state.step == 0:
        folder.save(state, steps_per_epoch)

    order = train_sampler(
        len(source), run.optim.batch_size, run.seed, state.step, total, rank, world, fabric.device
    )
    batches = source.batches(order, state.method.views)
    profiled = folder.path / "profile" if run.trainer.profile and fabric.is_global_zero else None
    line = ProgressLine(total, state.step, run.optim.batch_size, shown=fabric.is_global_zero)
    losses = FiniteLosses(folder.last)
    with (
        Preemption(timedelta(seconds=run.trainer.timeout)) as preemption,
        line as progress,
        Profile(profiled) as profile,
    ):
        for metrics in train(
            fabric, model, optimizer, state, preemption.until(batches), total, steps_per_epoch
        ):
            losses.add(state.step, metrics)
            step, last = state.step, state.step == total
            progress.advance(step)
            if account := profile.step():
                progress.say(
                    f"{account}written to {profiled}, with trace.json for a browser's tracing page"
                )
            validates = bool(run.trainer.validate_every) and (
                step % (run.trainer.validate_every * steps_per_epoch) == 0 or last
            )
            saves = step % run.trainer.save_every == 0 or last
            if not (step % run.trainer.log_every == 0 or validates or saves):
                continue
            values = mean_over_ranks(losses.look(), fabric.device)
            if logger and (step % run.trainer.log_every == 0 or last):
                progress.show(values)
                folder.append_metrics({"step": step, "epoch": step / steps_per_epoch, **values})
                logger.metrics({**values, "images_per_s": progress.images_per_second}, step)
            if validates:
                scores = observe(fabric, state, validation, folder, logger)
                if logger:
                    folder.append_metrics({"step": step, "epoch": step / steps_per_epoch, **scores})
                    logger.metrics(scores, step)
                    progress.say(f"step {step}/{total} validation · {in_words(scores)}")
                    if validation.warning:
                        progress.say(f"warning: {validation.warning}")
                score = scores[f"val/{state.method.criterion}"]
                if score > state.best:
                    state.best = score
                    checkpoint.save(folder.best, state)
            if saves:
                folder.save(state, steps_per_epoch)
            fabric.barrier()
        if preemption.stopping and state.step < total:
            losses.look()
            folder.save(state, steps_per_epoch)
            if logger:
                progress.say(
                    f"{preemption.reason}: saved {folder.last} at step {state.step}; --resume"
                    f" goes on; exit code {preemption.exit_code}"
                )
                logger.close(patience=5)
            # a launcher that sees one process end kills the others, and the first is still saving
            fabric.barrier()
            raise SystemExit(preemption.exit_code)
    if logger:
        logger.close()
        progress.say(
            f"done: {folder.last} at step {state.step}; next: {commands.command('probe')}"
            f" {shlex.quote(str(folder.path))}"
        )


def arguments(argv: list[str] | None = None) -> tuple[str, list[str]]:
    """The config's path and its overrides, `--resume` among them."""
    parser = commands.parser("pretrain", __doc__)
    parser.add_argument(
        "config", help="a YAML file; those in configs/ say their command, cost and expected numbers"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="any key of the config, such as optim.lr=0.3 seed=1 folder=runs/mine",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in its folder (the same as resume=true)",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="say where the time of a step goes (the same as trainer.profile=true)",
    )
    given = parser.parse_intermixed_args(argv)
    switches = {"resume=true": given.resume, "trainer.profile=true": given.profile}
    return given.config, given.overrides + [override for override, on in switches.items() if on]


def start_fabric(run: config.RunConfig) -> Fabric:
    """Lightning Fabric with the config's own words; it launches the other processes unless torchrun
    already has.
    """
    trainer = run.trainer
    devices = int(trainer.devices) if trainer.devices.lstrip("-").isdigit() else trainer.devices
    try:
        fabric = Fabric(
            accelerator=trainer.accelerator,
            devices=devices,
            num_nodes=trainer.num_nodes,
            precision=trainer.precision,  # type: ignore[arg-type]
            strategy=sharding.strategy() if trainer.strategy == "fsdp" else trainer.strategy,
        )  # type: ignore[arg-type]
    except (ValueError, TypeError, RuntimeError, ImportError, MisconfigurationException) as error:
        raise UserError(f"trainer: {str(error).splitlines()[0]}") from None
    if hasattr(
        fabric.strategy, "_timeout"
    ):  # a strategy that is given by name takes it from nowhere else
        fabric.strategy._timeout = timedelta(seconds=trainer.timeout)
    if isinstance(fabric.strategy, DDPStrategy) and trainer.sync_batchnorm:
        known = inspect.signature(
            DistributedDataParallel
        ).parameters  # buffers are the same everywhere, and a queue is long
        fabric.strategy._ddp_kwargs[
            "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        ] = False
    if run.optim.batch_size % fabric.world_size:  # before a thousand processes are started
        size, world = run.optim.batch_size, fabric.world_size
        raise UserError(
            f"optim.batch_size: the global batch {size} does not divide among {world} processes;"
            f" try {size // world * world or world}"
        )
    fabric.launch()
    launched = (
        int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else fabric.world_size
    )
    if launched != fabric.world_size:
        asked = f"trainer.devices={trainer.devices} on trainer.num_nodes={trainer.num_nodes}"
        raise UserError(
            f"trainer.devices: torchrun launched {launched} processes, not those of {asked}; set"
            " it to --nproc-per-node"
        )
    if trainer.precision.startswith("64"):
        torch.set_default_dtype(
            torch.float64
        )  # Fabric does it inside forward only, and validation reads features outside
    return fabric


def refuse_unknown_pixels(method: Method, source: Source) -> None:
    """`UserError` where a likelihood does not know the images' values, before anything is
    written.
    """
    if isinstance(method, LatentModel):
        x = next(source.batches(eval_sampler(2), 1)).views[0]
        method.target(x, torch.zeros(x.shape, device=x.device))


def build_state(
    fabric: Fabric, run: config.RunConfig, shape: tuple[int, int, int]
) -> tuple[State, _FabricModule, _FabricOptimizer]:
    """A fresh state with the options that change how it is executed applied, and its method and
    optimiser as Fabric wraps them.
    """
    method = speed_up(checkpoint.build_method(run, shape))
    method.micro_batch = run.optim.micro_batch
    if fabric.world_size > 1 and run.trainer.sync_batchnorm:
        method = synchronise(method)
    if run.trainer.channels_last:
        method = method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if run.trainer.compile:
        mode = run.trainer.compile if isinstance(run.trainer.compile, str) else "default"
        for part in method.children():
            for network in (
                part.values() if isinstance(part, nn.ModuleDict) else [part]
            ):  # a dictionary is never called
                network.compile(mode=mode)
    model = fabric.setup_module(method)
    state = State(
        run, method, build_optimizer(method, run.optim)
    )  # now: fsdp has put parameters of its own in the place of the method's
    return state, model, fabric.setup_optimizers(state.optimizer)  # type: ignore[return-value]


def observe(
    fabric: Fabric,
    state: State,
    validation: Validation,
    folder: RunFolder,
    logger: Logger | None,
    scored: bool = True,
) -> dict[str, float]:
    """Pictures of the method as it is, by the first process, and its validation, known to all of
    them, to be called by all.
    """
    method = checkpoint.whole_method(
        state
    )  # where weights are shared, a copy that is gone with the end of this function
    with torch.compiler.set_stance("force_eager"):  # other sizes, another mode: not worth compiling
        scores = fabric.broadcast(validation(method, state.step)) if scored else {}
        if logger:
            logger.pictures(validation.pictures(method, folder.pictures), state.step)
    return scores


if __name__ == "__main__":
    main()
