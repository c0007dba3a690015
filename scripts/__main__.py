"""The command `twobounds`: `twobounds COMMAND ...` is `python scripts/COMMAND.py ...`."""

import sys
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import importlib
from importlib import metadata

import configs
from core.commands import through
from core.errors import UserError, exit_cleanly, nearest

COMMANDS = {  # the name of a script, with dashes -> what it does
    "pretrain": "train one method on one data set",
    "probe": "measure a checkpoint: labels, information, geometry, rate",
    "compare": "compare probed runs: a table and a picture",
    "report": "write one HTML page about probed runs",
    "sweep": "train, probe and compare every combination of some keys",
    "selection": "show which label-free number follows the accuracy of probed runs",
    "keys": "list the keys of a config, with their meaning",
    "export": "write a trained encoder as files for other programs",
    "compress": "compress images without loss with a trained VAE",
    "decompress": "restore the images of a compressed file",
    "demo": "train, probe and compare three methods on embedded data",
    "information": "bound the mutual information of any paired samples",
    "rate-distortion": "draw the rate-distortion curve of a VAE or of frozen features",
    "sprites-truth": "compare SimCLR's bound with log M for M contents",
    "captions-truth": "compare CLIP's bound with the truth for captions that tell much or little",
    "image-truth": "compare bounds on images with their known information",
    "collapse": "compare remedies against posterior collapse on MNIST",
    "examples": "print worked examples of the theory; the numbers are computed in the call",
    "calibrate": "compare the estimators with sources of known information",
    "bench": "time our code and other libraries",
    "gpu-check": "check results and times on a GPU",
    "scaling": "count the bytes that processes exchange in a step",
    "soak": "kill and resume a run, and compare it with an uninterrupted one",
}
LISTED = "list the packaged configs"
EXAMPLE = "pretrain simclr_sprites optim.epochs=2 folder=runs/mine"


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    """Run the command that the first word names, with the other words."""
    name, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    name = name.replace("_", "-") if name[:1] != "-" else name
    if name in ("-h", "--help", "help"):
        print(about())
    elif name == "--version":
        print(f"twobounds {version()}")
    elif name == "configs":
        list_configs(words)
    elif name in COMMANDS:
        importlib.import_module(f"scripts.{name.replace('-', '_')}").main(words)
    else:
        raise UserError(f"there is no command '{name}'{nearest(name, [*COMMANDS, 'configs'])}")


def about() -> str:
    """The text of `--help`: a line for each command, and an example."""
    front = through() or "twobounds"
    commands = (COMMANDS | {"configs": LISTED}).items()
    lines = "\n".join(f"  {name:<16} {line}" for name, line in commands)
    return f"""usage: {front} COMMAND ...

Train contrastive encoders and VAEs, and bound the information that they carry, in nats.

{lines}

{front} COMMAND --help explains a command. For example:

  {front} {EXAMPLE}
  {front} probe runs/mine"""


def list_configs(words: list[str]) -> None:
    """Print each packaged config: its name and the first line of its file."""
    if words and words[0] not in ("-h", "--help"):
        raise UserError(f"configs: takes no arguments, got '{words[0]}'")
    for name in configs.names():
        print(f"{name:<20} {configs.head(name)}")
    print(f"\nThe files are in {configs.CONFIGS}.")
    print(f"Any key can be set on the command line: {through() or 'twobounds'} {EXAMPLE}")


def version() -> str:
    try:
        return metadata.version("twobounds")
    except metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


if __name__ == "__main__":
    main()
