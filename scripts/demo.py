"""The whole thread on the embedded sprites: pretrain SimCLR, MoCo and a beta-VAE, probe all three,
compare.

make demo
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

SCRIPTS = Path(__file__).parent
CONFIGS = SCRIPTS.parent / "configs"
METHODS = ("simclr", "moco", "beta_vae")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/demo"),
        help="where the runs and the pictures go (default: %(default)s)",
    )
    out = parser.parse_args().out
    started = time.monotonic()
    runs = [out / method for method in METHODS]
    for method, run in zip(METHODS, runs, strict=True):
        step("pretrain.py", CONFIGS / f"{method}_sprites.yaml", f"folder={run}", "--resume")
    step("probe.py", *runs)
    step("compare.py", *runs, "--out", out / "compare.png")
    print(f"\nDone in {time.monotonic() - started:.0f} s. The picture: {out}/compare.png")
    for run in runs:
        print(
            f"  {run}/  config.yaml, last.ckpt, best.ckpt, metrics.jsonl, pictures/, probe/"
            " (probe.json, pictures)"
        )


def step(script: str, *arguments: object) -> None:
    """Run one script as a person would, showing its command line; stop where it stops."""
    words = [f"{SCRIPTS.name}/{script}", *map(str, arguments)]
    print(f"\n$ python {' '.join(words)}", flush=True)
    code = subprocess.call([sys.executable, str(SCRIPTS / script), *map(str, arguments)])
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
