"""Restore the images of a file that `compress` wrote, with the same checkpoint.

    twobounds decompress runs/vlae_mnist test.tb -o images
    twobounds decompress runs/vlae_mnist test.tb -o some --only 4096:8192 --as png

The folder holds images.npz, or numbered PNGs if the images were a folder of pictures. The file is
checked before anything is decoded: its sizes, its checksums and the model. If it is damaged,
nothing is written.
"""

import argparse
import re
import sys
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.errors import UserError, exit_cleanly
from scripts.shared import option, switch


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.run import checkpoint
    from core.run.folder import home_expanded
    from probes.origins import find
    from vae import container, unpack
    from vae.bitsback import compressor

    out = home_expanded(options.out, "--out")
    unpack.refuse_existing(out)
    method = checkpoint.load_method(find(options.run, options.best), trusted=options.trust).method
    with container.opened(options.file) as reader:
        reader.check_model(container.fingerprint(method))
        codec = compressor(method, rows=options.rows, batch=reader.header.batch)
        kind = options.kind or container.KINDS[reader.header.kind]
        count = unpack.write(out, reader, codec, kind, options.only)
    print(f"{out}: {count:,} images ({kind}), every checksum agrees")


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = commands.parser("decompress", __doc__)
    given.add_argument("run", type=Path, metavar="CKPT", help="the model that compressed the file")
    given.add_argument("file", type=Path, metavar="FILE.tb", help="a file of `compress`")
    about = "a new folder for the images"
    given.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help=about)
    switch(given, "--best", "take best.ckpt of a run folder, not last.ckpt")
    given.add_argument(
        "--as",
        dest="kind",
        choices=("npz", "png"),
        help="the format (default: that of the given images)",
    )
    given.add_argument(
        "--only", metavar="FIRST:STOP", help="only these images; other blocks are not decoded"
    )
    option(given, "--rows", "images that a network reads at a time (changes only memory)", 512)
    given.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package that the checkpoint may name",
    )
    options = given.parse_args(argv)
    if options.rows < 1:
        raise UserError(f"--rows: must be 1 or more, got {options.rows}")
    if options.only is not None:
        match = re.fullmatch(r"(\d{1,18}):(\d{1,18})", options.only)
        if not match or int(match[1]) >= int(match[2]):
            raise UserError(f"--only: '{options.only}' is not FIRST:STOP, such as 0:100")
        options.only = slice(int(match[1]), int(match[2]))
    return options


if __name__ == "__main__":
    main()
