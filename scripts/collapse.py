"""Compare remedies against posterior collapse on MNIST: a VAE, the same VAE with a PixelCNN
decoder, this decoder with each remedy, and a VLAE.

    twobounds collapse data.root=/path/that/holds/MNIST    # all rows, 40 minutes on 2 CPU cores
    twobounds collapse data.root=/data --only vae,vlae     # some rows
    twobounds collapse data.root=/data optim.epochs=40 --out runs/long    # another recipe

A decoder that reads every earlier pixel can draw digits without a code. Then a code without
information (rate R = 0) is a minimum of the loss. Each remedy is a schedule for the price of the
rate; the VLAE limits what the decoder may read (Chen et al. 2017). Each row is one run, with its
rate R, distortion D, bounds on I(X; Z) and active units on the 10,000 test images. If a call is
interrupted, the same call continues where it stopped.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import CONFIGS
from core.commands import parser
from core.errors import UserError, exit_cleanly, nearest
from scripts.shared import option, overrides, probed, same_weights, step

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

IMAGES = 8  # shown in a row
# 0.01 nats a pixel, as in Chen et al. 2017: the free nats of some rows, and the target of others
NATS = "model.rate.nats=7.84"
PIXELCNN = "vae_pixelcnn_mnist"
ROWS: dict[str, tuple[str, str, tuple[str, ...]]] = {  # row -> its name, its config, overrides
    "vae": ("VAE", "beta_vae_mnist", ("optim.epochs=20",)),
    "pixelcnn": ("+ PixelCNN", PIXELCNN, ()),
    "linear": (
        "linear annealing",
        PIXELCNN,
        ("model.rate.kind=linear", "model.rate.warmup=0.5"),
    ),
    "cyclical": ("cyclical annealing", PIXELCNN, ("model.rate.kind=cyclical",)),
    "free_bits": (
        "free bits",
        PIXELCNN,
        ("model.rate.kind=free_bits", NATS, "model.rate.group=0"),
    ),
    "soft_free_bits": ("soft free bits", PIXELCNN, ("model.rate.kind=soft_free_bits", NATS)),
    "capacity": (
        "capacity",
        PIXELCNN,
        ("model.rate.kind=capacity", NATS, "model.rate.beta=null", "model.rate.gamma=3"),
    ),
    "target_rate": ("target rate", PIXELCNN, ("model.rate.kind=target_rate", NATS)),
    "vlae": ("VLAE", "vlae_mnist", ()),
}


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from core.method import LatentModel
    from core.run import config
    from core.run.folder import make_folder
    from probes.latents import curve
    from probes.report import curve_figures, store

    make_folder(options.out, "--out", "name another")
    started = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    shown: list[tuple[str, Tensor]] = []
    data = [word for word in options.overrides if word.startswith("data.")]
    for name in options.only:
        title, base, recipe = ROWS[name]
        run, words = options.out / name, [*recipe, *options.overrides]
        step("pretrain.py", CONFIGS / f"{base}.yaml", f"folder={run}", *words, "--resume")
        report = probed(run, "rate", data)
        kept = [word for word in words if not word.startswith("data.root=")]
        found[name] = {"config": f"configs/{base}.yaml", "overrides": kept}
        found[name] |= {"step": report["step"], **report["rate"]}
        method, trained, *_ = same_weights(run / "last.ckpt", report)
        assert isinstance(method, LatentModel)
        here = config.override(trained, data, str(run))
        images, given_back = curve.reconstruct(method, here, IMAGES)
        shown = [*(shown or [("images", images)]), (title, given_back)]
    plain_console(120).print(table(found))
    path = store.write_json(options.out / "collapse.json", found)
    titled = {ROWS[name][0]: rate for name, rate in found.items()}
    curve_figures.plane(titled, shown, path.with_suffix(".png"))
    print(f"Done in {time.monotonic() - started:.0f} s. Table: {path}; the picture is beside it")
    print(f"The runs: {options.out}/*/")


def table(found: dict[str, dict[str, Any]]) -> "Table":
    """A line for each row: R, D and D + R on test, I(X; Z) between its bounds, active units."""
    from probes.report.table import grid

    rows = []
    for name, rate in found.items():
        three = (rate[key] for key in ("rate", "distortion", "nelbo"))
        cells = [f"{part['value']:.2f} ± {part['high'] - part['value']:.2f}" for part in three]
        top = min(rate["upper"]["value"], rate["rate"]["value"])
        bounds = f"{rate['lower']['value']:.2f} … {top:.2f}"
        units = f"{rate['active_units']} of {rate['latent_dimensions']}"
        rows.append([ROWS[name][0], *cells, bounds, units])
    return grid(
        ("", "R", "D", "D + R", "I(X;Z) between", "active units"),
        rows,
        left=("",),
        caption="Nats an image, MNIST test, dynamically binarised; D + R >= -log p(x); intervals"
        " 95%.",
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("collapse", __doc__)
    overrides(given, "any key of the configs, for every row, such as data.root=/data")
    option(given, "--only", "the rows to run, separated by commas", ",".join(ROWS))
    option(given, "--out", "folder of the runs", Path("runs/collapse"))
    options = given.parse_intermixed_args(argv)
    options.only = options.only.split(",")
    for name in options.only:
        if name not in ROWS:
            raise UserError(f"--only: there is no row '{name}'{nearest(name, ROWS)}")
    return options


if __name__ == "__main__":
    main()
