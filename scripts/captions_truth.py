"""Compare measured with true information: CLIP on captioned sprites, for five probabilities p that
a caption tells a factor of its image. For each p, I(image; caption) is known exactly.

    twobounds captions-truth               # all five, about 15 CPU-minutes
    twobounds captions-truth --tell 0.4    # measures only p = 0.4; also trains 1, 0.8, 0.6
    twobounds captions-truth model.loss=sigmoid --out runs/siglip_truth     # SigLIP

The first run of clip_sprites learns from captions that always tell shape and size, and tell each
other factor half of the time. Then there is a run for each p, from the largest to the smallest. It
starts from the weights of the run before (`init`), keeps the image tower as it is and trains the
text tower. Values of p above the smallest one asked for are trained, too, but only those asked for
are measured. Critics are measured on 8,192 test pairs with K = 16 ... 8,191 negatives, as the mean
of both directions. Each bound is compared with the best possible one at K
(`core.data.caption_truth`). If a call is interrupted, the same call continues where it stopped.
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

CONFIG = "clip_sprites.yaml"
# It is hard to recognise a shape at an unknown place, and captions that tell everything do not
# require it: few candidates have the same colour, size and place, and differ only in shape. So the
# first captions always tell shape and size, and each other factor half of the time.
TOLD = "data.captioned_sprites"
FIRST: tuple[str, ...] = (
    f"{TOLD}.tell=0.5",
    f"{TOLD}.told.shape=1",
    f"{TOLD}.told.size=1",
    "optim.epochs=4",
)
FIRST += ("model.temperature=0.05", "optim.lr=1.5e-3")
THEN = ("model.temperature=0.05", "model.lock=image", "optim.lr=1.5e-3", "optim.epochs=2")
# The critic in the picture: CLIP's own. The JSON has the others, too. The common critic is trained
# on only 16,384 pairs, which are few if captions tell little.
CRITIC = "native"
TELL = (1.0, 0.8, 0.6, 0.4, 0.2)


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.run.folder import picture_place
    from probes.samples import truth

    options.picture = picture_place(options.picture, options.out, "captions_truth.png")
    started, before = time.monotonic(), options.out / "first"
    words = [f"folder={before}", *FIRST, *options.overrides]
    step("pretrain.py", CONFIGS / CONFIG, *words, "--resume")
    reports = {}
    for tell in on_the_way(options.tell):
        run, told = options.out / f"tell{tell:g}", f"{TOLD}.tell={tell:g}"
        words = [f"folder={run}", f"init={before}", told, *THEN, *options.overrides]
        step("pretrain.py", CONFIGS / CONFIG, *words, "--resume")
        before = run
        if tell in options.tell:
            reports[f"{tell:g}"] = probed(run, "captions")
    table = truth.collect(reports, CRITIC, "p", "captions")
    table["title"] = "I(image; caption) where a factor is told with probability p"
    table["recipe"] = {"config": f"configs/{CONFIG}", "first": FIRST, "then": THEN}
    table["recipe"]["overrides"] = options.overrides
    known_truth(table, options.picture)
    print(f"Done in {time.monotonic() - started:.0f} s; the runs: {options.out}/tell*/")


def on_the_way(asked: list[float]) -> list[float]:
    """The probabilities to train, from high to low: those asked for, and those of `TELL` above the
    smallest of them. A text tower needs these steps: when it went to 0.4 at once, it reached 94 %
    of the best possible value; after 1, 0.8 and 0.6 it reached 96 %.

    >>> on_the_way([0.5])
    [1.0, 0.8, 0.6, 0.5]
    """
    return sorted({*asked, *(tell for tell in TELL if tell > min(asked))}, reverse=True)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = parser("captions_truth", __doc__)
    overrides(given, "any key of the config, for every run, such as trainer.precision=bf16-mixed")
    option(given, "--tell", "probabilities, separated by commas", ",".join(f"{x:g}" for x in TELL))
    option(given, "--out", "folder of the runs", Path("runs/captions_truth"))
    about = "a PNG; its table is the JSON beside it (default: OUT/captions_truth.png)"
    option(given, "--picture", about, type=Path)
    options = given.parse_intermixed_args(argv)
    found = []
    for word in options.tell.split(","):
        try:
            found.append(float(word))
        except ValueError:
            raise UserError(f"--tell: '{word}' is not a number") from None
        if not 0 < found[-1] <= 1:
            raise UserError(
                f"--tell: must be above 0 and at most 1, got {word}; at 0 captions tell nothing"
            )
    options.tell = sorted(set(found), reverse=True)
    return options


if __name__ == "__main__":
    main()
