"""List the keys of a config: type, default and meaning.

    twobounds keys
    twobounds keys optim
    twobounds keys lr
    twobounds keys contrastive.moco.MoCo

Without a word, all keys are listed. A word names a section (optim), a part of keys (lr) or a method
(contrastive.moco.MoCo).
"""

import argparse
import sys
from pathlib import Path

if not __package__:  # run by its path: import from this checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core import commands
from core.errors import UserError, exit_cleanly, nearest
from scripts.shared import switch


@exit_cleanly
def main(argv: list[str] | None = None) -> None:
    options = arguments(argv)
    from core.console import plain_console
    from core.run import keys

    found = keys.sections()
    if options.word:
        found = _only(found, options.word)
    if options.markdown:
        print(keys.markdown(found), end="")
    else:
        plain_console().print("\n".join(keys.lines(found)).lstrip("\n"))


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = commands.parser("keys", __doc__)
    parser.add_argument("word", nargs="?", help="a section, a method, or a part of a key")
    switch(parser, "--markdown", "print the page docs/settings.md")
    return parser.parse_args(argv)


def _only(found: dict, word: str) -> dict:  # type: ignore[type-arg]
    """The sections of that name, or the keys that contain the word."""
    named = {s: keys for s, keys in found.items() if word in (s, *s.split(), *s.split("."))}
    if named:
        return named
    chosen = {s: [key for key in keys if word in key.name] for s, keys in found.items()}
    chosen = {section: keys for section, keys in chosen.items() if keys}
    if not chosen:
        names = {name for keys in found.values() for key in keys for name in (key.name,)}
        parts = {part for name in names for part in name.split(".")}
        raise UserError(f"keys: there is no key '{word}'{nearest(word, [*found, *parts])}")
    return chosen


if __name__ == "__main__":
    main()
