"""Posterior collapse and what helps against it, on MNIST: a VAE, the same code under a PixelCNN
decoder, each remedy, and a VLAE.

    twobounds collapse data.root=/path/that/holds/MNIST    # all rows, 40 minutes on 2 CPU cores
    twobounds collapse data.root=/data --only vae,vlae     # some rows
    twobounds collapse data.root=/data optim.epochs=40 --out runs/long    # another recipe

A decoder that reads every earlier pixel can draw digits without a code, and then a code that says
nothing (R = 0) is a minimum. Each remedy is one schedule of what the rate costs; the VLAE takes
away what the decoder may read (Chen et al. 2017). One run a row, then R, D, the bounds on I(X; Z)
and the active units on the 10,000 test images; called again, it goes on where it stopped.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import CONFIGS
from core.commands import parser
from core.errors import UserError, exit_cleanly, nearest
from scripts.demo import step

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

IMAGES = 8  # shown a row
NATS = 7.84  # what the remedies aim at or leave free: 0.01 nats a pixel, as in the paper
ROWS: dict[str, tuple[str, ...]] = {  # a name: its config, and overrides
    "vae": ("beta_vae_mnist", "optim.epochs=20"),
    "pixelcnn": ("vae_pixelcnn_mnist",),
    "linear": ("vae_pixelcnn_mnist", "model.rate.kind=linear", "model.rate.warmup=0.5"),
    "cyclical": ("vae_pixelcnn_mnist", "model.rate.kind=cyclical"),
    "free_bits": (
        "vae_pixelcnn_mnist",
        "model.rate.kind=free_bits",
        f"model.rate.nats={NATS}",
        "model.rate.group=0",
    ),
    "soft_free_bits": (
        "vae_pixelcnn_mnist",
        "model.rate.kind=soft_free_bits",
        f"model.rate.nats={NATS}",
    ),
    "capacity": (
        "vae_pixelcnn_mnist",
        "model.rate.kind=capacity",
        f"model.rate.nats={NATS}",
        "model.rate.beta=null",
        "model.rate.gamma=3",
    ),
    "target_rate": ("vae_pixelcnn_mnist", "model.rate.kind=target_rate", f"model.rate.nats={NATS}"),
    "vlae": ("vlae_mnist",),
}
WORDS = {
    "vae": "VAE",
    "pixelcnn": "+ PixelCNN",
    "linear": "linear annealing",
    "cyclical": "cyclical annealing",
    "free_bits": "free bits",
    "soft_free_bits": "soft free bits",
    "capacity": "capacity",
    "target_rate": "target rate",
    "vlae": "VLAE",
}


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from core.files import write_atomically
    from core.method import LatentModel
    from core.run import checkpoint
    from core.run.folder import make_folder
    from probes.latents import curve
    from probes.report import curve_figures
    from probes.report import store as report

    make_folder(options.out, "--out", "name another")
    started = time.monotonic()
    found: dict[str, dict[str, Any]] = {}
    shown: list[tuple[str, Tensor]] = []
    for name in options.only:
        config, *recipe = ROWS[name]
        run = options.out / name
        recipe += options.overrides
        step("pretrain.py", CONFIGS / f"{config}.yaml", f"folder={run}", *recipe, "--resume")
        step(
            "probe.py",
            run,
            "--probes",
            "rate",
            *(word for word in options.overrides if word.startswith("data.")),
        )
        read = report.load(run / "probe" / "probe.json")
        found[name] = {
            "config": f"configs/{config}.yaml",
            "overrides": [word for word in recipe if not word.startswith("data.root=")],
        }
        found[name] |= {"step": read["step"], **read["rate"]}
        method, trained, *_ = checkpoint.load_method(run / "last.ckpt")
        assert isinstance(method, LatentModel)
        images, given_back = curve.reconstruct(method, trained, IMAGES)
        shown = [*(shown or [("images", images)]), (WORDS[name], given_back)]
    plain_console(120).print(table(found))
    kept = options.out / "collapse.json"
    write_atomically(
        kept, lambda temporary: temporary.write_text(json.dumps(found, indent=1) + "\n")
    )
    curve_figures.plane(
        {WORDS[name]: rate for name, rate in found.items()}, shown, kept.with_suffix(".png")
    )
    print(
        f"Done in {time.monotonic() - started:.0f} s. The table: {kept}; the picture beside it;"
        f" the runs: {options.out}/*/"
    )


def table(found: dict[str, dict[str, Any]]) -> "Table":
    """One line a row: R, D and D + R in nats on test with 95% intervals, I(X; Z) between its
    bounds, active units.
    """
    from rich.table import Table

    made = Table(
        caption="Nats an image, MNIST test, dynamically binarised; D + R >= -log p(x); intervals"
        " 95%.",
        header_style="bold",
    )
    for heading in ("", "R", "D", "D + R", "≤ I(X;Z) ≤", "active units"):
        made.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for name, rate in found.items():
        cells = [
            f"{rate[key]['value']:.2f} ± {rate[key]['high'] - rate[key]['value']:.2f}"
            for key in ("rate", "distortion", "nelbo")
        ]
        top = min(rate["upper"]["value"], rate["rate"]["value"])
        bounds = f"{rate['lower']['value']:.2f} … {top:.2f}"
        made.add_row(
            WORDS[name], *cells, bounds, f"{rate['active_units']} of {rate['latent_dimensions']}"
        )
    return made


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("collapse", __doc__)
    given.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="any key of the configs, for every row, such as data.root=/data",
    )
    given.add_argument(
        "--only",
        default=",".join(ROWS),
        help="which rows, separated by commas (default: %(default)s)",
    )
    given.add_argument(
        "--out",
        type=Path,
        default=Path("runs/collapse"),
        help="where the runs go (default: %(default)s)",
    )
    options = given.parse_intermixed_args(argv)
    options.only = options.only.split(",")
    for name in options.only:
        if name not in ROWS:
            raise UserError(f"--only: there is no row '{name}'{nearest(name, ROWS)}")
    return options


if __name__ == "__main__":
    main()
