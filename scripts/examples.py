"""Print worked examples of the theory. Every number is computed when you call the command.

    twobounds examples                  # list them
    twobounds examples coins
    twobounds examples coins modes shell
    twobounds examples all
    twobounds examples noise --pictures .   # with noise.png

Each example prints a derivation in nats. docs/theory has a page for each, which explains it. Random
numbers have fixed seeds, so the output is always the same.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.commands import command, parser
from core.errors import UserError, exit_cleanly, nearest
from scripts.shared import option

EXAMPLES = {  # name -> module of scripts.worked, and what it shows
    "coins": ("discrete", "entropy of a fair and a loaded coin; KL both ways; weight of evidence"),
    "modes": ("gaussian", "one Gaussian fitted to two modes: KL both ways"),
    "blind": ("estimation", "information that correlation does not see"),
    "ceiling": ("discrete", "what InfoNCE with C candidates can claim, and which loss it needs"),
    "polynomial": ("estimation", "a line or a polynomial of degree 5: BIC, exact NML, truth"),
    "quantise": ("estimation", "Gaussian weights in 2 bits, against R(D)"),
    "bits-back": ("discrete", "bits back: the KL is the net cost of the latents"),
    "holes": ("gaussian", "the rate is more than the information: R - I = KL(q(z) || p(z))"),
    "shell": ("gaussian", "where the mass of a Gaussian in many dimensions lies"),
    "processing": ("gaussian", "the divergence of a marginal is at most that of the joint"),
    "noise": ("noise", "what noise in training does to I(S; W) and to the generalisation gap"),
    "vae": ("learned", "a VAE with two latent dimensions, with beta = 1 and with beta = 4"),
}

PICTURES = ("noise",)  # the examples that have a picture


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    if not options.names:
        for name, (_, about) in EXAMPLES.items():
            print(f"{name:<11} {about}")
        print(f"\n{command('examples')} NAME prints one; docs/theory/NAME.md explains it.")
    for place, name in enumerate(options.names):
        print("" if place == 0 else "\n", end="")
        for line in lines(name):
            print(line, flush=True)
        if options.pictures is not None and name in PICTURES:
            print(f"picture: {drawn(name, options.pictures)}")


def lines(name: str) -> list[str]:
    """The output of one example."""
    module = importlib.import_module(f"scripts.worked.{EXAMPLES[name][0]}")
    return list(getattr(module, name.replace("-", "_"))())


def drawn(name: str, folder: Path) -> Path:
    """Write the picture of one example, and return its path."""
    module = importlib.import_module(f"scripts.worked.{EXAMPLES[name][0]}")
    path = folder / f"{name}.png"
    getattr(module, f"{name}_picture")(path)
    return path


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("examples", __doc__)
    given.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(EXAMPLES)}, or all")
    option(given, "--pictures", f"a folder for pictures ({', '.join(PICTURES)})", type=Path)
    options = given.parse_args(argv)
    for name in options.names:
        if name not in (*EXAMPLES, "all"):
            raise UserError(f"there is no example '{name}'{nearest(name, [*EXAMPLES, 'all'])}")
    if options.pictures is not None:
        options.pictures = _writable(options.pictures)
    if "all" in options.names:
        options.names = list(EXAMPLES)
    return options


def _writable(folder: Path) -> Path:
    """The folder of the pictures; `UserError` if nothing can be written there."""
    from core.run.folder import home_expanded

    folder = home_expanded(folder, "--pictures")
    if not os.path.isdir(folder):
        raise UserError(f"--pictures: there is no folder {folder}; make it, or name another")
    if not os.access(folder, os.W_OK):
        raise UserError(f"--pictures: {folder} can not be written to; name another folder")
    return folder


if __name__ == "__main__":
    main()
