"""Call scripts/pretrain.py in this process, as a user would call it from a shell."""

import contextlib
import io
import signal
from pathlib import Path
from typing import NamedTuple

from scripts import pretrain

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = [
    "data.sprites.train=256",
    "data.sprites.validation=64",
    "data.sprites.test=64",
    "optim.batch_size=32",
    "optim.epochs=3",
    "trainer.save_every=5",
    "trainer.log_every=3",
    "trainer.validate_every=1",
    "trainer.accelerator=cpu",
    "wandb=disabled",
]


class Answer(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def is_one_line(self) -> bool:
        """Whether it is a correct refusal: exit code 2 and one line."""
        return self.code == 2 and self.out == "" and len(self.err.strip().splitlines()) == 1


def train(method: str, folder: Path, *more: str) -> Answer:
    """A small run of a sprites config by its command line; returns its exit code."""
    return call(str(CONFIGS / f"{method}_sprites.yaml"), f"folder={folder}", *SMALL, *more)


def call(*words: str) -> Answer:
    """Call main(words); returns exit code and output. Signal handlers are restored."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    out, err, code = io.StringIO(), io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            pretrain.main(list(words))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Answer(code, out.getvalue(), err.getvalue())
