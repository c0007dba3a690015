"""Compress images without loss with a trained VAE (bits-back coding).

    twobounds compress runs/vlae_mnist test -o test.tb data.root=/data data.binarise=true
    twobounds compress runs/beta_vae_cifar10/best.ckpt pictures/ -o pictures.tb

DATA is a split of the checkpoint's data (train, val, trainval, test), a folder of pictures, or an
.npz of images [n, C, H, W]. They must be 8-bit images of the shape that the model reads; a model of
binary pixels takes only the values 0 and 255. The length of the file is close to D + R, the sum of
the VAE's distortion and rate. `twobounds decompress` with the same checkpoint restores every pixel.
Labels and names are not stored. An existing file is not overwritten. If the command is interrupted,
the same command continues after the last complete block.
"""

import argparse
import os
import sys
import time
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.errors import UserError, exit_cleanly
from scripts.shared import option, switch


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import progress
    from core.data.plain import plain_images
    from core.files import write_atomically
    from core.run import checkpoint, config
    from core.run.folder import home_expanded, make_folder
    from probes.origins import find
    from vae import container
    from vae.bitsback import compressor
    from vae.unfinished import unfinished

    out = home_expanded(options.out, "--out")
    if os.path.lexists(out):
        raise UserError(f"--out: {out} exists; name another file")
    path = find(options.run, options.best)
    found = checkpoint.load_method(path, trusted=options.trust)
    codec = compressor(found.method, rows=options.rows)
    run = config.override(found.run, options.overrides, str(path))
    shape = found.method.shape
    images = plain_images(options.data, run.data, run.seed, shape, options.block, options.images)
    make_folder(out.parent, "--out", "name another")
    started, moved = time.monotonic(), []

    def write(temporary: Path) -> None:
        with progress(images.total, "compress", "images") as done, open(temporary, "wb") as file:
            moved.append(
                container.write(
                    file,
                    codec,
                    container.fingerprint(found.method),
                    images.blocks,
                    images.total,
                    options.block,
                    images.kind,
                    done,
                    options.check,
                    earlier=earlier,
                )  # fmt: skip
            )

    with unfinished(out) as earlier:
        write_atomically(out, write)
    seconds, size = time.monotonic() - started, out.stat().st_size
    values = images.total * shape[0] * shape[1] * shape[2]
    before = f" ({earlier.taken:,} of them earlier)" if earlier.taken else ""
    print(
        f"{out}: {images.total:,} images{before} in {size:,} bytes,"
        f" {8 * size / values:.4f} bits/dim (net {moved[0].net / values:.4f}); {seconds:.1f} s,"
        f" {values / seconds / 1e6:.2f} million values/s"
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = commands.parser("compress", __doc__)
    given.add_argument("run", type=Path, metavar="CKPT", help="a run folder or a checkpoint")
    given.add_argument("data", metavar="DATA", help="a split, a folder of pictures or an .npz")
    about = "keys of the data, if they differ from the checkpoint's"
    given.add_argument("overrides", nargs="*", metavar="data.KEY=VALUE", help=about)
    about = "the file to write"
    given.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.tb", help=about)
    switch(given, "--best", "take best.ckpt of a run folder, not last.ckpt")
    switch(given, "--check", "decode each block after it is coded, and compare")
    option(given, "--images", "compress only the first N", type=int, metavar="N")
    about = "images of a block; each block can be decoded alone and costs some start-up bits"
    option(given, "--block", about, 4096)
    option(given, "--rows", "images that a network reads at a time (changes memory, not bits)", 512)
    given.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package that the checkpoint may name",
    )
    options = given.parse_intermixed_args(argv)
    for word in options.overrides:
        if not word.startswith("data.") or "=" not in word:
            raise UserError(f"'{word}': only data.key=value can be overridden")
    for key, most in (("images", 2**62), ("block", 2**16), ("rows", 2**31)):
        value = getattr(options, key)
        if value is not None and not 1 <= value <= most:
            raise UserError(f"--{key}: must be from 1 to {most}, got {value}")
    return options


if __name__ == "__main__":
    main()
