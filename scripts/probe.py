"""Probe saved checkpoints: labels, information between views, geometry, rate and distortion.

    twobounds probe runs/simclr_sprites
    twobounds probe runs/*/last.ckpt data.root=/data --probes linear,knn
    twobounds probe runs/beta_vae_mnist --probes likelihood likelihood.k=5000 likelihood.images=500
    twobounds probe runs/mine --probes linear,mypackage.spectrum.Spectrum

    twobounds probe --timm resnet50 --weights moco.pth.tar data.name=cifar10 data.root=/data
    twobounds probe --torch mypackage.mine:build data.name=folder data.root=/data data.size=224
    twobounds probe features.npz exported/ data.name=cifar10 data.root=/data

A checkpoint holds its config, so its path is enough. The report probe/probe.json, pictures and
features are written beside it. Each probe is saved as soon as it is done, and a later call measures
only the missing probes. The numbers are logged to the W&B run that trained the checkpoint.

Foreign encoders are timm networks with weights of a local file, modules of your own, exported
folders, and files of features; docs/foreign.md explains them. Their reports are written beside the
file, or into the exported folder; without a file, into runs/NAME; with --out, into that folder.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.errors import UserError, exit_cleanly
from probes.registry import DEFAULT, ON_REQUEST, names_of
from scripts.shared import option, require_seeds, switch

if TYPE_CHECKING:
    from probes.report.schema import Report

SHORT = {"k": "likelihood", "steps": "ais", "chains": "ais", "images": "likelihood and ais"}


@exit_cleanly
def main(argv: list[str] | None = None) -> "list[Report]":
    """Probe checkpoints; returns their reports for scripts that call this command."""
    options = arguments(argv)
    from probes.session import probe_all

    return probe_all(options)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """The options, checked as far as possible without reading a file."""
    parser = commands.parser("probe", __doc__)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RUN_OR_CKPT",
        help="run folders (their last.ckpt is probed), checkpoints, exported folders or files of"
        " features (.npz, .safetensors); also data.KEY=VALUE for other data, and PROBE.KEY=VALUE"
        " for an option of a probe",
    )
    switch(parser, "--best", "probe best.ckpt of a run folder, not last.ckpt")
    default = ", ".join(DEFAULT)
    option(
        parser,
        "--probes",
        f"names, separated by commas (default: {default}; also {', '.join(ON_REQUEST)}), or"
        " package.module.Class of a probe of your own",
        type=names_of,
    )
    for key, owner in SHORT.items():
        option(parser, f"--{key}", f"short for {key} of {owner}", type=int)
    switch(parser, "--again", "repeat probes that were measured before")
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own that the checkpoint may name as its method or its data",
    )
    option(
        parser,
        "--seed",
        "seed of the views, of the critics and of the choice of held-out training images",
        0,
    )
    option(parser, "--device", "cpu, cuda, cuda:1 … (default: cuda if there is a GPU)")
    _foreign(parser)
    options = parser.parse_intermixed_args(argv)
    require_seeds(seed=options.seed)
    options.probes = list(DEFAULT) if options.probes is None else options.probes
    _sort_words(options)
    return options


def _foreign(parser: argparse.ArgumentParser) -> None:
    """Add the options of encoders that were not trained here."""
    group = parser.add_argument_group("encoders from elsewhere")
    add = group.add_argument
    add("--timm", metavar="NAME", help="a timm network, such as resnet50 or resnet50.a1_in1k")
    add("--torch", metavar="PACKAGE.MODULE:FUNCTION", help="a function that returns your module")
    add("--weights", type=Path, metavar="FILE", help=".pth, .pth.tar, .pt, .ckpt or .safetensors")
    add("--prefix", help="prefix of the encoder's keys in the file (default: the one that fits)")
    add("--random", action="store_true", help="random weights, as a baseline")
    add("--size", type=_side, help="pixels of the input's side (default: timm's)")
    add("--mean", type=_numbers, metavar="R,G,B", help="mean of images in [0, 1] (default: timm's)")
    add("--std", type=_numbers, metavar="R,G,B", help="their standard deviation (default: timm's)")
    add(
        "--crop",
        type=_share,
        metavar="SHARE",
        help="images are resized to SIZE / SHARE and the centre is cut out (default: timm's"
        " crop_pct; 1 = nothing is cut off). Images of the input's size are read as they are",
    )
    add(
        "--pool", help="avg, max, cls or cls+avg of the last map or tokens (default: the network's)"
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="a folder for reports and features of encoders from elsewhere and of files of"
        " features; not allowed for checkpoints",
    )


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': give numbers, such as 0.5,0.5,0.5") from None


def _share(text: str) -> float:
    try:
        if not 0.1 <= float(text) <= 2:
            raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': give a number from 0.1 to 2") from None
    return float(text)


def _side(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= 4096):
        raise argparse.ArgumentTypeError(f"'{text}': give a number of pixels from 1 to 4096")
    return int(text)


def _sort_words(options: argparse.Namespace) -> None:
    """Split the words into checkpoints, overrides of the data, and options of probes."""
    words = [word for word in options.words if "=" in word and not Path(word).exists()]
    options.targets = [word for word in options.words if word not in words]
    kept = ("data.", "wandb.", "wandb=", "seed=")
    options.overrides = [word for word in words if word.startswith(kept)]
    options.settings = {}
    for word in words:
        if word not in options.overrides:
            _setting(options, word)
    for key, owners in SHORT.items():
        value = getattr(options, key)
        asked = [name for name in owners.split(" and ") if name in options.probes]
        if value is not None and not asked:
            raise UserError(f"--{key}: this is an option of {owners}; add it to --probes")
        for name in asked if value is not None else []:
            options.settings.setdefault(name, {})[key] = value
    if not (options.targets or options.timm or options.torch):
        raise UserError("give at least one run folder or checkpoint, or --timm or --torch")


def _setting(options: argparse.Namespace, word: str) -> None:
    key, _, value = word.partition("=")
    name, _, setting = key.rpartition(".")
    # a probe of the user's own has a short name, too, which is known only after its import
    own = name.isidentifier() and any("." in asked for asked in options.probes)
    if name not in options.probes and not own:
        raise UserError(
            f"'{word}': only data.* and wandb.* of a checkpoint's config can be overridden, such as"
            f" data.root=/data, and options of the probes asked for: {', '.join(options.probes)}"
        )
    try:
        number = int(value)
    except ValueError:
        raise UserError(f"'{word}': must be a whole number") from None
    options.settings.setdefault(name, {})[setting] = number


if __name__ == "__main__":
    main()
