"""Draw rate-distortion curves: the rate of a code in nats against its distortion. Each point is one
trained model, for one price beta of a nat of rate.

    twobounds rate-distortion linear_vae                             # with the exact curve
    twobounds rate-distortion beta_vae_sprites --betas 1,3,10,30 optim.epochs=4 --warm-start
    twobounds rate-distortion --checkpoint runs/simclr_sprites       # through the rate head

A config is trained once for each beta, each time in its own run folder. An interrupted run is
resumed; a finished one is not trained again. A checkpoint of any method is frozen and measured by
the rate head, with the same prices for all methods. Each point is (R, D) on the test split with 95%
intervals: R = E KL(q(z|x) || p(z)) bounds I(X; Z) from above, D = E -log p(x|z). Everything above
the lower convex hull of the points is achievable; a better model may lie below it. If R(D) of the
data is known in closed form (linear_gaussian with the likelihood "normal"), it is drawn, and each
point's distance from it is printed. The length of each point's lossless file is drawn against
beta if you add --files, or if the probes' reports already have this length. The command writes a
picture, and the table as JSON beside it.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import parser
from core.errors import UserError, exit_cleanly
from scripts.shared import option, probed, same_weights, step, switch

if TYPE_CHECKING:
    from torch import Tensor

    from core.run.config import RunConfig
    from probes.report.schema import Report

BETAS = "0.1,0.3,1,3,10"
KINDS = ("constant", "linear", "cyclical", "free_bits")  # schedules that end at the config's beta
IMAGES = 6  # shown for each point
NOTE = "started_from.json"  # in the folder of a warm-started run


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from core.run import config
    from core.run.folder import picture_place
    from probes.latents import curve
    from probes.origins import find
    from probes.report import comparison, curve_figures, store

    options.picture = picture_place(options.picture, options.out, "rate_distortion.png")
    started = time.monotonic()
    curves, shown, known, first = [], [], None, None
    reports: list[Report] = []
    if options.config:
        run = config.read(options.config, options.overrides)
        refuse_what_has_no_curve(run, options)
        known = curve.reference(run)
        folders = sweep(options)
        reports = [probed(folder / "last.ckpt", "rate") for folder in folders]
        if options.files:
            reports = [probed(folder / "last.ckpt", "compression") for folder in folders]
        drawn = curve.of_sweep(reports, options.betas, options.config.stem, known)
        for point, folder in zip(drawn["points"], folders, strict=True):
            point |= json.loads((folder / NOTE).read_text()) if (folder / NOTE).is_file() else {}
        curves.append(drawn)
        shown, first = pictures(reports, run, folders), (reports[0]["rate"], reports[0]["data"])
    for target in options.checkpoint:
        report = probed(find(target, best=False), "rate_head", options.overrides)
        reports.append(report)
        curves.append(curve.of_head(report))
        first = first or (report["rate_head"], report["data"])
    assert first is not None
    comparison.require_one_data_set(reports, "draw them in several pictures")
    made = curve.table(*first, curves, known)
    plain_console(150).print(curve.lines(made))
    kept = store.write_json(options.picture.with_suffix(".json"), made)
    curve_figures.curves_and_images(made, shown, options.picture)
    print(f"Done in {time.monotonic() - started:.0f} s. The picture: {options.picture}")
    print(f"The table: {kept}")


def sweep(options: argparse.Namespace) -> list[Path]:
    """One finished run folder for each beta, in ascending order. A run can start from the one
    before it, because a model drops dimensions of a rich code more easily than it finds new ones.
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
    """Whether the run's folder holds it, fully trained; `UserError` if it holds another run."""
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
    """Write a checkpoint at step 0 with the weights of a trained run that differs only in beta.
    Buffers, such as the price, are not copied.
    """
    import torch

    from core.run import checkpoint
    from core.run.folder import RunFolder
    from core.run.optim import build_optimizer
    from core.trust import package_of
    from probes.report import store

    trained = checkpoint.load_method(neighbour / "last.ckpt", trusted=[package_of(run.method)])
    method, given = checkpoint.build_method(run, trained.method.shape), trained.method
    with torch.no_grad():
        for weight, own in zip(method.parameters(), given.parameters(), strict=True):
            weight.copy_(own)
    folder = RunFolder(run.folder)
    run = replace(run, resume=False)
    folder.create(run)
    note = {"started_from": str(neighbour), "started_from_digest": trained.digest}
    store.write_json(folder.path / NOTE, note)
    checkpoint.save(folder.last, checkpoint.State(run, method, build_optimizer(method, run.optim)))


def pictures(
    reports: "list[Report]", run: "RunConfig", folders: list[Path]
) -> list[tuple[str, "Tensor"]]:
    """A row of test images, then for each run the reconstructions, the largest rate first."""
    from core.method import LatentModel
    from probes.latents import curve

    rows: list[tuple[str, Tensor]] = []
    for report, folder in zip(reports, folders, strict=True):
        found = same_weights(folder / "last.ckpt", report)
        assert isinstance(found.method, LatentModel)
        images, given_back = curve.reconstruct(found.method, run, IMAGES)
        rows = rows or [("images", images)]
        beta = found.run.model.rate.beta
        rows.append((f"β {beta:g}\nR {report['rate']['rate']['value']:.1f}", given_back))
    return rows


def refuse_what_has_no_curve(run: "RunConfig", options: argparse.Namespace) -> None:
    """Raise `UserError` if a sweep of beta has no meaning, or if the curves of one picture would
    have different axes.
    """
    from core.method import LatentModel
    from core.run import checkpoint
    from core.run.config import method_class
    from probes.origins import find

    if not issubclass(method_class(run), LatentModel):
        raise UserError(
            f"{options.config}: {run.method} has no rate; train it, and draw the curve of its"
            " frozen features with --checkpoint RUN"
        )
    kind = getattr(getattr(run.model, "rate", None), "kind", None)
    if kind not in KINDS:
        raise UserError(
            f"{options.config}: model.rate.kind is '{kind}', which has no fixed beta; a sweep"
            f" needs one of {', '.join(KINDS)}"
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
                f"--checkpoint: {path} was trained on {data}, but {options.config} on"
                f" {run.data.name}; the curves of one picture need the same data"
            )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("rate_distortion", __doc__)
    given.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG key=value",
        help="a VAE's YAML file or the name of a packaged config, and any key of it for every run,"
        " such as optim.epochs=6",
    )
    option(given, "--betas", f"prices of a nat of rate, separated by commas (default: {BETAS})")
    switch(given, "--warm-start", "start each run from the weights of the next lower beta")
    switch(given, "--files", "also measure the length of each point's lossless file")
    option(
        given,
        "--checkpoint",
        "also draw the curve of its frozen features; can be repeated",
        [],
        type=Path,
        action="append",
        metavar="RUN_OR_CKPT",
    )
    option(given, "--out", "folder of the runs (default: runs/rate_distortion/CONFIG)", type=Path)
    option(
        given,
        "--picture",
        "a PNG; its table is the JSON beside it (default: OUT/rate_distortion.png)",
        type=Path,
    )
    options = given.parse_intermixed_args(argv)
    options.overrides = [word for word in options.words if "=" in word]
    _check_words(options, [Path(word) for word in options.words if "=" not in word])
    options.betas = prices(options.betas or BETAS)
    name = options.config.stem if options.config else "checkpoints"
    options.out = options.out or Path("runs/rate_distortion") / name
    return options


def _check_words(options: argparse.Namespace, configs: list[Path]) -> None:
    """Set `options.config`; `UserError` for words that can not be combined."""
    if len(configs) > 1:
        raise UserError(f"{configs[1]}: a sweep has one config, and {configs[0]} is given already")
    if not configs and not options.checkpoint:
        raise UserError(
            "give a config to sweep, such as configs/linear_vae.yaml, or --checkpoint RUN"
        )
    options.config = configs[0] if configs else None
    needs = ("--betas", options.betas), ("--warm-start", options.warm_start)
    for key, value in (*needs, ("--files", options.files)):
        if value and not configs:
            raise UserError(
                f"{key}: needs a config to sweep; the rate head of --checkpoint has its own prices"
            )
    for word in options.overrides:
        key = word.partition("=")[0]
        if key in ("folder", "model.rate.beta", "resume"):
            raise UserError(f"'{word}': the sweep sets {key} itself; see --out and --betas")
        if options.checkpoint and not key.startswith("data."):
            raise UserError(
                f"'{word}': a checkpoint's config is fixed; with --checkpoint only data.* can be"
                " overridden"
            )


def prices(text: str) -> list[float]:
    """Betas in ascending order; `UserError` for anything that is not a price."""
    found = []
    for word in text.split(","):
        try:
            found.append(float(word))
        except ValueError:
            raise UserError(
                f"--betas: '{word}' is not a number; give prices such as {BETAS}"
            ) from None
        if not 0 < found[-1] < math.inf:
            raise UserError(f"--betas: a price must be above 0, got {word}")
    if len(set(found)) < len(found):
        raise UserError(f"--betas: {text} contains a price twice")
    return sorted(found)


if __name__ == "__main__":
    main()
