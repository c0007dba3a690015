"""Probe saved checkpoints: labels (linear, kNN), information between views (InfoNCE), geometry,
rate and distortion, disentanglement; and, asked for by name, bounds on the likelihood (likelihood,
ais) and the rate head.

    python scripts/probe.py runs/simclr_sprites
    python scripts/probe.py runs/*/last.ckpt data.root=/data --probes linear,knn
    python scripts/probe.py runs/beta_vae_mnist --probes likelihood --k 5000 --images 500

A checkpoint holds its config, so its path is enough. Beside it appear probe/probe.json (schema:
probes/report/schema.py), probe/*.png and the features; the numbers are logged to the W&B run that made the
checkpoint.
"""

import sys
from pathlib import Path

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.data.datasets import open_source
from core.errors import UserError, exit_cleanly
from core.method import LatentModel, Method
from core.run import checkpoint, config, logger
from core.run.folder import RunFolder, make_folder

import argparse
import time

import torch
from rich.console import Console

from probes.report import schema as report
from probes.report import sentences
from scripts.probe_table import DEFAULT, PROBES, Subject

OPTIONS = {
    "k": "importance weights an image",
    "steps": "of annealing",
    "chains": "of annealing an image",
    "images": "of test, evenly spread, whose likelihood is bounded",
}


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    console = Console(highlight=False, soft_wrap=True)
    device = usable_device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reports = []
    for path in [find(Path(target), options.best) for target in options.targets]:
        started = time.monotonic()
        found = probe(path, options, device, console)
        console.print("\n".join(sentences.details(found)))
        console.print(f"  {path.parent / 'probe'} · {time.monotonic() - started:.0f} s\n")
        reports.append(found)
    Console(width=max(console.width, 150), highlight=False).print(report.table(reports))


def probe(
    path: Path, options: argparse.Namespace, device: torch.device, console: Console
) -> report.Report:
    """Everything that is asked about one checkpoint."""
    method, run, step, digest = checkpoint.load_method(path, device)
    run = config.override(run, options.overrides, str(path))
    if options.overrides:
        refuse_other_images(method, open_source(run.data, "test", run.seed, augmented=False).shape)
    folder = path.parent / "probe"
    make_folder(folder, "probe", "it writes beside the checkpoint, so copy that first")
    found: report.Report = {
        "format": report.FORMAT,
        "checkpoint": str(path),
        "digest": digest,
        "method": run.method,
        "step": step,
        "data": run.data.name,
        "seed": options.seed,
    }
    subject = Subject(path, method, run, device, options.seed, options.settings)
    for name in options.probes:
        if why := PROBES[name].missing(subject):
            console.print(f"{path}: no {name}: {why}", style="dim")
        else:
            console.print(f"{path}: {name.replace('_', ' ')} …", style="dim")
            found[name] = PROBES[name].measure(subject)
    found = report.with_earlier(found, folder / "probe.json")
    report.save(found, folder / "probe.json")
    log(path, found, subject.pictures)
    return found


def refuse_other_images(method: Method, shape: tuple[int, int, int]) -> None:
    """`UserError` where a method can not read images of shape (C, H, W): a VAE reads its own size
    alone, an encoder its own channels.
    """
    if shape[0] != method.shape[0] or (isinstance(method, LatentModel) and shape != method.shape):
        given, own = ("x".join(map(str, sides)) for sides in (shape, method.shape))
        raise UserError(
            f"data: its images are {given} (channels, height, width), and the checkpoint reads"
            f" {own}; name other data or data.size"
        )


def log(path: Path, found: report.Report, pictures: dict[str, Path]) -> None:
    """The table, the headline numbers and the pictures, into the W&B run that made the
    checkpoint.
    """
    made = logger.attach(path)
    made.table("probe", [*report.HEAD], [report.row(found)])
    made.metrics(
        {f"probe/{name}": value for name, value in report.numbers(found).items()}, found["step"]
    )
    made.pictures({f"probe/{name}": file for name, file in pictures.items()}, found["step"])
    made.close()


def find(target: Path, best: bool) -> Path:
    """The checkpoint that a run folder or a file means."""
    if not target.is_dir():
        return target
    folder = RunFolder(target)
    path = folder.best if best else folder.last
    if not path.is_file():
        raise UserError(f"{target}: holds no {path.name}; give a run folder or a checkpoint")
    return path


def usable_device(name: str) -> torch.device:
    """The device of that name; `UserError` where this machine has none."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device: '{name}' can not be used here ({str(error).splitlines()[0]})"
        ) from None
    return torch.device(name)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = commands.parser("probe", __doc__)
    parser.add_argument(
        "targets",
        nargs="+",
        metavar="RUN_OR_CKPT",
        help="run folders (their last.ckpt) or checkpoints; key=value overrides, such as"
        " data.root=/data, may stand among them",
    )
    parser.add_argument("--best", action="store_true", help="of a run folder, take best.ckpt")
    parser.add_argument(
        "--probes",
        default=",".join(DEFAULT),
        help=f"which of {', '.join(PROBES)}, separated by commas (default: %(default)s; rate,"
        " likelihood and ais are for VAEs)",
    )
    for option, meaning in OPTIONS.items():
        readers = [
            f"{name} {probe.options[option]}"
            for name, probe in PROBES.items()
            if option in probe.options
        ]
        parser.add_argument(
            f"--{option}", type=int, help=f"{meaning} (default: {', '.join(readers)})"
        )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the views, the critics and the held-out tenth (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: cuda where there is one)")
    options = parser.parse_intermixed_args(argv)
    options.overrides = [
        word for word in options.targets if "=" in word and not Path(word).exists()
    ]
    options.targets = [word for word in options.targets if word not in options.overrides]
    options.probes = options.probes.split(",")
    for word in options.overrides:
        if not word.startswith("data."):
            raise UserError(
                f"'{word}': a checkpoint's config is fixed; only data.* can be overridden, such"
                " as data.root=/data"
            )
    if not options.targets:
        raise UserError("give at least one run folder or checkpoint")
    for word in options.probes:
        if word not in PROBES:
            raise UserError(f"--probes: there is no '{word}'; choose among {', '.join(PROBES)}")
    given = {option: value for option in OPTIONS if (value := getattr(options, option)) is not None}
    for option, value in given.items():
        readers = [name for name, probe in PROBES.items() if option in probe.options]
        if not set(readers) & set(options.probes):
            raise UserError(
                f"--{option}: none of the probes asked for reads it; add --probes"
                f" {' or '.join(readers)}"
            )
        if value < 1:
            raise UserError(f"--{option}: must be 1 or more, got {value}")
    options.settings = {
        name: {key: given.get(key, default) for key, default in PROBES[name].options.items()}
        for name in options.probes
    }
    return options


if __name__ == "__main__":
    main()
