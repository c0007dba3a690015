"""Pretrain one method on one data set.

    twobounds pretrain simclr_sprites
    twobounds pretrain simclr_sprites optim.lr=0.3 trainer.devices=4
    torchrun --nproc-per-node=8 -m twobounds pretrain moco_cifar10 trainer.devices=8

    twobounds pretrain --resume runs/simclr_sprites
    twobounds pretrain --resume runs/simclr_sprites optim.epochs=4
    twobounds pretrain simclr_folder data.root=/my/pictures init=runs/mine
    twobounds pretrain simclr_folder data.root=/my/pictures init=moco.pth.tar

A run is one folder: config.yaml, last.ckpt, best.ckpt, metrics.jsonl, pictures. `--resume`
continues exactly where the run stopped; with a larger optim.epochs it trains longer. `init` starts
a new run from the weights of another run, or from a weights file of timm, MoCo, DINO and others
(docs/foreign.md). `twobounds keys` explains all keys. SIGTERM and SIGUSR1 end a run after the
current step with exit code 75 ("requeue me"), Ctrl-C with 130. docs/faults.md lists other faults.
"""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.errors import UserError, exit_cleanly
from scripts.shared import overrides, switch


@exit_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    pretrain(*arguments(argv))


def pretrain(path: str, words: list[str], trusted: list[str] | None = None) -> None:
    """Train the run that a config and its overrides describe, or resume it.

    `trusted`: for the config of a run folder, the packages of the user's own that it may name.
    """
    from core.data.registry import trust
    from core.run import config, local_loggers
    from core.run.folder import RunFolder
    from core.run.preemption import requeue_while_starting

    requeue_while_starting()
    trust(*(trusted or []))
    run = config.read(path, words, trusted)
    local_loggers.require(run.trainer)
    folder = RunFolder(run.folder)
    folder.check(run)

    # slow imports; a mistake in the config has been reported before them
    from core.data.datasets import open_source
    from core.run.dry_run import dry_run
    from core.run.logger import Logger
    from core.run.loop import Loop
    from core.run.setup import default_dtype, prepare, start_fabric
    from core.run.validation import Validation
    from probes.labels.knn import online_knn

    source = open_source(run.data, "train", run.seed)
    fabric = start_fabric(run)
    with default_dtype(run.trainer.precision), closing(folder):
        training = prepare(fabric, run, source, _start_from)
        validation = Validation(run, fabric.device, source, fabric.world_size, online_knn)
        dry_run(training, validation)
        logger = None
        folder.open(training.state, source, first=fabric.is_global_zero)
        if fabric.is_global_zero:
            logger = Logger(run, folder.path, training.state.wandb_id)
            training.state.wandb_id = logger.id
        loop = Loop(training, validation, folder, logger)
        loop.begin()
        loop.to_the_end()


def _start_from(method: Any, init: str) -> tuple[str, str]:
    """`core.foreign.initial.start_from`, imported when it is needed: it takes a second."""
    from core.foreign.initial import start_from

    return start_from(method, init)


def arguments(argv: Sequence[str] | None = None) -> tuple[str, list[str], list[str] | None]:
    """The config's path, its overrides with the switches, and for a run folder the trusted
    packages.
    """
    parser = commands.parser("pretrain", __doc__)
    parser.add_argument(
        "config",
        nargs="?",
        help="a YAML file or the name of a packaged config; the first lines of a packaged config"
        " show its command, its cost and the expected numbers. With --resume, a run folder",
    )
    overrides(parser, "any key of the config, such as optim.lr=0.3 seed=1 folder=runs/mine")
    switch(
        parser,
        "--resume",
        "resume the run in its folder: `--resume RUN` for any run folder, or CONFIG --resume",
    )
    switch(
        parser, "--profile", "report where a step's time goes (the same as trainer.profile=true)"
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that the config of a resumed run folder may name",
    )
    given = parser.parse_intermixed_args(argv)
    if given.config is None or "=" in given.config and not Path(given.config).exists():
        parser.error("name a config, or a run folder with --resume")
    switches = {"resume=true": given.resume, "trainer.profile=true": given.profile}
    words = given.overrides + [word for word, on in switches.items() if on]
    if not Path(given.config).is_dir():
        return given.config, words, None
    run = Path(given.config)
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run}: is a folder without config.yaml; name a config or a run folder")
    if not given.resume:
        raise UserError(f"{run}: is a run folder; add --resume to continue it")
    return str(run / "config.yaml"), [*words, f"folder={run}"], given.trust


if __name__ == "__main__":
    main()
