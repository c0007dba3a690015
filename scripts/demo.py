"""The whole thread on the embedded sprites: pretrain SimCLR, MoCo and a beta-VAE, probe all three,
compare.

    twobounds demo
    twobounds demo --out /tmp/demo
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

if not __package__:  # called by its path: the checkout that it stands in comes first
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import CONFIGS
from core.commands import command, parser, through
from core.errors import exit_cleanly

SCRIPTS = Path(__file__).resolve().parent
METHODS = ("simclr", "moco", "beta_vae")
FIRST = "linear,knn,information"  # of the first checkpoint, so that a picture comes early


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    out = arguments(argv).out
    started = time.monotonic()
    runs = [out / method for method in METHODS]
    for method, run in zip(METHODS, runs, strict=True):
        step("pretrain.py", CONFIGS / f"demo_{method}.yaml", f"folder={run}", "--resume")
        if method == METHODS[0]:
            step("probe.py", run, "--probes", FIRST)
            picture, seconds = run / "probe" / "infonce.png", time.monotonic() - started
            print(f"The first picture, after {seconds:.0f} s: {picture}", flush=True)
    step("probe.py", *runs)
    step("compare.py", *runs, "--out", out / "compare.png")
    from core.machine import gigaflops

    print(
        f"\nDone in {time.monotonic() - started:.0f} s, on a machine of {gigaflops():.0f} GFLOP/s."
        f" The picture: {out}/compare.png"
    )
    for run in runs:
        print(
            f"  {run}/  config.yaml, last.ckpt, best.ckpt, metrics.jsonl, pictures/, probe/"
            " (probe.json, pictures)"
        )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("demo", __doc__)
    given.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        help="where the runs and the pictures go (default: %(default)s)",
    )
    return given.parse_args(argv)


def step(script: str, *words: object) -> None:
    """Run one script as a person would, showing its command line; stop where it stops."""
    name, rest = script.removesuffix(".py"), [str(word) for word in words]
    print(f"\n$ {shlex.join([*command(name).split(), *rest])}", flush=True)
    front = [sys.argv[0], name] if through() else [str(SCRIPTS / script)]
    code = subprocess.call([sys.executable, *front, *rest])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
