"""Compare measured with true information: SimCLR on sprites with M contents (combinations of shape,
colour, place and so on), for M from 2 to 65,536. For these images I(V1; V2) = log M exactly.

    twobounds sprites-truth                          # all five M, about 5 minutes on 2 CPU cores
    twobounds sprites-truth --contents 2,288         # some of them
    twobounds sprites-truth optim.epochs=6 --out runs/long    # another recipe

For each M, one run of simclr_sprites is trained with model.temperature=0.07, and its critics are
measured on 8,192 test images with K = 16 ... 8,191 negatives. Each bound is compared with that of
the ideal critic, log(K + 1) - E log(1 + Binomial(K, 1/M)). The ideal critic finds all candidates
that show the content of the anchor, but can not tell them apart. If a call is interrupted, the
same call continues where it stopped.
"""

import argparse
import sys
import time
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from configs import CONFIGS
from core.commands import parser
from core.errors import UserError, exit_cleanly
from scripts.shared import known_truth, option, overrides, probed, step

# One recipe for every M: configs/simclr_sprites.yaml with a lower temperature. With the config's
# 0.1, SimCLR's own critic reaches only 90 % of the ideal for M = 65,536 and K = 8,191.
RECIPE = ("model.temperature=0.07",)
CRITIC = "common"  # the critic in the picture, as in every report; the table has the others, too
SPRITES = {
    2: {"shapes": 1, "colours": 2, "sizes": 1, "grid": 1},
    16: {"shapes": 2, "colours": 2, "sizes": 1, "grid": 2},
    288: {},  # the default: 4 shapes, 4 colours, 2 sizes, 3 x 3 cells
    4096: {"sizes": 1, "grid": 4, "backgrounds": 4, "gradients": 4},
    65536: {"colours": 8, "sizes": 1, "grid": 4, "backgrounds": 16, "gradients": 8},
}


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.run.folder import picture_place
    from probes.samples import truth

    options.picture = picture_place(options.picture, options.out, "sprites_truth.png")
    started = time.monotonic()
    config, recipe = "simclr_sprites.yaml", [*RECIPE, *options.overrides]
    reports = {}
    for m in options.contents:
        run = options.out / f"m{m}"
        sizes = [f"data.sprites.{key}={value}" for key, value in SPRITES[m].items()]
        step("pretrain.py", CONFIGS / config, f"folder={run}", *recipe, *sizes, "--resume")
        reports[f"{m:,}"] = probed(run, "information")
    table = truth.collect(reports, CRITIC, "M")
    table["title"] = "I(V1; V2) = log M of sprites with M contents: measured, ideal and true"
    sprites = {m: SPRITES[m] for m in options.contents}
    table["recipe"] = {"config": f"configs/{config}", "overrides": recipe, "sprites": sprites}
    known_truth(table, options.picture)
    print(f"Done in {time.monotonic() - started:.0f} s; the runs: {options.out}/m*/")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("sprites_truth", __doc__)
    overrides(given, "any key of the config, for every run, such as optim.epochs=6")
    option(given, "--contents", "values of M, separated by commas", ",".join(map(str, SPRITES)))
    option(given, "--out", "folder of the runs", Path("runs/sprites_truth"))
    option(
        given,
        "--picture",
        "a PNG; its table is the JSON beside it (default: OUT/sprites_truth.png)",
        type=Path,
    )
    options = given.parse_intermixed_args(argv)
    known = {str(m): m for m in SPRITES}
    for word in options.contents.split(","):
        if word not in known:
            raise UserError(f"--contents: there is no M = '{word}'; choose from {', '.join(known)}")
    options.contents = sorted({known[word] for word in options.contents.split(",")})
    return options


if __name__ == "__main__":
    main()
