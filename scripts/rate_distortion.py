"""Rate-distortion curves: what a code costs in nats against what it loses, one trained model for
each price beta of a nat of rate.

    twobounds rate-distortion linear_vae                             # beside the exact curve
    twobounds rate-distortion beta_vae_sprites --betas 1,3,10,30 optim.epochs=4 --warm-start
    twobounds rate-distortion --checkpoint runs/simclr_sprites       # through the rate head

A config is trained once a beta, in a run folder of its own: an interrupted run is resumed, a
finished one is not trained again. A checkpoint of any family is frozen and read through the rate
head, one price list for all. Each point is (R, D) on the test split with 95% intervals: R = E
KL(q(z|x) || p(z)) bounds I(X; Z) from above, D = E -log p(x|z). The region above the points' lower
convex hull is achieved; a better model may find a curve below. Where the data's own R(D) is known
in closed form (linear_gaussian with the likelihood
"normal"), it is drawn and each point's distance from it is printed. Written: a picture, and a table
as JSON beside it.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from scripts.demo import step

if TYPE_CHECKING:
    from torch import Tensor

    from core.run.config import RunConfig
    from probes.report.schema import Report

BETAS = "0.1,0.3,1,3,10"
KINDS = (
    "constant",
    "linear",
    "cyclical",
    "free_bits",
)  # schedules that end at the beta of the config
IMAGES = 6  # shown a point
NOTE = "started_from.json"  # in the folder of a warm-started run


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from core.files import write_atomically
    from core.run import config
    from core.run.folder import picture_place
    from probes.latents import curve
    from probes.report import curve_figures
    from probes.session import find

    options.picture = picture_place(options.picture, options.out, "rate_distortion.png")
    started = time.monotonic()
    curves, shown, known, first = [], [], None, None
    if options.config:
        run = config.read(options.config, options.overrides)
        refuse_what_has_no_curve(run, options)
        known = curve.reference(run)
        folders = sweep(options)
        reports = [probed(folder / "last.ckpt", "rate", []) for folder in folders]
        drawn = curve.of_sweep(reports, options.betas, options.config.stem, known)
        for point, folder in zip(drawn["points"], folders, strict=True):
            point |= json.loads((folder / NOTE).read_text()) if (folder / NOTE).is_file() else {}
        curves.append(drawn)
        shown, first = pictures(drawn, folders), (reports[0]["rate"], reports[0]["data"])
    for target in options.checkpoint:
        found = probed(find(target, best=False), "rate_head", options.overrides)
        curves.append(curve.of_head(found))
        first = first or (found["rate_head"], found["data"])
    assert first is not None
    made = curve.table(*first, curves, known)
    plain_console(150).print(curve.lines(made))
    kept = options.picture.with_suffix(".json")
    write_atomically(
        kept, lambda temporary: temporary.write_text(json.dumps(made, indent=1) + "\n")
    )
    curve_figures.rate_distortion(made, shown, options.picture)
    print(
        f"Done in {time.monotonic() - started:.0f} s. The picture: {options.picture}; the table:"
        f" {kept}"
    )


def sweep(options: argparse.Namespace) -> list[Path]:
    """One finished run folder a beta, upwards: a model that has learned a rich code gives up
    dimensions more easily than it finds them.
    """
    from core.run import config
    from core.run.folder import RunFolder

    folders: list[Path] = []
    for beta in options.betas:
        folder = options.out / f"beta_{beta:.12g}"
        keys = [*options.overrides, f"folder={folder}", f"model.rate.beta={beta:.12g}"]
        run = config.read(options.config, [*keys, "resume=true"])
        if finished(run):
            print(f"{folder}: finished, not trained again")
        else:
            if options.warm_start and folders and not RunFolder(folder).last.exists():
                start_from(folders[-1], run)
            step("pretrain.py", options.config, *keys, "--resume")
        folders.append(folder)
    return folders


def finished(run: "RunConfig") -> bool:
    """Whether the run's folder holds it, trained to the end; `UserError` where it holds another
    run.
    """
    from core.data.datasets import open_source
    from core.run import checkpoint
    from core.run.folder import RunFolder

    folder = RunFolder(run.folder)
    folder.check(run)
    if not folder.last.exists():
        return False
    steps = len(open_source(run.data, "train", run.seed)) // run.optim.batch_size * run.optim.epochs
    return int(checkpoint.read(folder.last)["step"]) == steps


def start_from(neighbour: Path, run: "RunConfig") -> None:
    """A checkpoint at step 0 with the trained weights of a run that differs in beta alone; buffers,
    such as the price, stay its own.
    """
    import torch

    from core.files import write_atomically
    from core.run import checkpoint
    from core.run.folder import RunFolder
    from core.run.optim import build_optimizer
    from core.trust import package_of

    trained = checkpoint.load_method(neighbour / "last.ckpt", trusted=[package_of(run.method)])
    method, given = checkpoint.build_method(run, trained.method.shape), trained.method
    with torch.no_grad():
        for weight, own in zip(method.parameters(), given.parameters(), strict=True):
            weight.copy_(own)
    folder = RunFolder(run.folder)
    run = replace(run, resume=False)
    folder.create(run)
    note = {
        "started_from": str(neighbour),
        "started_from_digest": trained.digest,
    }
    write_atomically(
        folder.path / NOTE, lambda temporary: temporary.write_text(json.dumps(note) + "\n")
    )
    checkpoint.save(folder.last, checkpoint.State(run, method, build_optimizer(method, run.optim)))


def probed(path: Path, probe: str, overrides: list[str]) -> "Report":
    """The report of a checkpoint that holds this probe, probed now unless the same weights have
    been.
    """
    from core.run import checkpoint
    from probes.report import store as report

    kept = path.parent / "probe" / "probe.json"
    if not overrides and kept.is_file():
        found = report.load(kept)
        if probe in found and found["digest"] == checkpoint.digest(path):
            return found
    step("probe.py", path, "--probes", probe, *overrides)
    return report.load(kept)


def pictures(drawn: dict[str, Any], folders: list[Path]) -> list[tuple[str, "Tensor"]]:
    """A row of test images, then a row a point of what it gives back, the largest rate first."""
    from core.method import LatentModel
    from core.run import checkpoint
    from probes.latents import curve

    rows: list[tuple[str, Tensor]] = []
    for point, folder in zip(drawn["points"], folders, strict=True):
        method, run, *_ = checkpoint.load_method(folder / "last.ckpt")
        assert isinstance(method, LatentModel)
        images, given_back = curve.reconstruct(method, run, IMAGES)
        rows = rows or [("images", images)]
        rows.append((f"β {point['beta']:g}\nR {point['rate']['value']:.1f}", given_back))
    return rows


def refuse_what_has_no_curve(run: "RunConfig", options: argparse.Namespace) -> None:
    """`UserError` where a sweep of beta says nothing, or where the curves of one picture would have
    different axes.
    """
    from core.method import LatentModel
    from core.run import checkpoint
    from core.run.config import method_class
    from probes.session import find

    if not issubclass(method_class(run), LatentModel):
        raise UserError(
            f"{options.config}: {run.method} has no rate; train it, and draw the curve of its"
            " frozen features with --checkpoint RUN"
        )
    kind = getattr(getattr(run.model, "rate", None), "kind", None)
    if kind not in KINDS:
        raise UserError(
            f"{options.config}: model.rate.kind is '{kind}', which takes no fixed beta; a sweep"
            f" takes {', '.join(KINDS)}"
        )
    likelihood = getattr(run.model, "likelihood", "")
    if options.checkpoint and likelihood != "logistic":
        raise UserError(
            "--checkpoint: the rate head's D is that of 8-bit values (logistic), not of"
            f" '{likelihood}'; draw them in two pictures"
        )
    for target in options.checkpoint:
        path = find(target, best=False)
        data = checkpoint.run_of(path, checkpoint.read(path)).data.name
        if data != run.data.name:
            raise UserError(
                f"--checkpoint: {path} was trained on {data}, and {options.config} is about"
                f" {run.data.name}; curves compare on one"
            )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("rate_distortion", __doc__)
    given.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG key=value",
        help="a VAE's YAML file, and any key of it for every run, such as optim.epochs=6",
    )
    given.add_argument(
        "--betas", help=f"prices of a nat of rate, separated by commas (default: {BETAS})"
    )
    given.add_argument(
        "--warm-start",
        action="store_true",
        help="each run but the first starts from the weights of the next lower beta",
    )
    given.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        default=[],
        metavar="RUN_OR_CKPT",
        help="draw frozen features too, or alone; repeatable",
    )
    given.add_argument(
        "--out",
        type=Path,
        help="where runs go, a folder a beta (default: runs/rate_distortion/CONFIG)",
    )
    given.add_argument(
        "--picture",
        type=Path,
        help="the PNG, its table beside it as JSON (default: OUT/rate_distortion.png)",
    )
    options = given.parse_intermixed_args(argv)
    options.overrides = [word for word in options.words if "=" in word]
    configs = [Path(word) for word in options.words if "=" not in word]
    if len(configs) > 1:
        raise UserError(f"{configs[1]}: one config a sweep; {configs[0]} is named already")
    if not configs and not options.checkpoint:
        raise UserError(
            "give a config to sweep, such as configs/linear_vae.yaml, or --checkpoint RUN"
        )
    options.config = configs[0] if configs else None
    for value, key in ((options.betas, "--betas"), (options.warm_start, "--warm-start")):
        if value and not configs:
            raise UserError(
                f"{key}: is for a config that is swept; the rate head of --checkpoint has prices"
                " of its own"
            )
    for word in options.overrides:
        key = word.partition("=")[0]
        if key in ("folder", "model.rate.beta", "resume"):
            raise UserError(f"'{word}': the sweep sets {key} itself; see --out and --betas")
        if options.checkpoint and not key.startswith("data."):
            raise UserError(
                f"'{word}': a checkpoint's config is fixed; beside --checkpoint only data.* can"
                " be overridden"
            )
    options.betas = prices(options.betas or BETAS)
    options.out = options.out or Path("runs/rate_distortion") / (
        configs[0].stem if configs else "checkpoints"
    )
    return options


def prices(text: str) -> list[float]:
    """Betas, ascending; `UserError` for what is no price."""
    found = []
    for word in text.split(","):
        try:
            found.append(float(word))
        except ValueError:
            raise UserError(
                f"--betas: '{word}' is no number; give prices such as {BETAS}"
            ) from None
        if not 0 < found[-1] < math.inf:
            raise UserError(f"--betas: a price must be above 0, got {word}")
    if len(set(found)) < len(found):
        raise UserError(f"--betas: {text} names a price twice")
    return sorted(found)


if __name__ == "__main__":
    main()
