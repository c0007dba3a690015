"""Train SimCLR, MoCo and a beta-VAE on embedded images, probe and compare them, write a report.

    twobounds demo
    twobounds demo --out /tmp/demo

Runs, pictures and the page report.html are written into runs/demo, or into the folder of --out.
"""

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import CONFIGS
from core.commands import parser
from core.errors import exit_cleanly
from scripts.shared import option, step

METHODS = ("simclr", "moco", "beta_vae")
FIRST = "information"  # the first probe, so that a picture comes early


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
    step("report.py", *runs, "--out", out / "report.html")
    seconds = time.monotonic() - started
    from core.machine import gigaflops

    print(f"\nDone in {seconds:.0f} s, on a machine of {gigaflops():.0f} GFLOP/s.")
    print(f"The report, a page to open in a browser: {(out / 'report.html').resolve()}")
    print(f"The picture: {out}/compare.png. Each run is a folder:")
    for run in runs:
        print(f"  {run}/  config.yaml, last.ckpt, best.ckpt, metrics.jsonl, pictures/, probe/")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("demo", __doc__)
    option(given, "--out", "folder of the runs and the pictures", Path("runs/demo"))
    return given.parse_args(argv)


if __name__ == "__main__":
    main()
