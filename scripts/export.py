"""Export a trained encoder as files that run without this project.

    twobounds export runs/simclr_sprites -o exported
    twobounds export runs/simclr_sprites -o exported --hub --program --onnx
    twobounds export runs/simclr_sprites --embeddings features.npz
    twobounds export runs/simclr_sprites/best.ckpt --embeddings features.parquet data.root=/data

The folder holds model.safetensors (timm's own keys), config.json (architecture, input size, mean,
deviation) and load.py, which imports only torch and timm. `twobounds probe` reads the folder, and
an .npz of embeddings, as it reads a checkpoint.
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.errors import UserError, exit_cleanly
from scripts.shared import option, switch

ENDINGS = (".npz", ".parquet")


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.run.folder import home_expanded
    from probes.origins import find

    for key in ("out", "embeddings"):
        if getattr(options, key) is not None:
            setattr(options, key, home_expanded(getattr(options, key), f"--{key}"))
    path = find(options.run, options.best)
    if options.out is not None:
        _refuse_other_folder(options.out)
        _write_network(path, options)
    if options.embeddings is not None:
        _write_embeddings(path, options)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    given = commands.parser("export", __doc__)
    given.add_argument("run", type=Path, metavar="RUN_OR_CKPT", help="a run folder or a checkpoint")
    given.add_argument(
        "overrides",
        nargs="*",
        metavar="data.KEY=VALUE",
        help="for --embeddings: keys of the data, if they differ from the checkpoint's",
    )
    about = "a folder for the files of the network"
    given.add_argument("-o", "--out", type=Path, metavar="FOLDER", help=about)
    switch(given, "--best", "export best.ckpt of a run folder, not last.ckpt")
    switch(given, "--hub", "also write a model card; timm then reads the folder as a hub model")
    switch(given, "--program", "also write model.pt2, a program of torch.export")
    switch(given, "--onnx", "also write model.onnx")
    option(given, "--embeddings", "features, labels and paths: .npz or .parquet", type=Path)
    option(given, "--device", "for --embeddings: cpu, cuda, cuda:1 …", "cpu")
    given.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package that the checkpoint may name",
    )
    options = given.parse_intermixed_args(argv)
    if options.out is None and (options.hub or options.onnx or options.program):
        raise UserError("--hub, --program, --onnx: they need -o FOLDER")
    if options.out is None and options.embeddings is None:
        raise UserError("say what to write: -o FOLDER for the network, or --embeddings FILE")
    if options.embeddings is not None and options.embeddings.suffix not in ENDINGS:
        raise UserError(f"--embeddings: {options.embeddings} should end in {' or '.join(ENDINGS)}")
    wrong = [word for word in options.overrides if not word.startswith("data.")]
    if wrong or (options.overrides and options.embeddings is None):
        word = (wrong or options.overrides)[0]
        raise UserError(f"'{word}': only data.* can be overridden, and only with --embeddings")
    return options


def _refuse_other_folder(folder: Path) -> None:
    """Raise `UserError` for a folder with other content than an earlier export."""
    from core.foreign import export

    if folder.is_dir() and any(folder.iterdir()) and not (folder / export.LOADER).is_file():
        raise UserError(f"--out: {folder} holds other files; name a new or an empty folder")


def _write_network(path: Path, options: argparse.Namespace) -> None:
    from core.foreign import export
    from core.run import checkpoint
    from core.run.folder import make_folder

    if options.onnx:
        export.require_onnx()
    found = checkpoint.load_method(path, trusted=options.trust)
    make_folder(options.out, "--out", "name another")
    try:
        content = export.files(found)
    except UserError:
        if not (options.program or options.onnx):
            raise
    else:
        for file in export.write(options.out, content):
            print(file)
        if options.hub:
            print(export.write_hub(options.out, found, content))
    if options.program:
        print(export.write_program(options.out / export.PROGRAM, found.method))
    if options.onnx:
        print(export.write_onnx(options.out / export.ONNX, found.method))


def _write_embeddings(path: Path, options: argparse.Namespace) -> None:
    from core.foreign import embeddings
    from core.frozen import Frozen
    from core.run.folder import make_folder
    from probes.session import usable_device
    from probes.views import geometry, information

    chosen = {"device": usable_device(options.device), "quiet": False}
    frozen = Frozen.load(path, options.overrides, tuple(options.trust), **chosen)
    make_folder(options.embeddings.parent, "--embeddings", "name another")
    if options.embeddings.suffix == ".npz":
        views = geometry.LIDAR_IMAGES, geometry.LIDAR_VIEWS
        print(embeddings.write_npz(options.embeddings, frozen, information.TRAIN_PAIRS, views))
    else:
        print(embeddings.write_parquet(options.embeddings, frozen))


if __name__ == "__main__":
    main()
